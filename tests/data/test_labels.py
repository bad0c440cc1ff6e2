"""Names of labels become classes of the network by one rule, or are refused."""

import re
import unicodedata
from pathlib import Path
from typing import Literal

import pytest
from PIL import Image
from torchvision.datasets.imagenette import Imagenette
from torchvision.models import AlexNet_Weights

from splittracr.data.datasets import Folder, open_dataset
from splittracr.data.labels import Matching, match
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.spec import DatasetSource, DatasetSpec

IMAGENET = tuple(AlexNet_Weights.DEFAULT.meta["categories"])
OLDER = tuple("crane" if name == "crane bird" else name for name in IMAGENET)
SHAPES = ("square", "circle", "triangle")


def test_names_of_the_network_in_any_order() -> None:
    found = match(["circle", "square"], SHAPES, folders=True)
    assert found.classes == (1, 0)
    assert found.rule == "Labels: 2 classes matched with the model's, 2 by class name."


@pytest.mark.parametrize("known", [IMAGENET, ()])
def test_integers_are_class_indices_not_positions(known: tuple[str, ...]) -> None:
    names = sorted(map(str, range(12)))
    assert names[2] == "10"
    found = match(names, known, 1000, folders=True)
    assert found.classes == tuple(map(int, names))
    assert found.rule == "Labels: 12 classes matched with the model's, 12 by class index."


def test_integers_may_have_zeros_in_front_and_gaps() -> None:
    assert match(["0007", "0120", "0999"], IMAGENET, folders=True).classes == (7, 120, 999)


def test_a_networks_own_numbers_are_names() -> None:
    assert match(["1", "3"], ("1", "2", "3"), folders=True).classes == (0, 2)


def test_ids_are_those_of_imagenet() -> None:
    """Against the ten classes that torchvision knows by id and by name."""
    pairs = {wnid: names[0] for wnid, names in Imagenette._WNID_TO_CLASS.items()}
    found = match(sorted(pairs), IMAGENET, folders=True)
    assert found.classes == tuple(IMAGENET.index(pairs[wnid]) for wnid in sorted(pairs))
    assert found.rule is not None
    assert "10 by ImageNet id" in found.rule


def test_ids_at_the_ends_and_of_the_classes_that_share_a_name() -> None:
    ids = ["n01440764", "n02012849", "n03126707", "n15075141"]
    places = match(ids, IMAGENET, folders=True).classes
    assert places == (0, 134, 517, 999)
    assert (IMAGENET[134], IMAGENET[517]) == ("crane bird", "crane")


def test_torchvisions_names_of_both_cranes_are_not_ambiguous() -> None:
    assert match(["crane", "crane bird"], IMAGENET, folders=True).classes == (517, 134)
    assert match(["crane"], ("crane", "digger"), folders=True).classes == (0,)


def test_ids_that_the_network_has_as_names() -> None:
    known = ("n15075141", "n01440764")
    assert match(["n01440764"], known, folders=True).classes == (1,)


def test_each_name_is_resolved_by_itself() -> None:
    found = match(["134", "n03126707", "tench"], IMAGENET, folders=True)
    assert found.classes == (134, 517, 0)
    assert found.rule is not None
    assert "1 by class index, 1 by ImageNet id, 1 by class name" in found.rule


@pytest.mark.parametrize(
    ("names", "known", "value", "expected"),
    [
        (["crane"], IMAGENET, "crane", "classes 134 and 517 have this name; name it by"),
        (["crane"], OLDER, "crane", "classes 134 and 517 have this name; name it by"),
        (["crane"], ("x", "crane", "crane"), "crane", "classes 1 and 2 have this name"),
        (["maillot", "tench"], IMAGENET, "maillot", "classes 638 and 639 have"),
        (["a", "b"], ("a", "b", "a"), "a", "classes 0 and 2 have this name"),
        (["tench", "0"], IMAGENET, "0", "one name a class: 'tench' is class 0 too"),
        (["1", "01"], IMAGENET, "01", "one name a class: '1' is class 1 too"),
        (["n01440764", "tench"], IMAGENET, "tench", "one name a class: 'n01440764' is class 0"),
        (["1", "2", "3"], SHAPES, "3", "a class index from 0 to 2"),
        (["circle", "sqare", "triangle"], SHAPES, "sqare", "of the model (square"),
        (["tench", "Egyptian_cat"], IMAGENET, "Egyptian_cat", "(Egyptian cat"),
        (["apple", "pear", "plum"], SHAPES, "apple", "or a class index from 0 to 2"),
        (["n01440764"], SHAPES, "n01440764", "a class name of the model or a class index"),
        (["n00000000"], IMAGENET, "n00000000", "an ImageNet id such as n01440764"),
        (["apple", "pear"], (), "apple", "3 names, one for each output of the model, not 2"),
        (["0", "pear", "plum"], (), "pear", "a class index from 0 to 2"),
        (["-1"], IMAGENET, "-1", "a class index from 0 to 999"),
    ],
)
def test_what_is_ambiguous_or_unknown_is_refused(
    names: list[str], known: tuple[str, ...], value: str, expected: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        match(names, known, 3, folders=True)
    assert (caught.value.field, caught.value.value) == ("spec.dataset.path", value)
    assert expected in caught.value.expected


def test_folders_of_a_network_without_names_count_in_alphabetical_order() -> None:
    found = match(["apple", "pear", "plum"], (), 3, folders=True)
    assert found.classes is None
    assert found.rule == (
        "Labels: matched by position in alphabetical order, since the model has no class names: "
        "'apple' is class 0 … 'plum' is class 2."
    )


def test_the_order_of_a_class_of_ones_own_counts_if_it_has_as_many() -> None:
    found = match(["plane", "car", "bird"], SHAPES, folders=False)
    assert found.classes is None
    assert found.rule is not None
    assert "by position in the order of the data set" in found.rule
    assert "'plane' is class 0 'square' … 'bird' is class 2 'triangle'" in found.rule
    with pytest.raises(InvalidInput, match=r"spec\.dataset\.class: got 'plane'"):
        match(["plane", "car"], SHAPES, folders=False)


def test_the_networks_own_list_is_no_ambiguity() -> None:
    assert match(IMAGENET, IMAGENET, folders=False).classes is None


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_an_accent_may_be_one_character_or_two(form: Literal["NFC", "NFD"]) -> None:
    known = (unicodedata.normalize("NFC", "café"), "bar")
    names = ["bar", unicodedata.normalize(form, "café")]
    assert match(names, known, folders=True).classes == (1, 0)


@pytest.mark.parametrize("name", ["Apple", "apple ", " apple", "apple\u200b"])
def test_a_name_that_is_nearly_a_class_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="a class name of the model"):
        match([name, "pear"], ("apple", "pear"), folders=True)


def test_without_names_there_is_nothing_to_match() -> None:
    assert match(None, SHAPES, folders=False) == Matching(None, None)


def labelled(root: Path, *pictures: str) -> Folder:
    for picture in pictures:
        (root / picture).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(root / picture)
    spec = DatasetSpec(source=DatasetSource.LABELLED_FOLDER, path=".")
    made = open_dataset(spec, root)
    assert isinstance(made, Folder)
    return made


def test_folders_without_pictures_are_left_out_and_counted(tmp_path: Path) -> None:
    for empty in ("__MACOSX/apple", ".git/objects", "aaa", "texts"):
        (tmp_path / empty).mkdir(parents=True)
    (tmp_path / "texts" / "a.txt").write_text("text")
    (tmp_path / "__MACOSX" / "apple" / "._1.png").write_bytes(b"junk")
    made = labelled(tmp_path, "pear/1.png", "apple/1.png", "__MACOSX/2.png", "3.png", ".x/4.png")
    assert made.classes == ("apple", "pear")
    assert [(made.name(i), made.load(i).label) for i in range(len(made))] == [
        ("apple/1.png", 0),
        ("pear/1.png", 1),
    ]
    assert made.left_out == (
        "Left out: 5 folders without pictures (.git, .x, __MACOSX, …) and 1 picture in no class "
        "folder. Skipped 1 file: 1 .txt."
    )


def test_if_nothing_is_left_out_nothing_is_said(tmp_path: Path) -> None:
    assert labelled(tmp_path, "pear/1.png", "apple/deep/1.png").left_out is None


def test_the_list_of_ids_is_whole() -> None:
    ids = Path(__file__).parents[2] / "workers" / "splittracr" / "data" / "wnids.txt"
    listed = ids.read_text().split()
    assert (len(listed), sorted(set(listed))) == (1000, listed)
    assert all(re.fullmatch(r"n\d{8}", one) for one in listed)


def test_names_without_an_order_never_match_by_position() -> None:
    assert match(["a", "b"], (), 2, folders=False).classes is None
    with pytest.raises(InvalidInput, match=r"where: got 'a', expected a class index from 0 to 1$"):
        match(["a", "b"], (), 2, folders=False, field="where", ordered=False)
