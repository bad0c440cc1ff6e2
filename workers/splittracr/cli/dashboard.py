"""`splittracr dashboard`: a Grafana dashboard of a study, drawn from any Prometheus."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, tzinfo
from pathlib import Path

from rich.console import Console

from splittracr.experiment.errors import InvalidInput, naming, nearest
from splittracr.monitoring import panels
from splittracr.monitoring.collect import (
    Collected,
    TimeRange,
    VariableValue,
    collect,
    variable_values,
)
from splittracr.monitoring.panels import Board
from splittracr.monitoring.prometheus import MAX_POINTS, Prometheus, connect
from splittracr.results.words import plural

_POINTS = 300  # of a series, unless samples are farther apart
_RETENTION = 400 * 24 * 3600.0  # seconds in which a study is looked for
_SCRAPE = 15.0  # seconds between two samples if it cannot be seen
_KNOWN = '{__name__=~"splittracr_samples_expected|splittracr_study_info"}'
_FRAMES = "splittracr_samples_expected"  # from an edge's start to its end
_ABOUT = "splittracr_study_info"  # of the operator, if edges were not scraped


@dataclass(frozen=True)
class Options:
    """The options of the command; None if left out."""

    study: str
    prometheus: str
    out: Path
    namespace: str | None
    dashboard: str
    start: str | None
    end: str | None
    since: float | None  # seconds
    step: float | None  # seconds


async def draw(options: Options, console: Console) -> None:
    """Write the file. Raises InvalidInput that names the bad option."""
    _check(options)
    board = panels.load(options.dashboard)
    zone = datetime.now().astimezone().tzinfo
    assert zone is not None
    async with connect(options.prometheus) as client:
        namespace = await _namespace(client, options)
        time_range = await _time_range(client, options, namespace, zone)
        own: Mapping[str, VariableValue] = {"namespace": namespace, "study": options.study}
        chosen = own if options.dashboard == "study" else {}  # the others show all studies
        values = await variable_values(client, board, chosen)
        collected = await collect(client, board, values, time_range)
    _write(options.out, board, collected, time_range, values, zone)
    _print(console, options.out, board, collected)


def _check(options: Options) -> None:
    if options.dashboard not in panels.NAMES:
        raise InvalidInput("--dashboard", options.dashboard, " or ".join(panels.NAMES))
    given = {"--from": options.start, "--to": options.end}
    for option, value in given.items():
        if options.since is not None and value is not None:
            raise InvalidInput(option, value, "either --from and --to or --since")


async def _namespace(client: Prometheus, options: Options) -> str:
    """The study's namespace. Raises InvalidInput if there is no such study, or several."""
    known = await client.label_values("study", _KNOWN)
    if options.study not in known:
        expected = nearest(options.study, known) if known else "a study; Prometheus knows none"
        raise InvalidInput("STUDY", options.study, expected)
    selector = f'{_KNOWN[:-1]}, study="{options.study}"}}'
    found = await client.label_values("study_namespace", selector)
    if options.namespace is not None and options.namespace not in found:
        raise InvalidInput("--namespace", options.namespace, nearest(options.namespace, found))
    if options.namespace is None and len(found) > 1:
        raise InvalidInput("--namespace", options.namespace, nearest("", found))
    return options.namespace or found[0]


async def _time_range(
    client: Prometheus, options: Options, namespace: str, zone: tzinfo
) -> TimeRange:
    """The time range as asked for, else from the study's first to its last sample."""
    now = await client.now()
    start, end = _moment(options.start, "--from", zone), _moment(options.end, "--to", zone)
    if options.since is not None:
        start, end = now - options.since, now
    if start is not None and end is not None and end <= start:
        raise InvalidInput("--to", options.end, "a time after --from")
    selected = f'{{study_namespace="{namespace}", study="{options.study}"}}'
    searched = now - _RETENTION if start is None else start, now if end is None else end
    span = None
    for metric in (_FRAMES, _ABOUT):
        span = span or await client.sample_range(metric + selected, *searched)
    if span is None:
        raise InvalidInput("STUDY", options.study, "a study with samples in this time range")
    start, end = span.start if start is None else start, span.end if end is None else end
    scrape = span.interval or _SCRAPE
    return TimeRange(start, end, _step(options.step, start, end, scrape), scrape)


def _step(step: float | None, start: float, end: float, scrape: float) -> float:
    """Seconds; never less than the time between two samples unless asked for."""
    if step is None:
        return max((end - start) / _POINTS, scrape)
    if (end - start) / step > MAX_POINTS:
        shortest = (end - start) / MAX_POINTS
        raise InvalidInput("--step", f"{step:g}s", f"at least {shortest:.1f}s for this time range")
    return step


def _moment(text: str | None, option: str, zone: tzinfo) -> float | None:
    """Unix seconds of an ISO 8601 time, in the zone of this machine unless it names one."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        expected = "a time such as 2026-05-01T12:00 or 2026-05-01T12:00:30Z"
        raise InvalidInput(option, text, expected) from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).timestamp()


def _write(
    out: Path,
    board: Board,
    collected: Collected,
    time_range: TimeRange,
    values: Mapping[str, VariableValue],
    zone: tzinfo,
) -> None:
    from splittracr.monitoring import draw

    heading = draw.heading(board, values, zone)
    figure = draw.figure(board, collected, time_range, heading)
    with naming(out):
        if out.suffix == ".png":
            out.write_bytes(draw.png(figure))
        else:
            out.write_text(draw.page(figure, board, collected, heading), encoding="utf-8")


def _print(console: Console, out: Path, board: Board, collected: Collected) -> None:
    drawn = [panel for panel in board.panels if panel.targets]
    empty = [panel.title for panel in drawn if collected.is_empty(panel)]
    without = f", {len(empty)} without data ({', '.join(empty)})" if empty else ""
    console.print(f"{out}: {plural(len(drawn), 'panel')}{without}", highlight=False, markup=False,
                  soft_wrap=True)  # fmt: skip
    for panel in drawn:
        for error in collected.errors(panel):
            console.print(f"{panel.title}: {error}", style="red", highlight=False, markup=False)
