import io
import random
import tarfile
from pathlib import Path

import pytest

from splittracr.experiment.errors import InvalidInput
from splittracr.results.archive import pack, unpack


def test_there_and_back(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "pictures").mkdir(parents=True)
    (here / "records.jsonl").write_text("x\n" * 1000)
    (here / "pictures" / "ä.jpg").write_bytes(b"\xff\x00")
    archive = pack(here)
    assert len(archive) < 1000
    unpack(archive, there)
    for path in here.rglob("*"):
        if path.is_file():
            assert (there / path.relative_to(here)).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../out", tarfile.REGTYPE),
        ("/tmp/out", tarfile.REGTYPE),
        ("a/../../out", tarfile.REGTYPE),
        ("link", tarfile.SYMTYPE),
        ("device", tarfile.CHRTYPE),
    ],
)
def test_nothing_lands_elsewhere(tmp_path: Path, name: str, kind: bytes) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    with pytest.raises(InvalidInput, match="files below its own folder only"):
        unpack(buffer.getvalue(), tmp_path / "in")
    assert not list((tmp_path / "in").iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_all_of_it_or_nothing(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    for name in ("a", "b"):
        (here / name).write_bytes(random.Random(name).randbytes(60_000))
    archive = pack(here)
    with pytest.raises(InvalidInput, match="at most 100000 bytes in all"):
        unpack(archive, there, max_bytes=100_000)
    with pytest.raises((EOFError, tarfile.ReadError)):
        unpack(archive[: len(archive) * 3 // 4], there)
    assert not list(there.iterdir())
    (there / ".unpacking" / "pictures").mkdir(parents=True)  # left behind by one that was killed
    unpack(archive, there, max_bytes=120_000)
    assert sorted(path.name for path in there.iterdir()) == ["a", "b"]
