"""What an edge lacks of what a manifest names."""

from pathlib import Path

import pytest

from splittracr.data import needed
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.spec import ExperimentSpec

SPEC = ExperimentSpec.model_validate(
    {
        "model": {"name": "own_net_of_mine:Net", "source": "custom", "weightsFile": "w.pt"},
        "dataset": {"source": "Folder", "path": "pictures", "classNames": "names.txt"},
        "partition": {"mode": "ServerOnly"},
        "transport": {"link": {"trace": "bus.csv"}},
    },
    by_alias=True,
)


def test_everything_that_is_missing_is_in_one_message(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        needed.check(SPEC, tmp_path)
    assert str(caught.value) == (
        f"--base: got {str(tmp_path)!r}, expected the folder with what the manifest names. "
        "Missing: spec.model.weightsFile w.pt (no such file), "
        "spec.dataset.classNames names.txt (no such file), "
        "spec.transport.link.trace bus.csv (no such file), "
        "spec.dataset.path pictures (no such folder), "
        "spec.model.name own_net_of_mine:Net (no such module)"
    )


def test_the_small_model_of_a_cascade_is_needed(tmp_path: Path) -> None:
    model = {"name": "own_net_of_mine:Net", "source": "custom", "weightsFile": "small.pt"}
    cascade = {"model": model, "statistic": "Margin", "thresholdPerMillion": 1}
    partition = {"mode": "Cascade", "cut": 1, "cascade": cascade}
    sections = {"model": {"name": "alexnet"}, "partition": partition}
    spec = SPEC.model_validate(sections, by_alias=True)
    place = r"spec\.partition\.cascade\.model"
    expected = rf"Missing: {place}\.weightsFile small\.pt .*, {place}\.name own_net_of_mine:Net "
    with pytest.raises(InvalidInput, match=expected):
        needed.check(spec, tmp_path)


@pytest.mark.parametrize(("exits", "missing"), [("exits.safetensors", True), ("Declared", False)])
def test_the_exits_of_a_cascade_are_needed(exits: str, missing: bool, tmp_path: Path) -> None:
    cascade = {"exits": exits, "statistic": "Margin", "thresholdPerMillion": 1}
    partition = {"mode": "Cascade", "cut": 1, "cascade": cascade}
    sections = {"model": {"name": "alexnet"}, "partition": partition}
    spec = SPEC.model_validate(sections, by_alias=True)
    if not missing:
        needed.check(spec, tmp_path)
        return
    with pytest.raises(InvalidInput, match=r"Missing: spec\.partition\.cascade\.exits exits\."):
        needed.check(spec, tmp_path)


def test_the_file_of_accuracies_is_needed(tmp_path: Path) -> None:
    adaptive = {"accuracyPercent": 99, "accuracyFile": "rate.json"}
    partition = {"mode": "Adaptive", "adaptive": adaptive}
    sections = {"model": {"name": "alexnet"}, "partition": partition}
    spec = SPEC.model_validate(sections, by_alias=True)
    with pytest.raises(InvalidInput, match=r"adaptive\.accuracyFile rate\.json \(no such file\)"):
        needed.check(spec, tmp_path)
    (tmp_path / "rate.json").touch()
    needed.check(spec, tmp_path)


def test_nothing_is_said_when_all_is_there(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for name in ("w.pt", "names.txt", "bus.csv", "own_net_of_mine.py"):
        (tmp_path / name).touch()
    needed.check(SPEC, tmp_path)


def test_a_module_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "explosive_data.py").write_text("raise SystemExit")
    dataset = {"source": "Class", "class": "explosive_data:Data"}
    update = SPEC.model_validate(
        {"model": {"name": "alexnet"}, "partition": {"mode": "ServerOnly"}, "dataset": dataset},
        by_alias=True,
    )
    needed.check(update, tmp_path)


def test_a_folder_of_transformers_is_needed(tmp_path: Path) -> None:
    spec = SPEC.model_validate(
        {"model": {"name": "transformers/my-vit"}, "partition": {"mode": "ServerOnly"}},
        by_alias=True,
    )
    with pytest.raises(InvalidInput, match=r"Missing: spec\.model\.name my-vit \(no such folder\)"):
        needed.check(spec, tmp_path)
    (tmp_path / "my-vit").mkdir()
    needed.check(spec, tmp_path)
