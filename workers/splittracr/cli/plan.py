"""`splittracr plan`: where to cut, as a table, a sentence and a figure."""

from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from splittracr.cli import cascades, inputs, profiles
from splittracr.experiment.energy import Kind
from splittracr.experiment.errors import InvalidInput, naming, nearest
from splittracr.experiment.facts import Facts
from splittracr.experiment.profile import Profile
from splittracr.experiment.spec import PowerSpec
from splittracr.planning import cost
from splittracr.planning.cascade import Cascade
from splittracr.planning.cost import Candidates, Limits, Objective, Power
from splittracr.planning.estimate import Beliefs
from splittracr.planning.plan import Plan, Row, Stretch, plan, static_exclusions
from splittracr.results.words import NOTHING, human_bytes, percent

if TYPE_CHECKING:  # matplotlib takes a second to import
    from splittracr.results.plots import Plot

_FRAMES = 3  # to measure a network on that there is no profile of


@dataclass(frozen=True)
class Question:
    """The inputs of a plan. Rates are bits per second, times milliseconds."""

    edge: Profile
    server: Profile
    slowdown: float
    uplink: float
    downlink: float
    round_trip_ms: float
    spread: float
    objective: Objective
    limits: Limits
    cascade: Cascade | None
    figure: Path | None


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of the command, in the units of `Question`; None if left out."""

    uplink: float
    downlink: float | None
    round_trip_ms: float
    spread: float
    slowdown: float | None = None
    edge_profile: str | None = None
    server_profile: str | None = None
    rate: Path | None = None
    calibration: Path | None
    goal: str
    percentile: int
    watts: tuple[float | None, float | None]
    codecs: tuple[str, ...]
    cuts: tuple[str, ...]
    memory_bytes: float | None
    agreement: float | None
    accuracy: float | None
    deadline_ms: float | None
    figure: Path | None = None


def ask(file: str, options: Options) -> Question:
    """The question about a manifest, a profile's file or a reference profile.

    Raises InvalidInput that names the argument. Measures the model of a manifest unless there is a
    reference profile of it with the same input size, batches, element type, classes and arguments.
    """
    edge, slowdown, declared, facts = _edge(file, options)
    if options.rate is not None:
        edge = profiles.with_rate(edge, options.rate, "--rate")
    if options.slowdown is not None:
        slowdown = options.slowdown
    server = _server(edge, options.server_profile)
    return question(edge, server, slowdown, declared, options, *facts)


def question(
    edge: Profile,
    server: Profile,
    slowdown: float,
    declared: PowerSpec | None,
    options: Options,
    *facts: Facts,
) -> Question:
    """The question about two profiles. Files and the slowdown in `options` are not used, except
    for `calibration`. The content of `rate` is in the profile of the edge.

    Raises InvalidInput that names the option, or the key of the calibration that differs from the
    profile or from `facts`.
    """
    profiles.check_codecs(edge, options.codecs)
    drawn = _drawn(options.watts) or cost.power(declared, edge.power)
    memory = options.memory_bytes
    limits = Limits(
        cuts=_cuts(edge, options.cuts),
        codecs=options.codecs,
        memory_bytes=None if memory is None else int(memory),
        agreement=options.agreement,
        accuracy=options.accuracy,
        deadline_ms=options.deadline_ms,
    )
    return Question(
        edge=edge,
        server=server,
        slowdown=slowdown,
        uplink=options.uplink,
        downlink=options.uplink if options.downlink is None else options.downlink,
        round_trip_ms=options.round_trip_ms,
        spread=options.spread,
        objective=objective(options.goal, options.percentile, drawn),
        limits=limits,
        cascade=_cascade(edge, slowdown, options.calibration, *facts),
        figure=options.figure,
    )


def _cascade(edge: Profile, slowdown: float, file: Path | None, *facts: Facts) -> Cascade | None:
    """The cascade that was calibrated for the edge's model; None without a file."""
    if file is None:
        return None
    return cascades.of_model(file, edge, slowdown, "--calibration", *facts)


def _server(edge: Profile, reference: str | None) -> Profile:
    """The server's profile: by default that of the edge's machine."""
    if reference is None:
        return edge
    server = profiles.read(reference, "--server-profile")
    check_server(edge, server, reference)
    return server


def check_server(edge: Profile, server: Profile, shown: str) -> None:
    """Raise InvalidInput, with the value `shown`, unless both profiles are of one network."""
    if not profiles.same_network(edge, server):
        expected = f"a profile of {profiles.in_words(edge)}, as the edge's"
        raise InvalidInput("--server-profile", shown, expected)


def _drawn(watts: tuple[float | None, float | None]) -> Power | None:
    """The power for computing and transmitting by the command line."""
    compute, transmit = watts
    return None if compute is None or transmit is None else Power(compute, transmit)


def _edge(
    file: str, options: Options
) -> tuple[Profile, float, PowerSpec | None, tuple[Facts, ...]]:
    """The edge's profile, its slowdown by the manifest, its declared power, and the facts that a
    calibration has to share.
    """
    own = options.edge_profile
    if file in profiles.shipped() or file.endswith(".json"):
        if own is not None:
            raise InvalidInput("--edge-profile", own, f"none, {file} is the edge's profile")
        return profiles.read(file, "FILE"), 1.0, None, ()
    if not Path(file).exists():
        expected = (
            f"a manifest, a profile or a reference profile, {nearest(file, profiles.shipped())}"
        )
        raise InvalidInput("FILE", file, expected)
    spec, base = inputs.load(Path(file), [], None).spec, inputs.base_folder(Path(file), None)
    slowdown, declared = spec.edge.slowdown_percent / 100, spec.declared_power
    facts = (cascades.of_study(spec, base),)
    if own is not None:
        made = profiles.read(own, "--edge-profile")
        if not profiles.fits(made, spec):
            expected = f"a profile of the manifest's model and input, not {profiles.in_words(made)}"
            raise InvalidInput("--edge-profile", own, expected)
        return made, slowdown, declared, facts
    reference = profiles.reference(spec)
    if reference is not None:
        return reference, slowdown, declared, facts
    from splittracr.backends import registry

    # Without PyTorch the edge has an exported model, which has its weights.
    if options.calibration is None and not registry.needs_export(spec.edge.runtime):
        # Random weights: times and bytes are much the same, and nothing has to be downloaded.
        changes = {"weights": "none", "weights_file": None}
        spec = spec.model_copy(update={"model": spec.model.model_copy(update=changes)})
    made, _ = profiles.measure(spec, base, _FRAMES, agreement=False)
    return made, slowdown, declared, facts


def _cuts(edge: Profile, wanted: tuple[str, ...]) -> tuple[int, ...]:
    """Indices of cuts given by name or index."""
    for cut in wanted:
        if cut not in edge.cuts and not (cut.isdigit() and int(cut) <= edge.last):
            raise InvalidInput("--cut", cut, f"a cut of {edge.network}, {nearest(cut, edge.cuts)}")
    return tuple(edge.cuts.index(cut) if cut in edge.cuts else int(cut) for cut in wanted)


def objective(goal: str, percentile: int, power: Power | None) -> Objective:
    """The objective `latency`, `throughput` or `energy`. Energy needs `power`."""
    z = NormalDist().inv_cdf(percentile / 100)
    match goal:
        case "throughput":
            return Objective(latency=0, throughput=1, z=z, power=power)
        case "energy" if power is None:
            expected = (
                "--compute-watts and --transmit-watts, too: neither the profile nor the manifest "
                "has the edge's power"
            )
            raise InvalidInput("--objective", goal, expected)
        case "energy":
            return Objective(latency=0, energy=1, z=z, power=power)
    return Objective(z=z, power=power)


@dataclass(frozen=True)
class Answer:
    """A plan and its question."""

    question: Question
    candidates: Candidates
    beliefs: Beliefs
    plan: Plan


def solve(question: Question) -> Answer:
    """Find the best candidate. Raises InvalidInput if the limits exclude all of them."""
    candidates = cost.candidates(question.edge, question.server, slowdown=question.slowdown)
    link = Beliefs.of_link(question.uplink, question.round_trip_ms, question.downlink)
    beliefs = replace(link, up=replace(link.up, spread=question.spread))
    made = plan(candidates, beliefs, question.objective, question.limits, question.cascade)
    return Answer(question, candidates, beliefs, made)


def answer(question: Question, rows: int, console: Console) -> None:
    """Print the plan; draw latency over bandwidth if a file for it is named."""
    solved = solve(question)
    made = solved.plan
    console.print(Text(heading(question), style="bold"))
    console.print(table(made, rows, varies=question.spread > 0))
    console.print(Text(made.reason, style="bold"))
    first = question.cascade
    without = "" if first is None else f" without the {'exits' if first.exits else 'cascade'}"
    comma = "," if without else ""
    match made.break_even:
        case ():
            console.print(Text(f"The limits leave no candidate{without}, at any uplink rate."))
        case (only,):
            rate = f"at every uplink rate{comma}{without}"
            console.print(Text(f"Lowest median latency {rate}: {only.title}."))
        case several:
            console.print(Text(f"Lowest median latency by uplink rate{comma}{without}:"))
            console.print(stretches(several))
    if question.figure is not None:
        draw(solved, question.figure)
        console.print(Text(f"Figure: {question.figure}"), soft_wrap=True)


def heading(question: Question) -> str:
    """The machines and the link of a plan, in words."""
    slowed = f", emulated {question.slowdown:g} times slower" if question.slowdown != 1 else ""
    return (
        f"{question.edge.network} from {question.edge.machine()}{slowed}, to "
        f"{question.server.machine()}; {question.uplink / 1e6:g} Mbit/s up, "
        f"{question.round_trip_ms:g} ms round trip. Predicted from profiles{_watts(question)}."
    )


def _watts(question: Question) -> str:
    """The edge's power in words; empty if unknown."""
    power = question.objective.power
    if power is None:
        return ""
    how = "declared" if power.kind is Kind.MODELLED else str(power.kind)
    return f" and {how} power ({power.compute:.3g} W computing, {power.idle:.3g} W idle)"


def table(made: Plan, max_rows: int, *, varies: bool = False) -> Table:
    """The best `max_rows` candidates, the winner, the edge alone and a cascade among them."""
    every = [*made.rows, *([made.cascade] if made.cascade else [])]
    ranked = sorted(every, key=lambda row: (row.excluded is not None, row.cost))
    always = (made.rows[made.winner], made.rows[-1], made.cascade)
    shown = [row for place, row in enumerate(ranked) if place < max_rows or row in always]
    left = len(ranked) - len(shown)
    energy = any(row.millijoules is not None for row in made.rows)
    said = [f"{left} more: --rows."] if left else []
    if any(row.accuracy is None for row in shown):
        said.append(f"kept {NOTHING}: what the codec does to the accuracy was not measured.")
    grid = Table(
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
        caption="\n".join(said) or None,
        caption_justify="left",
    )
    grid.add_column("cut", overflow="fold", min_width=8)
    grid.add_column("#", justify="right", no_wrap=True)
    grid.add_column("codec", overflow="fold")
    for name in ("sent", "edge", "link", "server", "latency"):
        grid.add_column(name, justify="right", no_wrap=True)
    tail = f"p{made.percentile}"
    for name, wanted in ((tail, varies), ("modelled mJ", energy), ("kept", True)):
        if wanted:
            grid.add_column(name, justify="right")
    if any(row.excluded for row in shown):
        grid.add_column("excluded")
    for row in shown:
        cells = _cells(row, varies=varies, energy=energy)
        style = "bold" if row is made.best else None
        grid.add_row(*map(Text, cells[: len(grid.columns)]), style=style)
    return grid


def _cells(row: Row, *, varies: bool, energy: bool) -> list[str]:
    times = (row.edge_ms, row.link_ms, row.server_ms, row.latency_ms)
    return [
        row.name,
        str(row.cut),
        row.codec,
        human_bytes(row.bytes_up) if row.bytes_up else NOTHING,
        *(f"{value:,.1f}" for value in times),
        *([f"{row.tail_ms:,.1f}"] if varies else []),
        *([NOTHING if row.millijoules is None else f"{row.millijoules:,.0f}"] if energy else []),
        percent(row.accuracy),
        row.excluded or "",
    ]


def stretches(found: tuple[Stretch, ...]) -> Table:
    """The best candidate for each range of uplink rates."""
    grid = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
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


def figure(solved: Answer) -> "Plot":
    """Latency over bandwidth of the edge alone, full offload and the best split.

    Raises InvalidInput if the limits leave only a cascade.
    """
    from splittracr.results.bandwidth import over_bandwidth

    question = solved.question
    if not solved.plan.break_even:
        expected = "limits that leave a candidate without it"
        raise InvalidInput("limits", "a cascade alone, of which there is no figure", expected)
    excluded = static_exclusions(solved.candidates, question.limits)
    kept = solved.candidates.only(np.array([reason is None for reason in excluded]))
    return over_bandwidth(kept, solved.beliefs, solved.plan.break_even, heading(question))


def draw(solved: Answer, file: Path) -> None:
    """Write the figure to a file, as SVG or PNG by its suffix."""
    from splittracr.results import plots

    plot = figure(solved)
    with naming(file):
        file.write_bytes(plots.svg(plot) if file.suffix == ".svg" else plots.png(plot))
