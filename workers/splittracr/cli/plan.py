"""`splittracr plan`: where to cut, as a table, a sentence and a figure."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from splittracr.cli import profiles
from splittracr.experiment.profile import Profile
from splittracr.planning import cost
from splittracr.planning.cost import Candidates, Limits, Objective
from splittracr.planning.estimate import Beliefs
from splittracr.planning.plan import Plan, Row, Stretch, plan
from splittracr.results.words import NOTHING, human_bytes


@dataclass(frozen=True)
class Question:
    """What a plan is asked for. Rates are bits per second, times milliseconds."""

    edge: Profile
    server: Profile
    slowdown: float
    uplink: float
    downlink: float
    round_trip_ms: float
    objective: Objective
    limits: Limits


def answer(question: Question, rows: int, figure: Path | None, console: Console) -> None:
    """Print the plan, and draw latency over bandwidth where `figure` names a file."""
    candidates = cost.candidates(question.edge, question.server, slowdown=question.slowdown)
    beliefs = Beliefs.of_link(question.uplink, question.round_trip_ms, question.downlink)
    made = plan(candidates, beliefs, question.objective, question.limits)
    console.print(Text(_heading(question), style="bold"))
    console.print(table(made, rows))
    console.print(Text(made.reason, style="bold"))
    console.print(stretches(made.break_even))
    if figure is not None:
        draw(question, candidates, beliefs, made, figure)
        console.print(Text(f"Figure: {figure}"), soft_wrap=True)


def _heading(question: Question) -> str:
    slowed = f", emulated {question.slowdown:g} times slower" if question.slowdown != 1 else ""
    return (
        f"{question.edge.network} from {question.edge.machine()}{slowed}, to "
        f"{question.server.machine()}; {question.uplink / 1e6:g} Mbit/s up, "
        f"{question.round_trip_ms:g} ms round trip. Predicted from profiles."
    )


def table(made: Plan, most: int) -> Table:
    """The candidates by latency, the winner and the edge alone among them; `most` rows."""
    ranked = sorted(range(len(made.rows)), key=lambda i: made.rows[i].cost)
    kept = {*ranked[:most], made.winner, len(made.rows) - 1}
    shown = [i for i in ranked if i in kept]
    left = len(ranked) - len(shown)
    energy = any(row.millijoules is not None for row in made.rows)
    grid = Table(
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
        caption=f"{left} more: --rows." if left else None,
        caption_justify="left",
    )
    grid.add_column("cut", overflow="fold", min_width=8)
    grid.add_column("#", justify="right", no_wrap=True)
    grid.add_column("codec", overflow="fold")
    for name in ("sent", "edge", "netw.", "server", "latency", "p95", "frames/s"):
        grid.add_column(name, justify="right", no_wrap=True)
    if energy:
        grid.add_column("mJ (modelled)", justify="right")
    grid.add_column("")
    for i in shown:
        cells = _cells(made.rows[i], energy=energy)
        grid.add_row(*map(Text, cells), style="bold" if i == made.winner else None)
    return grid


def _cells(row: Row, *, energy: bool) -> list[str]:
    times = (row.edge_ms, row.network_ms, row.server_ms, row.latency_ms, row.p95_ms)
    return [
        row.name,
        str(row.cut),
        row.codec,
        human_bytes(row.bytes_up) if row.bytes_up else NOTHING,
        *(f"{value:,.1f}" for value in times),
        f"{row.frames_per_second:,.2f}",
        *([NOTHING if row.millijoules is None else f"{row.millijoules:,.0f}"] if energy else []),
        row.excluded or "",
    ]


def stretches(found: tuple[Stretch, ...]) -> Table:
    """Which candidate wins at which uplink rate."""
    grid = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, title_justify="left")
    grid.title = "Lowest latency by uplink rate"
    grid.add_column("from", justify="right")
    grid.add_column("to", justify="right")
    grid.add_column("wins")
    for i, stretch in enumerate(found):
        begins = NOTHING if i == 0 else _rate(stretch.begins)
        ends = NOTHING if i == len(found) - 1 else _rate(stretch.ends)
        grid.add_row(begins, ends, Text(stretch.title))
    return grid


def _rate(bits_per_second: float) -> str:
    unit, factor = ("Mbit/s", 1e6) if bits_per_second >= 1e6 else ("kbit/s", 1e3)
    return f"{bits_per_second / factor:,.3g} {unit}"


def draw(
    question: Question, candidates: Candidates, beliefs: Beliefs, made: Plan, figure: Path
) -> None:
    """Latency over bandwidth of the edge alone, full offload and the best split."""
    from splittracr.results import plots
    from splittracr.results.bandwidth import over_bandwidth

    kept = candidates.only(np.array([row.excluded is None for row in made.rows]))
    plot = over_bandwidth(kept, beliefs, made.break_even, _heading(question))
    make = plots.svg if figure.suffix == ".svg" else plots.png
    figure.write_bytes(make(plot))
