"""Rollout of live settings: the refusal and the events that follow from the answers of edges."""

from dataclasses import replace

import pytest

from splittracr.experiment.settings import Outcome
from splittracr_operator.live import Answer, Rollout, events, refusal
from tests.control.studies import study

EDGES = "edge-0", "edge-1", "edge-2"
ACCEPTED, DEFERRED = Answer(Outcome.ACCEPTED), Answer(Outcome.DEFERRED, "not while it runs")
REFUSED = Answer(Outcome.REFUSED, "no such cut")
HEAD = "The settings of generation 2 are not in force"


@pytest.mark.parametrize(
    ("answers", "before", "expected"),
    [
        ((ACCEPTED, DEFERRED, ACCEPTED), "before", None),
        ((ACCEPTED, DEFERRED, None), "before", "before"),
        ((None, None, None), None, None),
        ((REFUSED, ACCEPTED, None), "before", f"{HEAD} at edge-0: no such cut"),
        ((REFUSED, ACCEPTED, REFUSED), None, f"{HEAD} at edge-0, edge-2: no such cut"),
        (
            (Answer(Outcome.REFUSED, "not exact here"), REFUSED, ACCEPTED),
            None,
            f"{HEAD} at edge-0: not exact here; at edge-1: no such cut",
        ),
    ],
)
def test_a_refusal_names_the_edges_that_refuse(
    answers: tuple[Answer | None, ...], before: str | None, expected: str | None
) -> None:
    given = {edge: answer for edge, answer in zip(EDGES, answers, strict=True) if answer}
    assert refusal(before, 2, EDGES, given) == expected


def test_a_finished_edge_no_longer_refuses() -> None:
    assert refusal("before", 2, ["edge-0"], {"edge-0": ACCEPTED, "edge-1": REFUSED}) is None
    assert refusal("before", 2, [], {"edge-1": REFUSED}) is None


def test_each_new_answer_has_an_event_of_its_outcome() -> None:
    before = Rollout(study().live)
    deferred = replace(before, posted={"edge-0": (2, DEFERRED)})
    expected = [("SettingsDeferred", "edge-0: not while it runs")]
    assert list(events(before, deferred, 2)) == expected
    assert list(events(deferred, deferred, 2)) == []
    assert list(events(deferred, replace(before, posted={"edge-0": (3, DEFERRED)}), 3)) == expected
    # The same message with another outcome is news.
    refused = Answer(Outcome.REFUSED, DEFERRED.message)
    after = replace(before, posted={"edge-0": (2, refused)})
    assert list(events(deferred, after, 2)) == [("SettingsRefused", "edge-0: not while it runs")]
