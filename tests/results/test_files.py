from pathlib import Path

import pytest

from splittracr.results.files import write_atomically


def test_the_old_file_stays_until_the_new_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "deep" / "file"
    write_atomically(path, b"old")

    def cut_off(*_: object) -> None:
        raise OSError("power cut")

    monkeypatch.setattr("os.fsync", cut_off)
    with pytest.raises(OSError, match="power cut"):
        write_atomically(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]
