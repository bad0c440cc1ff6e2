"""The models and the API server accept the same studies, and refuse with the same words."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given

from splittracr.experiment import manifest
from splittracr.experiment.errors import InvalidInput
from tests.experiment.apiserver import Refused, admit
from tests.experiment.definition import SCHEMA, same_study
from tests.experiment.studies import FULL, MINIMAL, spoilt_specs, study

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))

CASCADE = {"model": {"name": "alexnet"}, "statistic": "Margin", "thresholdPerMillion": 1}

AT_EXITS = {"exits": "exits.safetensors", "statistic": "Margin", "thresholdPerMillion": 1}

ONNX = {"runtime": "OnnxRuntime"}

LINK = {"uplinkKilobitsPerSecond": 5000, "downlinkKilobitsPerSecond": 20000}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_study_is_accepted_by_both(path: Path) -> None:
    data = yaml.safe_load(path.read_text())
    assert data["metadata"]["name"] == path.stem
    same_study(data)


ADAPTIVE = {
    "policy": "Deadline",
    "objective": "Weighted",
    "latencyWeight": 3,
    "energyWeight": 1,
    "computeMilliwatts": 5000,
    "transmitMilliwatts": 1200,
    "agreementPercent": 97,
    "accuracyPercent": 99,
    "accuracyFile": "rate.json",
    "codecs": ["raw", "uint8+zstd1"],
    "pictureCodecs": ["png", "jpeg90"],
}


@pytest.mark.parametrize(
    "partition",
    [
        {"mode": "Adaptive"},
        {"mode": "Adaptive", "adaptive": {}},
        {"mode": "Adaptive", "adaptive": {"policy": "Hedge", "objective": "Throughput"}},
        {"mode": "Adaptive", "cuts": [0, "relu"], "adaptive": ADAPTIVE},
    ],
)
def test_adaptive_study_is_accepted_by_both(partition: dict[str, Any]) -> None:
    same_study(study(partition=partition))


@pytest.mark.parametrize(
    "spec",
    [
        {"partition": {"mode": "Cascade", "cut": "output", "cascade": AT_EXITS}},
        {"partition": {"mode": "Cascade", "layer": 1, "cascade": CASCADE}},
        {"partition": {"mode": "Adaptive", "cascade": CASCADE}, "workload": {"batchSize": 1}},
        {
            "partition": {
                "mode": "Cascade",
                "cut": "relu",
                "cascade": CASCADE | {"statistic": "MeanScore"},
            },
            "edge": {"runtime": "OnnxRuntime"},
        },
        {
            "partition": {"mode": "Cascade", "cut": 0, "cascade": AT_EXITS},
            "server": {"runtime": "OnnxRuntime"},
        },
        {  # the small model is on the edge only
            "partition": {
                "mode": "Cascade",
                "cut": 1,
                "cascade": CASCADE | {"model": {"name": "tiny", "dtype": "float16"}},
            },
            "server": ONNX,
        },
        {"partition": {"mode": "Static", "cut": "output"}, "workload": {"batchSize": 2}},
    ],
)
def test_cascades_that_both_accept(spec: dict[str, Any]) -> None:
    same_study(study(**spec))


@pytest.mark.parametrize(
    "data",
    [
        MINIMAL,
        FULL,
        study(edge=None, workload={"arrival": None}),
        study(
            transport={
                "link": {"phases": [{**LINK, "durationSeconds": 1, "roundTripMilliseconds": None}]}
            }
        ),
        study(transport={"link": LINK}),
    ],
)
def test_valid_study_is_accepted_by_both(data: dict[str, Any]) -> None:
    same_study(data)


OUTAGE = {
    "durationSeconds": 30,
    "uplinkKilobitsPerSecond": 0,
    "downlinkKilobitsPerSecond": 0,
}
WATTS = {"computeMilliwatts": 5000, "transmitMilliwatts": 1200}
UPLINK_ONLY = OUTAGE | {"uplinkKilobitsPerSecond": 1000}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"partition": {"mode": "Cascade", "cut": 1}},
            "cascade goes with mode Cascade, which needs it, or Adaptive, and only with them",
        ),
        (
            {"partition": {"mode": "Cascade", "cascade": CASCADE}},
            "cut goes with mode Static or Cascade",
        ),
        (
            {"partition": {"mode": "Static", "cut": 1, "cascade": CASCADE}},
            "cascade goes with mode Cascade, which needs it, or Adaptive, and only with them",
        ),
        (
            {
                "partition": {
                    "mode": "Adaptive",
                    "cascade": CASCADE,
                    "adaptive": {"policy": "Bandit"},
                }
            },
            "policy Bandit cannot decide on a cascade: take Adaptive, Deadline or Hedge",
        ),
        (
            {"partition": {"mode": "Cascade", "cut": 1, "cascade": CASCADE | {"exits": "a"}}},
            "a cascade has a small model or exits, one of both",
        ),
        (
            {"partition": {"mode": "Cascade", "cut": 1, "cascade": AT_EXITS | {"classes": {}}}},
            "classes goes with model, and only with it",
        ),
        *(
            (
                {"partition": {"mode": "Cascade", "cut": 1, "cascade": CASCADE | keys}},
                f"{words} (",
            )
            for words, keys in (
                (
                    "recalibrate goes with maxDisagreementPerMillion, the promise, and audits of "
                    "it",
                    {"recalibrate": 400},
                ),
                (
                    "recalibrate goes with maxDisagreementPerMillion, the promise, and audits of "
                    "it",
                    {"recalibrate": 400, "maxDisagreementPerMillion": 50_000, "auditPercent": 0},
                ),
                (
                    "recalibrate is at least 5,000,000 / maxDisagreementPerMillion: fewer pictures "
                    "prove no such promise",
                    {"recalibrate": 99, "maxDisagreementPerMillion": 50_000},
                ),
            )
        ),
        *(
            (
                {"partition": {"mode": "Cascade", "cut": 1, "cascade": AT_EXITS | one}},
                "exits rank classes: their statistic is one of Margin, Probability, Entropy",
            )
            for one in (
                {"statistic": "MeanScore"},
                {"statistic": "MinScore", "exits": "Declared"},
                {"statistic": "LowerQuartile", "matchPercent": 90},
            )
        ),
        (
            {"partition": {"mode": "Cascade", "cut": "output", "cascade": CASCADE}},
            "with a small model cut is before output: there its own answers count (cut is output)",
        ),
        *(
            (
                {"partition": partition, "workload": {"samples": 2 * size, "batchSize": size}},
                "in a cascade each sample is decided alone: workload.batchSize is 1 "
                f"(workload.batchSize is {size})",
            )
            for size, partition in (
                (2, {"mode": "Cascade", "cut": 1, "cascade": CASCADE}),
                (64, {"mode": "Cascade", "cut": "output", "cascade": AT_EXITS}),
                (3, {"mode": "Adaptive", "cascade": CASCADE}),
            )
        ),
        *(
            (
                {
                    "partition": {"mode": "Cascade", "cut": 1, "cascade": AT_EXITS | exits},
                    "edge": {"runtime": runtime},
                },
                "exits go with edge.runtime Torch: a head continues from a cut "
                f"(edge.runtime is {runtime})",
            )
            for runtime, exits in (
                ("OnnxRuntime", {}),
                ("OnnxRuntime", {"exits": "Declared"}),
                ("CudaGraphs", {}),
            )
        ),
        *(
            (sections, f"runtime OnnxRuntime goes with dtype float32, {rest}")
            for sections, rest in (
                (
                    {"model": {"name": "resnet18", "dtype": "float16"}, "edge": ONNX},
                    "of the model and of a small model (model.dtype is float16, ",
                ),
                (
                    {"model": {"name": "resnet18", "dtype": "bfloat16"}, "server": ONNX},
                    "of the model and of a small model (model.dtype is bfloat16, ",
                ),
                (
                    {
                        "partition": {
                            "mode": "Cascade",
                            "cut": 1,
                            "cascade": CASCADE | {"model": {"name": "tiny", "dtype": "float16"}},
                        },
                        "edge": ONNX,
                    },
                    "of the model and of a small model (model.dtype is float32, "
                    "partition.cascade.model.dtype is float16, edge.runtime is OnnxRuntime",
                ),
            )
        ),
        ({"partition": {}}, "cut goes with mode Static or Cascade"),
        ({"partition": {"cut": 1, "layer": 1}}, "cut goes with mode Static or Cascade"),
        (
            {"partition": {"mode": "EdgeOnly", "layer": 1}},
            "cut goes with mode Static or Cascade, and only with them; layer may stand",
        ),
        (
            {"partition": {"mode": "Sweep", "cut": 1}},
            "cut goes with mode Static or Cascade",
        ),
        (
            {"partition": {"mode": "EdgeOnly", "cuts": [1]}},
            "cuts goes with mode Sweep or Adaptive, and only with them",
        ),
        (
            {"partition": {"mode": "EdgeOnly", "adaptive": {}}},
            "adaptive goes with mode Adaptive, and only with it",
        ),
        (
            {"partition": {"mode": "Adaptive", "adaptive": {"accuracyFile": "rate.json"}}},
            "accuracyFile goes with accuracyPercent, and only with it",
        ),
        (
            {"partition": {"mode": "Adaptive", "adaptive": {"objective": "Weighted"}}},
            "weights go with objective Weighted",
        ),
        (
            {"partition": {"mode": "Adaptive", "adaptive": {"latencyWeight": 1}}},
            "weights go with objective Weighted",
        ),
        (
            {"edge": {"power": {"transmitMilliwatts": 900, "nanojoulesPerBit": 40}}},
            "sending costs transmitMilliwatts or nanojoulesPerBit, not both",
        ),
        *(
            (
                {
                    "partition": {
                        "mode": "Adaptive",
                        "adaptive": {**WATTS, "policy": "Hedge", **one},
                    }
                },
                "policy Hedge computes twice: no objective with energy goes with it",
            )
            for one in (
                {"objective": "Energy"},
                {"objective": "Weighted", "latencyWeight": 9, "energyWeight": 1},
            )
        ),
        *(
            (
                {"partition": {"mode": "Adaptive", "adaptive": {"policy": "Bandit", **one}}},
                "policy Bandit learns latencies and goes with objective Latency only",
            )
            for one in (
                {"objective": "Throughput"},
                {"objective": "Energy", **WATTS},
                {"objective": "Weighted", "latencyWeight": 1},
            )
        ),
        *(
            (
                {"partition": {"mode": "Adaptive", **one}},
                "in mode Adaptive deadlines and hedges are the policy's",
            )
            for one in ({"deadlineMilliseconds": 9}, {"hedgeDelayMilliseconds": 0})
        ),
        ({"dataset": {"source": "Class"}}, "class goes with source Class, and only with it"),
        ({"workload": {"samples": 6, "batchSize": 4}}, "samples is a multiple of batchSize"),
        *(
            ({"transport": {"link": link}}, "a link has either both rates, or a trace, or phases")
            for link in (
                {},
                {"uplinkKilobitsPerSecond": 5000},
                {"trace": "bus.csv", "downlinkKilobitsPerSecond": 5000},
                {"trace": "bus.csv", "phases": [OUTAGE, UPLINK_ONLY]},
            )
        ),
        (
            {"transport": {"link": {"phases": [OUTAGE, UPLINK_ONLY]}}},
            "phases have a rate above zero both ways at some time",
        ),
        (
            {"dataset": {"source": "LabelledFolder"}},
            "path goes with source Folder, LabelledFolder, Coco, Yolo or Masks, and only with them",
        ),
        (
            {"dataset": {"source": "Coco", "path": "pictures"}},
            "annotations goes with source Coco or Masks, which need it, or Yolo, "
            "and only with them",
        ),
        (
            {"dataset": {"source": "Folder", "path": "pictures", "annotations": "boxes.json"}},
            "annotations goes with source Coco or Masks, which need it, or Yolo, "
            "and only with them",
        ),
    ],
)
def test_both_refuse_with_the_same_words(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused) as refused:
        admit(study(**spec), SCHEMA)
    _, _, said = str(refused.value).partition(": ")
    assert said.startswith(message)
    with pytest.raises(InvalidInput) as invalid:
        manifest.from_object(study(**spec))
    assert str(invalid.value).endswith(f"expected that {said}")


@pytest.mark.parametrize(
    ("spec", "values"),
    [
        ({"partition": {}}, "mode is Static, cut is missing, layer is missing"),
        ({"partition": {"mode": "Sweep", "cut": 1}}, "mode is Sweep, cut is 1, layer is missing"),
        (
            {"partition": {"mode": "Sweep", "cut": "relu"}},
            "mode is Sweep, cut is relu, layer is missing",
        ),
        ({"workload": {"samples": 10, "batchSize": 3}}, "samples is 10, batchSize is 3"),
        ({"dataset": {"source": "Folder"}}, "source is Folder, path is missing"),
        ({"dataset": {"class": "a:B"}}, "source is Samples, class is a:B"),
        (
            {"partition": {"mode": "Adaptive", "hedgeDelayMilliseconds": 0}},
            "deadlineMilliseconds is missing, hedgeDelayMilliseconds is 0",
        ),
    ],
)
def test_a_broken_rule_shows_the_values(spec: dict[str, Any], values: str) -> None:
    with pytest.raises(Refused, match=rf"\({values}\)$"):
        admit(study(**spec), SCHEMA)


@pytest.mark.parametrize(
    "arrival",
    [
        {},
        {"inFlight": 1},
        {"mode": "Open"},
        {"mode": "Closed", "seed": 1},
        {"mode": "Closed", "framesPerMinute": 1},
        {"mode": "Open", "framesPerMinute": 1, "inFlight": 1},
        {"mode": "Half"},
    ],
)
def test_both_refuse_a_mixed_up_arrival(arrival: dict[str, Any]) -> None:
    data = study(workload={"arrival": arrival})
    with pytest.raises(Refused):
        admit(data, SCHEMA)
    with pytest.raises(InvalidInput):
        manifest.from_object(data)


@given(spoilt_specs())
def test_both_agree_on_any_study(spec: dict[str, Any]) -> None:
    data = {**MINIMAL, "spec": spec}
    try:
        manifest.from_object(data)
    except InvalidInput:
        with pytest.raises(Refused):
            admit(data, SCHEMA)
    else:
        same_study(data)


@pytest.mark.parametrize(("length", "accepted"), [(200, True), (201, False), (252, False)])
def test_a_name_is_as_long_as_its_folder_of_results_allows(length: int, accepted: bool) -> None:
    body = study() | {"metadata": {"name": "a" * length}}
    if accepted:
        admit(body, SCHEMA)
        manifest.from_object(body)
        return
    with pytest.raises(Refused, match=r"metadata\.name has at most 200 characters"):
        admit(body, SCHEMA)
    with pytest.raises(InvalidInput, match=r"metadata\.name"):
        manifest.from_object(body)
