"""`splittracr convert` as a user runs it, from tracr's files to a finished study."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from PIL import Image

from splittracr.experiment import manifest
from splittracr.results import journal
from tests.cli.processes import files_below, splittracr
from tests.convert.tracr_files import FOLDER

CLASSES = 1000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkout of tracr, with its configurations and pictures."""
    root = tmp_path / "tracr"
    shutil.copytree(FOLDER, root / "config")
    for folder in ("imagenet/sample_images", "onion/testing"):
        (root / "data" / folder).mkdir(parents=True)
        for i in range(2):
            colour = (100 * i, 60, 200)
            Image.new("RGB", (80, 60), colour).save(root / "data" / folder / f"{i}.png")
    names = "".join(f"class {i}\n" for i in range(CLASSES))
    (root / "data" / "imagenet" / "imagenet_classes.txt").write_text(names)
    return root


def sets(*assignments: str) -> Sequence[str]:
    """The assignments as options."""
    return [part for one in assignments for part in ("--set", one)]


def test_a_converted_study_runs_to_its_end(folder: Path) -> None:
    done = splittracr("convert", "config/alexnetsplit.yaml", cwd=folder)
    assert done.code == 0, done.err
    assert "model.split_layer: 12 -> spec.partition.layer: 12" in done.out
    assert done.out.endswith("wrote alexnetsplit-study.yaml\n")
    done = splittracr(
        "run",
        "alexnetsplit-study.yaml",
        "--weights",
        "none",
        "--out",
        "out",
        cwd=folder,
        timeout=110,
    )
    assert done.code == 0, done.err + done.out
    records = journal.read(folder / "out" / "records.jsonl")
    assert [record.cut for record in records] == ["features.12"] * 2
    assert {record.outcome for record in records} == {"ok"}
    assert {record.codec for record in records} == {"raw+blosc2-zstd-3-shuffle"}
    assert not [name for name in files_below(folder / "out") if name.startswith("pictures/")]


def test_a_sweep_with_listed_class_names_runs_from_another_folder(folder: Path) -> None:
    config = yaml.safe_load((folder / "config" / "yolov8split.yaml").read_text())
    config["model"] |= {"model_name": "yolov8n", "split_layer": -1}
    (folder / "config" / "mine.yaml").write_text(yaml.safe_dump(config))
    (folder.parent / "studies").mkdir()
    target = "studies/onions.yaml"
    done = splittracr("convert", "tracr/config/mine.yaml", "-o", target, cwd=folder.parent)
    assert done.code == 0, done.err
    assert (folder.parent / "studies" / "onions-classes.txt").read_text() == (
        "with_weeds\nwithout_weeds\n"
    )
    study = manifest.parse((folder.parent / target).read_text())
    assert study.spec.partition.max_cuts == 4096
    assert study.spec.dataset.path == "../tracr/data/onion/testing"
    options = sets("spec.partition.maxCuts=2", "spec.model.inputSize=[64,64]")
    done = splittracr(
        "run", target, "--weights", "none", "--out", "out", *options, cwd=folder.parent
    )
    assert done.code == 0, done.err + done.out
    cuts = {record.cut for record in journal.read(folder.parent / "out" / "records.jsonl")}
    assert cuts == {"input", "output"}


def test_standard_output_has_the_manifest_alone(folder: Path) -> None:
    command = ("config/resnetsplit.yaml", "--devices", "config/devices_config.yaml")
    done = splittracr("convert", *command, "-o", "-", cwd=folder)
    assert done.code == 0
    assert manifest.parse(done.out).spec.server.port == 12345
    assert done.out.startswith("# Made by `splittracr convert config/resnetsplit.yaml --devices")
    assert done.err.startswith("Carried over:")
    listed = [line.removeprefix("# ") for line in done.out.splitlines() if line.startswith("# ")]
    assert listed[1:] == done.err.splitlines()
    assert not (folder / "resnetsplit-study.yaml").exists()


@pytest.mark.parametrize("command", ["run", "plan", "cuts", "edge", "server"])
def test_other_commands_say_what_a_file_of_tracr_is(command: str, folder: Path) -> None:
    file = "config/alexnetsplit.yaml"
    options = {"edge": ["--out", "out"]}.get(command, [])
    done = splittracr(command, file, *options, cwd=folder)
    assert done.code == 2
    said = " ".join(done.err.split())
    assert "this is a configuration of SplitTracr (tracr)" in said
    assert f"`splittracr convert {file}`" in said
    done = splittracr(command, "config/devices_config.yaml", *options, cwd=folder)
    assert done.code == 2
    assert "convert CONFIG --devices config/devices_config.yaml" in " ".join(done.err.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["config/none.yaml"], "CONFIG: got 'config/none.yaml', expected a readable config"),
        (["config/devices_config.yaml"], "this is a devices file: CONFIG --devices"),
        (
            ["manifest.yaml"],
            "a configuration of SplitTracr (tracr), not a SplitExperiment",
        ),
        (["config/vggsplit.yaml", "--devices", "nowhere"], "--devices: got 'nowhere', expected"),
        (["config/vggsplit.yaml", "-o", "config/vggsplit.yaml"], "expected another file than"),
        (["config/vggsplit.yaml", "-o", "no/where.yaml"], "a file to write (No such file"),
        (["config/yolov8split.yaml", "-o", "-"], "--out: got '-', expected a file: the class"),
        (["bad.yaml"], "bad.yaml: model.split_layer: got 'five', expected an integer from -1"),
        (["broken.yaml"], "broken.yaml: got"),
    ],
)
def test_bad_input(arguments: list[str], message: str, folder: Path) -> None:
    (folder / "manifest.yaml").write_text("kind: SplitExperiment\n")
    (folder / "bad.yaml").write_text("model: {model_name: alexnet, split_layer: five}\n")
    (folder / "broken.yaml").write_text("model: {model_name: [\n")
    done = splittracr("convert", *arguments, cwd=folder)
    assert done.code == 2
    assert message in " ".join(done.err.split())


def test_a_file_that_is_there_is_not_overwritten_unless_it_is_named(folder: Path) -> None:
    (folder / "vggsplit-study.yaml").write_text("mine\n")
    done = splittracr("convert", "config/vggsplit.yaml", cwd=folder)
    assert done.code == 2
    assert "got 'vggsplit-study.yaml', expected a file that does not exist" in " ".join(
        done.err.split()
    )
    assert (folder / "vggsplit-study.yaml").read_text() == "mine\n"
    named = ("convert", "config/vggsplit.yaml", "-o", "vggsplit-study.yaml")
    assert splittracr(*named, cwd=folder).code == 0
    assert manifest.parse((folder / "vggsplit-study.yaml").read_text()).metadata.name == "vggsplit"


@pytest.mark.parametrize(
    ("text", "got"), [("", "an empty file"), ("# x\n", "only comments and empty documents")]
)
def test_an_empty_file_is_named_as_such(tmp_path: Path, text: str, got: str) -> None:
    (tmp_path / "empty.yaml").write_text(text)
    (tmp_path / "model.yaml").write_text("model: {model_name: alexnet}\n")
    done = splittracr("convert", "empty.yaml", cwd=tmp_path)
    assert (done.code, f"empty.yaml: got '{got}', expected" in done.err) == (2, True)
    done = splittracr("convert", "model.yaml", "--devices", "empty.yaml", cwd=tmp_path)
    assert (done.code, f"empty.yaml: got '{got}', expected" in done.err) == (2, True)
