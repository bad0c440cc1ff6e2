"""The accuracy that a manifest asks for, by the file that it names."""

from pathlib import Path
from typing import Any

import pytest

from splittracr.edge import accuracy
from splittracr.experiment.errors import InvalidInput
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


@pytest.mark.parametrize("changes", [{"model": "other"}, {"weights": "file other.pt"}])
def test_a_file_of_another_model_is_refused(tmp_path: Path, changes: dict[str, str]) -> None:
    asked = spec(accuracyPercent=75, accuracyFile="rate.json")
    with pytest.raises(InvalidInput, match=r"accuracyFile: .*a file of net with weights none"):
        accuracy.measured(EDGE, asked, written(tmp_path, **changes))


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
