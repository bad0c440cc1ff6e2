"""The exactness that a manifest demands, and the messages that refuse a cut below it."""

from typing import Any

import pytest

from splittracr.backends import demand
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.spec import ExperimentSpec
from splittracr.experiment.types import Cut, Exactness
from splittracr.splitting.proof import Proof

NAMES = ("input", "middle", "output")


def proof(*classes: Exactness, error: float = 3e-5, **refused: str) -> Proof:
    """Cuts of these classes, from the input to the output."""
    cuts = tuple(
        Cut(
            index=i,
            name=name,
            live=(),
            bytes=4,
            work=0.5,
            exactness=exactness,
            largest_error=None if exactness is Exactness.EXACT else error,
        )
        for i, (name, exactness) in enumerate(zip(NAMES, classes, strict=True))
    )
    return Proof(cuts=cuts, refused=refused, op_ms=(1.0, 1.0))


def spec(**model: Any) -> ExperimentSpec:
    return ExperimentSpec.model_validate(
        {
            "model": {"name": "net", **model},
            "partition": {"mode": "Sweep"},
            "edge": {"runtime": "OnnxRuntime"},
        }
    )


EXACT, CONSISTENT, BOUNDED = Exactness


@pytest.mark.parametrize(
    ("whole", "wanted", "expected"),
    [
        (CONSISTENT, EXACT, "expected Consistent or Bounded: with"),
        (BOUNDED, EXACT, "expected Bounded: with"),
        (BOUNDED, CONSISTENT, "expected Bounded: with"),
    ],
)
def test_the_refusal_names_the_demands_that_are_met(
    whole: Exactness, wanted: Exactness, expected: str
) -> None:
    with pytest.raises(InvalidInput) as failed:
        demand.check(proof(EXACT, BOUNDED, whole), spec(exactness=wanted), "edge")
    assert failed.value.field == "spec.model.exactness"
    assert failed.value.value == wanted.value
    assert f"{expected} spec.edge.runtime OnnxRuntime the cut output" in str(failed.value)


def test_each_side_answers_for_what_it_computes_alone() -> None:
    """The edge computes the whole model at the last cut, the server at the first one."""
    made = proof(EXACT, BOUNDED, CONSISTENT)
    demand.check(made, spec(), "server")
    demand.check(made, spec(exactness="Consistent"), "edge")
    with pytest.raises(InvalidInput, match=r"spec\.server\.runtime Torch the cut input"):
        demand.check(proof(BOUNDED, BOUNDED, EXACT), spec(), "server")


def test_a_tolerance_that_is_not_met_is_named_with_the_error() -> None:
    made = proof(EXACT, BOUNDED, BOUNDED)
    demand.check(made, spec(exactness="Bounded", tolerancePerMillion=30), "edge")
    with pytest.raises(InvalidInput, match=r"PerMillion: got 29, expected more, .* of 3\.0e-05"):
        demand.check(made, spec(exactness="Bounded", tolerancePerMillion=29), "edge")


def test_cuts_below_the_demand_are_refused_and_can_be_offered_again() -> None:
    model = spec(exactness="Consistent").model
    made = demand.demanded(proof(EXACT, BOUNDED, CONSISTENT, input="a reason"), model)
    assert made.refused == {
        "input": "a reason",
        "middle": "it is Bounded (largest relative error 3.0e-05), the manifest demands Consistent",
    }
    assert demand.undemanded(made, model).refused == {"input": "a reason"}
