"""`splittracr simulate`: policies over recorded links, as a table and as JSON."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from splittracr.cli import cascades, profiles
from splittracr.experiment.errors import InvalidInput, naming
from splittracr.experiment.profile import Profile
from splittracr.planning import cost
from splittracr.planning.cascade import Cascade
from splittracr.planning.cost import Array, Candidates, Limits
from splittracr.planning.emulated_link import Span, scaled
from splittracr.planning.plan import check_accuracy, static_exclusions
from splittracr.planning.policy import PolicyOptions
from splittracr.planning.registry import DECIDING, POLICIES, SERVER_ONLY, create
from splittracr.planning.simulate import Run, oracle, simulate
from splittracr.planning.traces import parse_trace

ORACLE = "oracle"
ORDER = (*POLICIES, ORACLE)

Trace = tuple[Span, ...]


@dataclass(frozen=True)
class SimulationFigures:
    """The results of a policy over all traces of a family. The keys of the JSON file.

    Latency is in milliseconds, over the frames of all traces; `percent_of_oracle` is the oracle's
    mean latency over the policy's.
    """

    family: str
    network: str
    policy: str
    mean_ms: float
    p95_ms: float
    p99_ms: float
    p999_ms: float
    percent_of_oracle: float
    switches_per_100: float


def run(
    traces: Path,
    pairs: Sequence[tuple[Profile, Profile]],
    *,
    slowdown: float,
    codecs: Sequence[str],
    scale: float,
    accuracy: float | None,
    calibration: Path | None,
    decides: bool,
    settings: PolicyOptions,
    json_file: Path | None,
    console: Console,
) -> None:
    """Simulate each network (profiles of edge and server) over all traces; print and write.

    If `decides`, policies decide before each frame whether the small model, or the exits, of the
    calibration go first. Only those that can are simulated.
    """
    if decides and calibration is None:
        expected = "a file of `splittracr calibrate`: --small-if-it-pays needs it"
        raise InvalidInput("--calibration", None, expected)
    settings = replace(settings, accuracy=accuracy if decides else None)
    for edge, _ in pairs:
        profiles.check_codecs(edge, codecs)
    families = read(traces, scale)
    cascaded = _cascades([edge for edge, _ in pairs], calibration, slowdown)
    sets = {
        edge.network: within(
            cost.candidates(edge, server, slowdown=slowdown, codecs=codecs),
            accuracy,
            cascaded.get(edge.network),
            decides=decides,
        )
        for edge, server in pairs
    }
    work = [(name, network) for name in families for network in sets]
    found: list[SimulationFigures] = []
    for name, network in track(work, "simulating", console=console, transient=True):
        first = cascaded.get(network)
        found += figures(
            name, network, families[name], sets[network], settings, first, decides=decides
        )
    for name in families:
        console.print(table(name, [one for one in found if one.family == name]))
    for edge, server in pairs:
        console.print(Text(_conditions(edge, server, sets[edge.network], slowdown)))
    for one in cascaded.values():
        console.print(Text(cascades.sentence(one)))
    console.print(Text(_links(families, codecs, scale)))
    if json_file is not None:
        with naming(json_file):
            text = json.dumps([asdict(one) for one in found], indent=1)
            json_file.write_text(f"{text}\n", "utf-8")


def with_rates(made: Sequence[Profile], files: Sequence[Path]) -> list[Profile]:
    """The profiles with what `splittracr rate` measured of their models.

    Raises InvalidInput for a file of a model that has no profile among them.
    """
    from splittracr.results import rate

    by_model = {one.network: one for one in made}
    for file in files:
        model = rate.read(file, "--rate").model
        if model not in by_model:
            raise InvalidInput("--rate", str(file), f"a file of {' or '.join(by_model)}")
        by_model[model] = profiles.with_rate(by_model[model], file, "--rate")
    return [by_model[one.network] for one in made]


def _cascades(
    edges: Sequence[Profile], calibration: Path | None, slowdown: float
) -> dict[str, Cascade]:
    """The cascade of the model that a file is of; none without a file."""
    if calibration is None:
        return {}
    made, by_model = cascades.read(calibration, "--calibration"), {e.network: e for e in edges}
    if made.large not in by_model:
        raise InvalidInput("--calibration", str(calibration), f"a file of {' or '.join(by_model)}")
    edge = by_model[made.large]
    return {made.large: cascades.slowed(made, edge, slowdown, str(calibration))}


def within(
    candidates: Candidates,
    accuracy: float | None,
    cascade: Cascade | None = None,
    *,
    decides: bool = False,
) -> Candidates:
    """The candidates that keep this share of the accuracy, for the rest of a cascade if any.

    With exits their cut is `input` or after the last exit. If the policy `decides`, it and
    the oracle apply the limit, and all are returned. Raises InvalidInput if no candidate with a
    server keeps it.
    """
    if decides:
        check_accuracy(candidates, Limits(accuracy=accuracy), "--accuracy")
        return candidates
    least = accuracy
    if cascade is not None:
        candidates = cascade.onward(candidates).only(cascade.follows(candidates))
    if accuracy is not None and cascade is not None:
        if cascade.least_kept(accuracy) > 1:
            most = f"at most {100 * (1 - cascade.wrong):.4g}, which the cascade keeps"
            raise InvalidInput("--accuracy", f"{100 * accuracy:g}", most)
        least = max(0.0, cascade.least_kept(accuracy))
    limits = Limits(accuracy=least)
    try:
        check_accuracy(candidates, limits, "--accuracy")
    except InvalidInput as error:
        if accuracy is None or least is None or cascade is None:
            raise
        expected = f"{error.expected}. Samples that go on have to keep {100 * least:.4g} %"
        raise InvalidInput("--accuracy", f"{100 * accuracy:g}", expected) from error
    kept = [reason is None for reason in static_exclusions(candidates, limits)]
    return candidates.only(np.array(kept))


def read(folder: Path, scale: float) -> dict[str, list[Trace]]:
    """The traces below `folder` by family, which is the folder that holds them.

    Raises InvalidInput if there are none, if one cannot be read, or if `scale` is no whole number
    of hundredths.
    """
    per_cent = round(100 * scale)
    if abs(100 * scale - per_cent) > 1e-6:
        raise InvalidInput("--scale", scale, "whole hundredths, such as 0.25")
    files = sorted(folder.rglob("*.csv"))
    if not files:
        raise InvalidInput("--traces", str(folder), "a folder with traces (*.csv) in it")
    families: dict[str, list[Trace]] = {}
    for file in files:
        try:
            spans = parse_trace(file.read_text("utf-8"), str(file))
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput("--traces", str(file), f"a readable trace ({error})") from error
        scaled_spans = spans if scale == 1 else scaled(spans, per_cent)
        family = file.resolve().parent.name
        families.setdefault(family, []).append(tuple(scaled_spans))
    return dict(sorted(families.items()))


def figures(
    family: str,
    network: str,
    traces: Iterable[Trace],
    candidates: Candidates,
    settings: PolicyOptions,
    cascade: Cascade | None = None,
    *,
    decides: bool = False,
) -> list[SimulationFigures]:
    """Every policy over the traces of one family; with `decides` those that can decide."""
    traces = list(traces)
    whole = (candidates.cut[: candidates.edge_only] == 0).any()
    runs = {
        name: [
            simulate(create(name, candidates, settings), spans, cascade, decides=decides)
            for spans in traces
        ]
        for name in (DECIDING if decides else POLICIES)
        if whole or name != SERVER_ONLY
    }
    runs[ORACLE] = [
        oracle(candidates, spans, cascade, decides=decides, accuracy=settings.accuracy)
        for spans in traces
    ]
    best = float(_latencies(runs[ORACLE]).mean())
    return [_summed(family, network, name, runs[name], best) for name in ORDER if name in runs]


def _summed(
    family: str, network: str, policy: str, runs: Sequence[Run], best: float
) -> SimulationFigures:
    latencies = _latencies(runs)
    mean = float(latencies.mean())
    p95, p99, p999 = (float(q) for q in np.quantile(latencies, (0.95, 0.99, 0.999)))
    return SimulationFigures(
        family=family,
        network=network,
        policy=policy,
        mean_ms=mean,
        p95_ms=p95,
        p99_ms=p99,
        p999_ms=p999,
        percent_of_oracle=100 * best / mean,
        switches_per_100=100 * sum(one.switches for one in runs) / len(latencies),
    )


def _latencies(runs: Sequence[Run]) -> Array:
    return np.concatenate([one.latencies for one in runs])


def table(family: str, found: Sequence[SimulationFigures]) -> Table:
    """One family: a row a network and policy."""
    grid = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, title=family, title_justify="left")
    grid.add_column("model", no_wrap=True)
    grid.add_column("policy", no_wrap=True)
    for name in ("mean", "p95", "p99", "p99.9", "% of oracle", "switches/100"):
        grid.add_column(name, justify="right", no_wrap=True)
    last = None
    for one in found:
        times = (one.mean_ms, one.p95_ms, one.p99_ms, one.p999_ms)
        grid.add_row(
            Text("" if one.network == last else one.network),
            one.policy,
            *(f"{value:,.0f}" for value in times),
            f"{one.percent_of_oracle:.1f}",
            f"{one.switches_per_100:.1f}",
        )
        last = one.network
    return grid


def _conditions(edge: Profile, server: Profile, candidates: Candidates, slowdown: float) -> str:
    alone = float(candidates.edge_ms[candidates.edge_only])
    return (
        f"{edge.network}: {alone:,.0f} ms on the edge alone ({edge.machine()}, times "
        f"{slowdown:g}); server {server.machine()}; {len(candidates)} candidates."
    )


def _links(families: Mapping[str, Sequence[Trace]], codecs: Sequence[str], scale: float) -> str:
    counts = ", ".join(f"{len(traces)} of {name}" for name, traces in families.items())
    rates = "as recorded" if scale == 1 else f"times {scale:g}"
    return (
        f"Milliseconds of latency over all frames, simulated: traces {counts}, each once from "
        f"beginning to end, rates {rates} in both directions; one frame at a time, the next when "
        f"one has its answer; codecs {', '.join(codecs) or 'all'}."
    )
