"""Tables for the terminal, 80 columns wide if necessary."""

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from splittracr.experiment.contracts import EDGE, SERVER
from splittracr.experiment.spec import Mode
from splittracr.experiment.types import Record, Tier
from splittracr.results import audits, journal
from splittracr.results.energy import of_machine
from splittracr.results.environment import read_environment
from splittracr.results.summary import CutFigures, Summary
from splittracr.results.words import (
    NOTHING,
    REFUSED,
    agreement,
    best_prediction,
    by_codec,
    decimals,
    differing,
    gaps,
    headline,
    human_bytes,
    joules,
    mixed_codecs,
    parts_and_mean,
    percent,
    plural,
    precision,
    recorded,
    shared_energy,
)

_CHOOSING_MODES = (Mode.SWEEP, Mode.ADAPTIVE)
"""Modes that choose cuts if the manifest names none."""


def show(summary: Summary, out: Path, console: Console) -> None:
    """Print the result, both tables and the place of the report in the results folder `out`.

    Raises InvalidInput if the folder has no journal.
    """
    every = journal.read(out / journal.FILE)
    records = [record for record in every if record.uid == summary.study.uid]
    console.print(Text(headline(summary), style="bold"))
    if summary.cuts:
        console.print(latency_table(summary))
        if any(cut.energy for cut in summary.cuts):
            console.print(energy_table(summary))
        console.print(predictions_table(records))
    if summary.outputs and summary.outputs.differing:
        sentence = f"Outputs differ. {differing(summary.outputs)}"
        console.print(Text(sentence, style="yellow"), soft_wrap=True)
    environment = read_environment(out)
    partition = environment.manifest.spec.partition
    if environment.refused and partition.mode in _CHOOSING_MODES and not partition.cuts:
        text = f"{plural(len(environment.refused), 'cut')} left out. {REFUSED}; see the report."
        console.print(Text(text), soft_wrap=True)
    found = audits.note(partition.cascade, records)
    if found is not None and found.refuted:
        sentence = f"{found.heading} {found.text}"
        console.print(Text(sentence, style="yellow"), soft_wrap=True)
    if summary.study.labels:
        console.print(Text(summary.study.labels), soft_wrap=True)
    console.print(Text(f"Report: {out / 'report.html'}"), soft_wrap=True)


def latency_table(summary: Summary) -> Table:
    """One row a cut. Edge, link and server are means and add up to the mean, as shown."""
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
        caption=_caption(summary),
        caption_justify="left",
    )
    labelled = any(cut.accuracy for cut in summary.cuts)
    failures = any(cut.failed for cut in summary.cuts)
    table.add_column("cut", overflow="fold", min_width=8)
    for name in ("#", "work", "sent", *Tier, "mean", "p50", "p95"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("n/\nfailed" if failures else "n", justify="right", no_wrap=True)
    scores = list(dict.fromkeys(name for cut in summary.cuts for name in cut.scores))
    if labelled:
        table.add_column("top-1", justify="right", no_wrap=True)
    for name in scores:
        table.add_column(name, justify="right", no_wrap=True)
    digits = decimals(max((c.p95_ms for c in summary.cuts if c.p95_ms is not None), default=0))
    for cut in summary.cuts:
        best = cut.index == summary.winner
        cells = [*_cells(cut, digits), f"{cut.n}/{cut.failed}" if failures else str(cut.n)]
        if labelled:
            cells.append(percent(cut.accuracy.top1 if cut.accuracy else None))
        found = (cut.scores.get(name) for name in scores)
        cells += [NOTHING if one is None else precision(one.value) for one in found]
        # Text, so that a name with brackets is not taken for markup.
        table.add_row(*map(Text, cells), style="bold" if best else None)
    return table


_ENERGY = "Energy of a frame, what the machine draws while it waits included."


def energy_table(summary: Summary) -> Table:
    """Energy of a frame on each machine by cut, with its source and kind."""
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
        caption=" ".join([_ENERGY, shared_energy(summary)]).strip(),
        caption_justify="left",
    )
    table.add_column("cut", overflow="fold", min_width=8)
    for name in ("edge", "server"):
        table.add_column(name, justify="right", no_wrap=True)
        table.add_column("by", overflow="fold")
    for cut in summary.cuts:
        cells = [cut.cut]
        for role in (EDGE, SERVER):
            found = of_machine(cut.energy, role)
            by = NOTHING if found is None else f"{found.source}, {found.kind}"
            cells += [joules(None if found is None else found.joules_per_frame), by]
        table.add_row(*map(Text, cells))
    return table


def predictions_table(records: Sequence[Record], limit: int = 10) -> Table:
    """Sample to top prediction, the first record of each sample, at most `limit` of them."""
    first: dict[str, Record] = {}  # by name: a workload may repeat its samples
    for record in sorted(records, key=lambda record: record.sample):
        known = first.get(record.name)
        if known is None or (known.outcome == "failed" and record.outcome == "ok"):
            first[record.name] = record
    left = len(first) - limit
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
        caption=f"{plural(left, 'sample')} more in records.csv" if left > 0 else None,
        caption_justify="left",
    )
    table.add_column("sample", overflow="fold", max_width=36)
    table.add_column("prediction", overflow="fold")
    table.add_column("score", justify="right", no_wrap=True)
    for record in list(first.values())[:limit]:
        table.add_row(*map(Text, _prediction_cells(record)))
    return table


def _caption(summary: Summary) -> str:
    caption = "Milliseconds. Edge, link and server are means and add up to the mean."
    if any(cut.frames != cut.n for cut in summary.cuts):
        frames = sum(cut.frames for cut in summary.cuts)
        caption += f"\nn counts samples; they came in {plural(frames, 'frame')}, each timed once."
    elsewhere = sum(cut.unanswered for cut in summary.cuts)
    if elsewhere:
        caption += f"\nFinished on the edge, and not in the figures: {plural(elsewhere, 'sample')}."
    resent = sum(cut.resent for cut in summary.cuts)
    if resent:
        caption += f"\nWaited for a lost server, and not in the times: {plural(resent, 'sample')}."
    if summary.cuts and all(cut.work is None for cut in summary.cuts):
        caption += "\nWork is unknown: the model has operations that cannot be counted."
    if not summary.study.finished:
        caption += "\nThe study was broken off: figures cover what was recorded."
    if summary.counts.missing:
        caption += f"\nRecorded: {recorded(summary.counts)}."
    if summary.gaps:
        caption += f"\nNo records: {gaps(summary.gaps)}."
    if summary.study.emulated:
        caption += f"\nEmulated: {summary.study.emulated}."
    mixed = mixed_codecs(summary)
    if mixed:
        caption += f"\nSeveral codecs at a cut. {mixed}"
    caption += _scores_caption(summary)
    for found in summary.agreement:
        caption += f"\nLossy: {agreement(found)}."
    if summary.study.random_weights:
        caption += f"\nWeights: {summary.study.weights}; predictions mean nothing."
    return caption


_SCORES = {
    "mAP": "COCO's, over overlaps from 0.50 to 0.95",
    "OKS mAP": "COCO's for keypoints, over similarities (OKS) from 0.50 to 0.95",
    "mIoU": "the mean overlap of classes, over the pixels of all pictures",
}


def _scores_caption(summary: Summary) -> str:
    caption = ""
    for name, meaning in _SCORES.items():
        if any(name in cut.scores for cut in summary.cuts):
            by_codecs = by_codec(summary, name)
            more = f"\n{name} by codec: {by_codecs}." if by_codecs else ""
            caption += f"\n{name} is {meaning}.{more}"
    return caption


def _cells(cut: CutFigures, digits: int) -> list[str]:
    return [
        cut.cut,
        str(cut.index),
        percent(cut.work),
        NOTHING if cut.bytes_up is None else human_bytes(cut.bytes_up),
        *parts_and_mean(cut, digits),
        *(NOTHING if p is None else f"{p:.{digits}f}" for p in (cut.p50_ms, cut.p95_ms)),
    ]


def _prediction_cells(record: Record) -> list[str]:
    if record.outcome == "failed":
        return [record.name, f"failed: {record.error}", NOTHING]
    text, score = best_prediction(record.prediction)
    mark = {True: " ✓", False: " ✗", None: ""}[record.top1]
    return [record.name, text + mark, NOTHING if score is None else f"{score:.2f}"]
