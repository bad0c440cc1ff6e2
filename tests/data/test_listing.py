"""Files in a folder on a real file system: which are pictures, which are skipped, what links do."""

import os
from pathlib import Path

import pytest

from splittracr.data.datasets import Folder, open_dataset
from splittracr.data.listing import in_words
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.spec import DatasetSource, DatasetSpec
from tests.data.test_datasets import save


def opened(root: Path, source: DatasetSource = DatasetSource.FOLDER) -> Folder:
    made = open_dataset(DatasetSpec(source=source, path="."), root)
    assert isinstance(made, Folder)
    return made


def test_links_to_files_and_folders_are_followed(tmp_path: Path) -> None:
    root, store = tmp_path / "root", tmp_path / "store"
    save(store / "deep" / "a.png")
    save(store / "b.png")
    save(root / "own.png")
    (root / "linked").symlink_to(store / "deep")
    (root / "file.png").symlink_to(store / "b.png")
    made = opened(root)
    assert made.files == ("file.png", "linked/a.png", "own.png")
    assert made.left_out is None
    assert all(made.load(i).picture is not None for i in range(3))


def test_cycles_of_links_end(tmp_path: Path) -> None:
    save(tmp_path / "x" / "a.png")
    save(tmp_path / "y" / "b.png")
    for name in ("x", "y"):
        (tmp_path / name / "up").symlink_to(tmp_path)
        (tmp_path / name / "self").symlink_to(tmp_path / name)
        (tmp_path / name / "other").symlink_to(tmp_path / ("y" if name == "x" else "x"))
    (tmp_path / "loop").symlink_to("loop")
    assert opened(tmp_path).files == ("x/a.png", "y/b.png")


def test_a_folder_counts_once_under_its_own_name(tmp_path: Path) -> None:
    save(tmp_path / "v2" / "a.png")
    (tmp_path / "latest").symlink_to("v2")
    assert opened(tmp_path).files == ("v2/a.png",)


def test_links_inside_class_folders_are_followed(tmp_path: Path) -> None:
    root = tmp_path / "root"
    save(tmp_path / "store" / "more" / "a.png")
    save(root / "cat" / "b.png")
    (root / "cat" / "more").symlink_to(tmp_path / "store" / "more")
    (root / "dog").symlink_to(tmp_path / "store")
    made = opened(root, DatasetSource.LABELLED_FOLDER)
    assert made.files == ("cat/b.png", "cat/more/a.png", "dog/more/a.png")
    assert made.labels == (0, 0, 1)


def test_two_class_folders_that_are_one_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "tabby" / "a.png")
    (tmp_path / "cat").symlink_to("tabby")
    with pytest.raises(InvalidInput, match="cat and tabby are the same folder"):
        opened(tmp_path, DatasetSource.LABELLED_FOLDER)


def test_a_link_to_nothing_with_a_picture_s_name_fails_by_name(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to("fetched-later.png")
    (tmp_path / "c").symlink_to("nowhere")
    made = opened(tmp_path)
    assert made.files == ("a.png", "b.png")
    assert made.left_out == "Skipped 1 file: 1 behind a broken link."


def test_pipes_are_skipped_without_opening_them(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    os.mkfifo(tmp_path / "b.png")
    made = opened(tmp_path)
    assert made.files == ("a.png",)
    assert made.left_out == "Skipped 1 file: 1 not regular (pipe or device)."


def test_a_subfolder_that_cannot_be_read_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "a.png")
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refusing(path: Path) -> object:  # root may read everything
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(InvalidInput, match=r"Permission denied \(.*closed\)"):
        opened(tmp_path)


def test_skipped_files_are_counted_by_extension(tmp_path: Path) -> None:
    save(tmp_path / "cat" / "a.png")
    save(tmp_path / "dog" / "b.png")
    for i in range(10):
        (tmp_path / "cat" / f"{i}.HEIC").write_bytes(b"")
    for i in range(2):
        (tmp_path / "dog" / f"{i}.mp4").write_bytes(b"")
    (tmp_path / "dog" / ".DS_Store").write_bytes(b"")
    said = opened(tmp_path, DatasetSource.LABELLED_FOLDER).left_out
    assert said is not None
    assert said.startswith("Skipped 12 files: 10 .heic, 2 .mp4. Pillow does not read HEIC:")
    assert "pillow-heif" in said


def test_a_folder_without_pictures_names_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.heic").write_bytes(b"")
    for source in (DatasetSource.FOLDER, DatasetSource.LABELLED_FOLDER):
        with pytest.raises(InvalidInput, match=r"Skipped 1 file: 1 \.heic.*pillow-heif"):
            opened(tmp_path, source)


def test_few_kinds_are_named() -> None:
    assert in_words({}) is None
    counts = {f".{letter}": number for number, letter in enumerate("abcdefg", start=1)}
    expected = "Skipped 28 files: 7 .g, 6 .f, 5 .e, 4 .d, 3 .c, 3 others."
    assert in_words(counts) == expected


def test_avif_that_this_pillow_lacks_is_explained() -> None:
    said = in_words({".avif": 3})
    assert (
        said
        == "Skipped 3 files: 3 .avif. This Pillow was built without AVIF: a newer one reads it."
    )
