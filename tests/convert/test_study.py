"""Configurations of tracr as studies."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splittracr.convert import document
from splittracr.convert.notes import Fate
from splittracr.convert.rules import HAVE_IMAGENET_V1, IMAGENET_V1, SECTIONS
from splittracr.convert.study import is_configuration, is_devices, study_name
from splittracr.experiment import manifest
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.spec import LayerRef, Mode
from tests.convert.tracr_files import DEVICES, NAMES, converted, data, fates, spec

GOLDEN = Path(__file__).parent / "golden"
PAGE = Path(__file__).parents[2] / "docs" / "from-splittracr.md"
ALEXNET = data("alexnetsplit")


def changed(**sections: Any) -> Any:
    """AlexNet's configuration with other values; a section that is None is missing."""
    made = copy.deepcopy(ALEXNET)
    for section, values in sections.items():
        if values is None:
            del made[section]
        else:
            made[section] |= values
    return made


def test_there_are_nine() -> None:
    assert len(NAMES) == 9


@pytest.mark.parametrize("name", NAMES)
def test_whole_manifests(name: str) -> None:
    """The expected manifests are files: read them to see what becomes of each key."""
    found = converted(data(name), data(DEVICES.stem), name)
    text = document.text(found, f"splittracr convert {name}.yaml", f"{name}.yaml")
    assert text == (GOLDEN / f"{name}.yaml").read_text("utf-8")
    assert manifest.parse(text) == manifest.from_object(found.manifest)


@pytest.mark.parametrize(
    ("name", "mode", "layer"),
    [
        ("alexnetsplit", Mode.STATIC, LayerRef(12, 2)),
        ("fasterrcnnsplit", Mode.SWEEP, None),
        ("yolov8split", Mode.STATIC, LayerRef(3, 2)),
    ],
)
def test_a_layer_is_a_cut_and_minus_one_is_all_cuts(
    name: str, mode: Mode, layer: LayerRef | None
) -> None:
    partition = manifest.from_object(converted(data(name)).manifest).spec.partition
    assert (partition.mode, partition.static_cut) == (mode, layer)
    assert layer is not None or partition.max_cuts == 4096


def values_of(section: str, key: str) -> st.SearchStrategy[Any]:
    """Values that a key takes, and null."""
    plain = st.one_of(
        st.booleans(),
        st.integers(-1, 5),
        st.floats(0, 1),
        st.sampled_from(
            ["cuda", "cpu", "auto", "local", "eval", "train", "INFO", "ZSTD", "LZ4", "DELTA"]
        ),
        st.sampled_from(["SHUFFLE", "NOFILTER", "resnet18", "data/x", "data/x/y", "imagenet"]),
        st.just([3, 64, 64]),
        st.lists(st.sampled_from(["a", "b", "c"]), max_size=3),
        st.just({"root": "data", "n": 1.5}),
    )
    check = SECTIONS[section][key].check
    return st.none() | plain.filter(lambda value: check(value) is None)


def sections() -> st.SearchStrategy[dict[str, Any]]:
    """Configurations with any of the keys."""
    drawn = {
        section: st.none()
        | st.fixed_dictionaries({}, optional={key: values_of(section, key) for key in keys})
        for section, keys in SECTIONS.items()
        if section != "model"
    }
    model = {key: values_of("model", key) for key in SECTIONS["model"] if "name" not in key}
    network = st.sampled_from(["AlexNet", "yolov8s", "mine"])
    return st.fixed_dictionaries(
        {"model": st.fixed_dictionaries({"model_name": network}, optional=model)}, optional=drawn
    )


@given(sections())
def test_every_key_has_one_fate_and_the_manifest_is_valid(config: dict[str, Any]) -> None:
    found = converted(config)
    keys = [f"{section}.{key}" for section in config for key in config[section] or {}]
    noted = [note for note in found.notes if note.outcome.fate is not Fate.ADDED]
    assert sorted(note.key for note in noted) == sorted(keys)
    added = {note.key for note in found.notes} - set(keys)
    assert added <= {"model.split_layer", "model.pretrained", "compression", "dataset.root"}
    text = document.text(found, "splittracr convert it", "it.yaml")
    assert manifest.parse(text) == manifest.from_object(found.manifest)
    for note in noted:
        assert note.outcome.sets or note.outcome.reason
        assert any(line.startswith(f"#   {note.key}: ") for line in text.splitlines())


@given(sections())
def test_a_fate_says_what_is_in_the_manifest(config: dict[str, Any]) -> None:
    found = converted(config)
    for note in found.notes:
        assert note.outcome.fate is not Fate.DROPPED or not note.outcome.sets
        for path, value in note.outcome.sets.items():
            section, _, key = path.partition(".")
            assert found.manifest["spec"].get(section, {}).get(key) == value


# ------------------------------------------------------------------------- one key at a time


def test_devices_are_those_that_are_there_as_in_the_seed() -> None:
    for wanted in ("cuda", "MPS", "gpu"):
        made = spec(changed(default={"device": wanted}))
        assert made["edge"]["device"] == made["server"]["device"] == "auto"
    made = spec(changed(default={"device": "cpu"}))
    assert made["edge"]["device"] == made["server"]["device"] == "cpu"


def test_weights() -> None:
    def weights(name: str, **model: Any) -> Any:
        model = {"model_name": name, "weight_path": None, **model}
        return spec(changed(model=model))["model"].get("weights")

    assert weights("alexnet", pretrained=True) == "IMAGENET1K_V1"
    assert weights("alexnet", pretrained=None) == "IMAGENET1K_V1"
    assert weights("alexnet", pretrained=False) == "none"
    assert weights("fasterrcnn_resnet50_fpn", pretrained=True) == "official"
    assert weights("yolov8s", pretrained=False) == "official"
    assert weights("mine", pretrained=None) is None
    file = changed(model={"weight_path": "data/w.pt"})
    assert "weights" not in spec(file)["model"]
    assert spec(file)["model"]["weightsFile"] == "data/w.pt"
    assert fates(file)["model.pretrained"] == "REPLACED"


def test_the_seeds_weight_set_is_named_where_torchvision_has_it() -> None:
    from torchvision import models

    have = {
        name: IMAGENET_V1 in models.get_model_weights(name).__members__
        for name in models.list_models(module=models)
    }
    assert len(have) > 70
    assert {name: bool(HAVE_IMAGENET_V1.fullmatch(name)) for name in have} == have


@pytest.mark.parametrize(
    ("keys", "codec"),
    [
        ({}, "raw+blosc2-zstd-3-shuffle"),
        ({"clevel": 0}, "raw"),
        ({"clevel": 9, "filter": "BITSHUFFLE", "codec": "LZ4"}, "raw+blosc2-lz4-9-bitshuffle"),
        ({"filter": "NOFILTER", "codec": "blosclz"}, "raw+blosc2-blosclz-3-noshuffle"),
        ({"filter": "DELTA"}, "raw+blosc2-zstd-3-shuffle"),
        ({"filter": None}, "raw+blosc2-zstd-3-noshuffle"),
    ],
)
def test_compression(keys: dict[str, Any], codec: str) -> None:
    assert spec(changed(compression=keys))["transport"]["codec"] == codec


def test_compression_that_is_left_out_is_the_seeds() -> None:
    assert spec(changed(compression=None))["transport"]["codec"] == "raw+blosc2-zstd-3-shuffle"
    assert fates(changed(compression={"filter": "DELTA"}))["compression.filter"] == "REPLACED"


@pytest.mark.parametrize(
    ("keys", "path"),
    [
        ({}, "data/imagenet/sample_images"),
        ({"img_directory": None}, "data/imagenet/images"),
        ({"name": "custom", "root": "data/mine", "img_directory": "photos"}, "data/mine/photos"),
        ({"name": "custom", "root": "data/mine/", "img_directory": "data/mine/x"}, "data/mine/x"),
        ({"name": "custom", "root": "data/mine", "img_directory": "/srv/x"}, "/srv/x"),
    ],
)
def test_the_folder_of_pictures(keys: dict[str, Any], path: str) -> None:
    made = spec(changed(dataset=keys))["dataset"]
    assert (made["source"], made["path"]) == ("Folder", path)


def test_a_data_set_without_a_folder_is_the_pictures_shipped_here() -> None:
    assert spec({"model": {"model_name": "alexnet"}})["dataset"] == {"source": "Samples"}


def test_the_readmes_own_class_of_data_and_older_names() -> None:
    config = {
        "model": {"name": "my_custom_model", "split_layer": 5, "batch_size": 32},
        "dataset": {"module": "my_dataset", "class": "MyDataset", "args": {"root": "data/mine"}},
    }
    made = spec(config)
    assert made["model"] == {"name": "my_custom_model"}
    assert made["partition"] == {"layer": 5}
    assert made["workload"] == {"batchSize": 1}
    assert made["dataset"] == {
        "source": "Class",
        "class": "my_dataset:MyDataset",
        "args": {"root": "data/mine"},
    }
    assert fates(config)["model.batch_size"] == "REPLACED"


def test_class_names() -> None:
    assert spec(ALEXNET)["dataset"]["classNames"] == "data/imagenet/imagenet_classes.txt"
    listed = changed(model={"num_classes": 2}, dataset={"class_names": ["ham", "eggs"]})
    assert converted(listed).class_names == ("ham", "eggs")
    assert spec(listed)["dataset"]["classNames"] == "study-classes.txt"
    unequal = changed(model={"num_classes": 3}, dataset={"class_names": ["ham", "eggs"]})
    assert converted(unequal).class_names == ()
    assert "classNames" not in spec(unequal)["dataset"]
    assert fates(unequal)["dataset.class_names"] == "DROPPED"


def test_the_number_of_pictures_and_of_warm_up_frames() -> None:
    assert "samples" not in spec(ALEXNET)["workload"]
    assert spec(changed(dataset={"max_samples": 7}))["workload"]["samples"] == 7
    assert spec(ALEXNET)["workload"]["warmUp"] == 10
    assert spec(changed(model={"split_layer": -1}))["workload"]["warmUp"] == 1
    assert spec(changed(model={"warmup_iterations": 9999}))["workload"]["warmUp"] == 1000


def test_pictures_are_drawn_as_the_seed_was_told() -> None:
    assert spec(ALEXNET)["results"]["pictures"] == 0
    made = spec(changed(default={"save_layer_images": True}))["results"]
    assert made == {"pictures": "All", "picturesPerCut": True}


def test_thresholds_of_detectors() -> None:
    model = {"conf_threshold": 0.4, "iou_threshold": 0.45}
    made = spec(changed(model=model))["postprocess"]
    assert made == {"confidencePercent": 40, "iouPercent": 45}


@pytest.mark.parametrize(
    ("given_name", "name"),
    [("alexnetsplit", "alexnetsplit"), ("My_Study (2)", "my-study-2"), ("...", "study")],
)
def test_names_are_those_of_kubernetes(given_name: str, name: str) -> None:
    assert study_name(given_name) == name


def test_the_page_lists_every_key() -> None:
    table = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| `")]
    keys = " ".join(line.split("|")[1] for line in table)
    for section, known in SECTIONS.items():
        for key in known:
            in_section = f"`{section}.*`" in keys or re.search(rf"`(\w+\.)?{key}`", keys)
            assert in_section, f"{section}.{key}"


# ------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"model": {"split_layers": 3}},
            "model.split_layers: got 3, expected a known key, one of: split_layer",
        ),
        (
            {"model": {"split_layer": -2}},
            "model.split_layer: got -2, expected an integer from -1 to",
        ),
        ({"model": {"split_layer": "5"}}, "model.split_layer: got '5', expected an integer"),
        ({"model": {"split_layer": True}}, "model.split_layer: got True, expected an integer"),
        (
            {"model": {"input_size": [224, 224]}},
            "model.input_size: got [224, 224], expected [channels,",
        ),
        ({"model": {"input_size": 224}}, "model.input_size: got 224, expected [channels,"),
        ({"model": {"model_name": None}}, "model.model_name: got nothing, expected a value"),
        (
            {"model": {"name": "vgg16"}},
            "model.name: got 'vgg16', expected model.model_name, alexnet",
        ),
        ({"model": {"mode": "test"}}, "model.mode: got 'test', expected one of eval, train"),
        ({"model": {"num_classes": 0}}, "model.num_classes: got 0, expected an integer from 1 to"),
        (
            {"default": {"device": "tpu"}},
            "default.device: got 'tpu', expected one of cuda, mps, cpu",
        ),
        ({"default": {"collect_metrics": "yes"}}, "got 'yes', expected true or false"),
        (
            {"logging": {"log_level": "LOUD"}},
            "logging.log_level: got 'LOUD', expected one of DEBUG",
        ),
        ({"dataset": {"root": ""}}, "dataset.root: got '', expected text of 1 to"),
        ({"dataset": {"class": "a b"}}, "dataset.class: got 'a b', expected a name in Python"),
        ({"dataset": {"class_names": [1, 2]}}, "dataset.class_names: got [1, 2], expected text"),
        (
            {"compression": {"clevel": 10}},
            "compression.clevel: got 10, expected an integer from 0 to 9",
        ),
        ({"compression": {"codec": "GZIP"}}, "compression.codec: got 'GZIP', expected one of ZSTD"),
    ],
)
def test_errors_name_file_key_value_and_what_was_expected(
    sections: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInput) as error:
        converted(changed(**sections))
    assert str(error.value).startswith("study.yaml: ")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"models": {}}, "study.yaml: models: got {}, expected a known section, one of: model"),
        ({"model": 3}, "study.yaml: model: got 3, expected a mapping with model_name"),
        ([1], "study.yaml: got [1], expected a mapping with default, logging"),
        (None, "study.yaml: got nothing, expected a mapping"),
        ({}, "study.yaml: model.model_name: got nothing, expected a value"),
    ],
)
def test_what_is_no_configuration_is_refused(config: Any, message: str) -> None:
    with pytest.raises(InvalidInput) as error:
        converted(config)
    assert message in str(error.value)


def test_the_seeds_files_are_recognised_and_others_are_not() -> None:
    assert all(is_configuration(data(name)) for name in NAMES)
    assert is_devices(data(DEVICES.stem))
    assert not is_configuration(data(DEVICES.stem))
    others: list[Any] = [None, [], "text", {"model": {"name": "alexnet"}}, {"devices": [1]}]
    for other in others:
        assert not is_configuration(other)
        assert not is_devices(other)
    assert not is_configuration(converted(ALEXNET).manifest)
    assert not is_configuration({"kind": "ConfigMap", **ALEXNET})
