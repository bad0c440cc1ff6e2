import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from splittracr.experiment.errors import of_system
from splittracr.results.files import write_atomically


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """No file gets longer than `size` bytes, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with files_end_at(10), pytest.raises(OSError, match="File too large") as caught:
        write_atomically(path, bytes(11))
    assert of_system(caught.value) == f"File too large ({path})"
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (b"old", [path])


def test_an_error_without_a_file_is_its_reason() -> None:
    assert of_system(OSError(28, "No space left on device")) == "No space left on device"
    assert of_system(OSError("broken")) == "broken"
    assert of_system(TimeoutError()) == "TimeoutError"


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
