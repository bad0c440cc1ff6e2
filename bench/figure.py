"""A measured figure with its goal, and the table of all figures."""

from collections.abc import Sequence
from statistics import median

import numpy as np
from rich.console import Console
from rich.table import Table

from splittracr.experiment.types import Frozen


class Figure(Frozen):
    """One line of the table and of `bench.json`. `holds` is null without a goal."""

    figure: str
    value: float
    low: float
    high: float
    unit: str
    goal: str | None = None
    holds: bool | None = None


def figure(
    name: str,
    rounds: Sequence[float],
    unit: str,
    *,
    max_value: float | None = None,
    min_value: float | None = None,
    value: float | None = None,
) -> Figure:
    """Make a figure from the median of `rounds`, or from `value`, and compare it with its goal."""
    value = median(rounds) if value is None else value
    low, high = (float(np.percentile(rounds, p)) for p in (10, 90))
    goals = []
    if min_value is not None:
        goals.append(f">= {min_value:g}")
    if max_value is not None:
        goals.append(f"<= {max_value:g}")
    holds = (max_value is None or value <= max_value) and (min_value is None or value >= min_value)
    return Figure(
        figure=name,
        value=_short(value),
        low=_short(low),
        high=_short(high),
        unit=unit,
        goal=", ".join(goals) or None,
        holds=holds if goals else None,
    )


def _short(value: float) -> float:
    """Round to four significant digits."""
    return float(f"{value:.4g}")


def show(figures: Sequence[Figure], console: Console) -> None:
    """Print the table."""
    table = Table(box=None, pad_edge=False)
    for column in ("figure", "value", "low", "high", "unit", "goal", ""):
        table.add_column(column, justify="right" if column in ("value", "low", "high") else "left")
    for one in figures:
        mark = {None: "", True: "holds", False: "[bold red]missed[/]"}[one.holds]
        numbers = (f"{number:g}" for number in (one.value, one.low, one.high))
        table.add_row(one.figure, *numbers, one.unit, one.goal or "", mark)
    console.print(table)
