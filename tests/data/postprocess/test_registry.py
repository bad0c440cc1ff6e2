"""Finding a post-processor: built in, registered, of another package, by path; and mistakes."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import splittracr.data
from splittracr.data.contracts import Geometry, Reduced
from splittracr.data.postprocess import create, register, registry
from splittracr.data.postprocess.classification import Classification
from splittracr.experiment.errors import InvalidInput, SplittracrError
from splittracr.experiment.spec import PostprocessSpec

SPEC = PostprocessSpec()
BUILT_IN = (
    "classification",
    "raw",
    "semantic-segmentation",
    "torchvision-detection",
    "ultralytics-classify",
    "ultralytics-detect",
    "ultralytics-obb",
    "ultralytics-pose",
    "ultralytics-segment",
)


class Mean(Classification):
    """A user's own: the mean of the output."""

    def reduce(self, output: Any) -> list[Reduced]:
        return [{"mean": one.mean()[None]} for one in output]

    def describe(self, reduced: Reduced, geometry: Geometry) -> Any:
        return float(reduced["mean"])


class Half:
    """A class that lacks most of the contract."""

    def __init__(self, spec: PostprocessSpec, classes: tuple[str, ...]) -> None: ...

    def reduce(self, output: Any) -> list[Reduced]:
        return []


def failing(spec: PostprocessSpec, classes: tuple[str, ...]) -> Classification:
    raise LookupError("no such table")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> str:
    """A name under which this module can be imported."""
    monkeypatch.setitem(sys.modules, "users_module", sys.modules[Mean.__module__])
    return "users_module"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: str) -> None:
    """An installed distribution with one sound and two broken entry points."""
    info = tmp_path / "users_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: users-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[splittracr.postprocessors]\n"
        f"mean-of-package = {here}:Mean\n"
        "gone = no_such_module:Mean\n"
        f"renamed = {here}:Median\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in(name: str) -> None:
    if name.startswith("ultralytics-") and name != "ultralytics-classify":
        pytest.importorskip("ultralytics")
    made = create(name, SPEC, ("a", "b"))
    assert all(hasattr(made, method) for method in ("reduce", "describe", "draw", "ranking"))


def test_built_in_names_are_all_listed() -> None:
    assert set(registry.names()) >= set(BUILT_IN)


def test_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})
    assert register("mean")(Mean) is Mean
    made = create("mean", SPEC, ())
    reduced = made.reduce(torch.tensor([[1.0, 3.0]]))[0]
    assert made.describe(reduced, Geometry((1, 1), (1, 1))) == 2.0
    assert "mean" in registry.names()


@pytest.mark.parametrize("made", [[{}, {"a": torch.zeros(1)}], ({}, {})])
def test_one_mapping_a_picture_is_reduced(made: Any) -> None:
    registry.check_reduced("m:Post", made, 2)


@pytest.mark.parametrize(
    ("made", "got"),
    [
        ({"a": torch.zeros(2), "b": torch.zeros(2)}, "a dict"),
        (None, "a NoneType"),
        (torch.zeros(2), "a Tensor"),
        ([{}], "a list of 1 for a batch of 2"),
        ([{}, {}, {}], "a list of 3 for a batch of 2"),
        ([{}, torch.zeros(2)], "a list with a Tensor"),
        ((("a", 1), {}), "a tuple with a tuple"),
    ],
)
def test_something_else_is_named(made: Any, got: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        registry.check_reduced("m:Post", made, 2)
    assert (caught.value.field, caught.value.value) == ("spec.postprocess.name", "m:Post")
    expected = f"reduce: got {got}, expected a list with one mapping a picture"
    assert caught.value.expected == f"a post-processor ({expected})"


@pytest.mark.parametrize("name", ["raw", "module:Class"])
def test_name_that_cannot_be_registered(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be registered"):
        register(name)


def test_by_path(here: str) -> None:
    assert isinstance(create(f"{here}:Mean", SPEC, ("a",)), Mean)


@pytest.mark.usefixtures("package")
def test_entry_point() -> None:
    assert isinstance(create("mean-of-package", SPEC, ()), Mean)
    assert "mean-of-package" in registry.names()


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gone", "gone = no_such_module:Mean failed: ModuleNotFoundError"),
        ("renamed", "renamed = users_module:Median failed: AttributeError"),
        ("clasification", "one of: classification"),
        ("users_module:Median", "tests/data/postprocess/test_registry.py has"),
        ("no_such_module:Mean", "a module that can be imported (ModuleNotFoundError"),
        ("users_module:", "package.module:Class"),
        ("users_module:Half", "a post-processor that has describe, draw, ranking"),
        ("users_module:failing", "(LookupError: no such table)"),
        ("users_module:SPEC", "(TypeError: "),
    ],
)
def test_mistake_is_told(name: str, expected: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        create(name, SPEC, ())
    assert (caught.value.field, caught.value.value) == ("spec.postprocess.name", name)
    assert expected in caught.value.expected


@pytest.mark.usefixtures("package")
def test_broken_entry_point_harms_no_other() -> None:
    assert isinstance(create("classification", SPEC, ()), Classification)


def test_ultralytics_is_imported_where_its_networks_are_asked_for_and_nowhere_else() -> None:
    folder = Path(splittracr.data.__file__).parent
    users = {f.name for f in folder.rglob("*.py") if 'import_ultralytics("' in f.read_text()}
    assert users == {"yolo.py"}


def test_missing_extra_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [m for m in sys.modules if m.split(".")[0] == "ultralytics"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delitem(sys.modules, "splittracr.data.postprocess.yolo", raising=False)
    monkeypatch.setitem(sys.modules, "ultralytics", None)  # an import of it fails
    with pytest.raises(SplittracrError, match=r"optional extra splittracr\[ultralytics\]"):
        create("ultralytics-detect", SPEC, ())
