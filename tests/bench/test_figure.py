"""Figures against their goals."""

import pytest
from rich.console import Console

from bench.figure import figure, show


@pytest.mark.parametrize(
    ("goals", "goal", "holds"),
    [
        ({}, None, None),
        ({"max_value": 2.0}, "<= 2", True),
        ({"max_value": 1.9}, "<= 1.9", False),
        ({"min_value": 2.0, "max_value": 3.0}, ">= 2, <= 3", True),
        ({"min_value": 2.5, "max_value": 3.0}, ">= 2.5, <= 3", False),
    ],
)
def test_a_median_is_held_against_its_goal(
    goals: dict[str, float], goal: str | None, holds: bool | None
) -> None:
    one = figure("x", [1.0, 2.0, 9.0], "ms", **goals)
    assert (one.value, one.goal, one.holds) == (2.0, goal, holds)
    assert one.low < one.value < one.high


def test_a_value_replaces_the_median() -> None:
    assert figure("x", [3.0, 2.0], "ms", max_value=2.0, value=2.0).holds is True


def test_the_table_says_what_was_missed() -> None:
    console = Console(width=100)
    with console.capture() as captured:
        show([figure("a", [1.0], "ms", max_value=0.5), figure("b", [1.0], "ms")], console)
    lines = captured.get().splitlines()
    assert "missed" in lines[1]
    assert "missed" not in lines[2]
