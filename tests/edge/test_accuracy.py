"""The accuracy that a manifest asks for, by the file that it names."""

from pathlib import Path
from typing import Any

import pytest

from splittracr.edge import accuracy
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.identity import ModelIdentity
from splittracr.experiment.spec import AdaptiveSpec, ExperimentSpec
from splittracr.results.rate import Metric, Rate, RatePoint
from splittracr.results.summary import Estimate
from tests.planning.profiles import codec, profile

EDGE = profile([1, 1], [900, 900], [codec("uint8", [900, 900, 100])], cuts=("input", "a", "output"))


def spec(**adaptive: Any) -> ExperimentSpec:
    partition = {"mode": "Adaptive", "adaptive": adaptive}
    return ExperimentSpec.model_validate(
        {"model": {"name": "net"}, "partition": partition}, by_alias=True
    )


def written(folder: Path, **changes: Any) -> Path:
    """A file with one point: 60 % of the 80 % that the uncut model has."""
    share = Estimate(value=0.6, low=None, high=None)
    point = RatePoint(
        family="a", cut="a", cut_index=1, codec="uint8", work=0.5, bytes=9, accuracy=share,
        agreement=None,
    )  # fmt: skip
    whole = Estimate(value=0.8, low=None, high=None)
    fields = {"model": EDGE.network, "weights": EDGE.weights, **changes}
    made = Rate(
        study="s", samples=5, failed=0, reason=None, metric=Metric.TOP1, judged=5, uncut=whole,
        points=(point,), curves=(), **fields,
    )  # fmt: skip
    (folder / "rate.json").write_text(made.model_dump_json())
    return folder


def test_the_file_of_the_manifest_is_used(tmp_path: Path) -> None:
    asked = spec(accuracyPercent=75, accuracyFile="rate.json")
    (found,) = accuracy.measured(EDGE, asked, written(tmp_path)).codecs
    assert found.accuracy == (None, 0.75, None)
    assert accuracy.measured(EDGE, spec(accuracyPercent=75), tmp_path) == EDGE


IDENTITY = ModelIdentity(
    graph_fingerprint="sha256:graph", weights_digest="sha256:weights", input=(3, 8, 8),
    dtype="float32", preparation="resize",
)  # fmt: skip


def identified(**changes: Any) -> ModelIdentity:
    return IDENTITY.model_copy(update=changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "other"}, "accuracyFile: got 'rate.json', expected a file of net, not of other"),
        (
            {"weights": "file other.pt"},
            "weights of .*accuracyFile rate.json: got 'file other.pt', expected 'none",
        ),
        (
            {"identity": identified(weights_digest="sha256:other")},
            "identity.weights_digest of .* rate.json: got 'sha256:other', expected 'sha256:w",
        ),
        (
            {"identity": identified(graph_fingerprint="sha256:other")},
            "identity.graph_fingerprint of .*, as in this study",
        ),
        ({"identity": identified(input=(3, 9, 9))}, "identity.input of .* got .3, 9, 9."),
        ({"identity": identified(dtype="bfloat16")}, "identity.dtype of .* got 'bfloat16'"),
        ({"identity": identified(preparation="crop")}, "identity.preparation of .* got 'crop'"),
    ],
)
def test_a_file_of_another_model_is_refused(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    asked = spec(accuracyPercent=75, accuracyFile="rate.json")
    edge = EDGE.model_copy(update={"identity": IDENTITY})
    with pytest.raises(InvalidInput, match=words):
        accuracy.measured(edge, asked, written(tmp_path, **changes))


def test_the_digest_of_weights_counts_and_not_their_name(tmp_path: Path) -> None:
    asked = spec(accuracyPercent=75, accuracyFile="rate.json")
    edge = EDGE.model_copy(update={"identity": IDENTITY})
    folder = written(tmp_path, weights="file other.pt", identity=IDENTITY)
    assert accuracy.measured(edge, asked, folder).codecs[0].accuracy == (None, 0.75, None)


def test_a_graph_for_batches_is_not_that_of_single_samples(tmp_path: Path) -> None:
    asked = spec(accuracyPercent=75, accuracyFile="rate.json")
    batches = {"input": (4, *EDGE.input[1:]), "identity": identified(graph_fingerprint="sha256:4")}
    folder = written(tmp_path, identity=IDENTITY)
    found = accuracy.measured(EDGE.model_copy(update=batches), asked, folder)
    assert found.codecs[0].accuracy == (None, 0.75, None)


@pytest.mark.parametrize(
    ("adaptive", "judges"),
    [
        ({}, False),
        ({"agreementPercent": 90}, True),
        ({"accuracyPercent": 90}, True),
        ({"accuracyPercent": 90, "accuracyFile": "rate.json"}, False),
    ],
)
def test_codecs_are_judged_at_the_start_if_no_file_does(
    adaptive: dict[str, Any], judges: bool
) -> None:
    assert accuracy.judges_codecs(AdaptiveSpec.model_validate(adaptive)) == judges
