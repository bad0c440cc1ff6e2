"""What follows from the answers of edges to live settings."""

import pytest

from splittracr_operator.live import Answer, Stance, objection

EDGES = "edge-0", "edge-1", "edge-2"
TAKEN, LATER = Answer(Stance.TAKEN), Answer(Stance.LATER, "not while it runs")
REFUSED = Answer(Stance.REFUSED, "no such cut")
HEAD = "The settings of generation 2 are not in force"


@pytest.mark.parametrize(
    ("answers", "before", "expected"),
    [
        ((TAKEN, LATER, TAKEN), "before", None),
        ((TAKEN, LATER, None), "before", "before"),
        ((None, None, None), None, None),
        ((REFUSED, TAKEN, None), "before", f"{HEAD} at edge-0: no such cut"),
        ((REFUSED, TAKEN, REFUSED), None, f"{HEAD} at edge-0, edge-2: no such cut"),
        (
            (Answer(Stance.REFUSED, "not exact here"), REFUSED, TAKEN),
            None,
            f"{HEAD} at edge-0: not exact here; at edge-1: no such cut",
        ),
    ],
)
def test_an_objection_is_of_those_who_refuse(
    answers: tuple[Answer | None, ...], before: str | None, expected: str | None
) -> None:
    said = {edge: answer for edge, answer in zip(EDGES, answers, strict=True) if answer is not None}
    assert objection(before, 2, EDGES, said) == expected


def test_who_has_finished_objects_no_more() -> None:
    assert objection("before", 2, ["edge-0"], {"edge-0": TAKEN, "edge-1": REFUSED}) is None
    assert objection("before", 2, [], {"edge-1": REFUSED}) is None
