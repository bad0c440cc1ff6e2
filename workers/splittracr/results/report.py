"""The report: one HTML file without dependencies, and all files beside it.

`write_results` reads the records and the environment of a results folder and derives the rest.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import jinja2
import polars as pl
from markupsafe import Markup

from splittracr.experiment import manifest
from splittracr.experiment.contracts import EDGE
from splittracr.experiment.energy import MachineLoad
from splittracr.experiment.types import STAGES, Cut, Exactness, Record, Tier
from splittracr.results import (
    advice_words,
    audits,
    columns,
    flat,
    journal,
    latex,
    layers,
    plots,
    summary,
    tables,
    timeline,
    words,
)
from splittracr.results.advice_words import Section
from splittracr.results.environment import End, Environment, read_environment
from splittracr.results.files import write_atomically
from splittracr.results.flat import CutRow
from splittracr.results.gallery import Shown, gallery
from splittracr.results.label_tables import label_tables
from splittracr.results.labels import read_labels
from splittracr.results.layer_plot import NAME as LAYER_PLOT
from splittracr.results.layer_plot import layer_plot
from splittracr.results.layers import Layer
from splittracr.results.plots import Plot
from splittracr.results.summary import CutFigures, Summary
from splittracr.results.workbook import workbook

FILE = "report.html"
"""The report's name in a results folder."""

_MAX_ERRORS = 5
_SLOWEST = 8  # operations of each end that are shown
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Study:
    """The data of a results folder. `every` also has records of other studies."""

    environment: Environment
    records: Sequence[Record]
    every: pl.DataFrame
    figures: Summary
    plots: Sequence[Plot]
    layers: Sequence[Layer]
    advice: Section | None


def read_study(out: Path) -> Study:
    """Derive tables, summary and figures from `records.jsonl` and `environment.json` in `out`.

    Raises InvalidInput if one of the two is missing or damaged.
    """
    environment = read_environment(out)
    every = journal.read(out / journal.FILE)
    records = [record for record in every if record.uid == environment.uid]
    if len(records) < len(every):
        _log.warning(
            "%s of other studies: in the tables, not in the summary",
            words.plural(len(every) - len(records), "record"),
        )
    samples = tables.frame(records)
    figures = tables.summarise(samples, environment, read_labels(out))
    batch_size = environment.manifest.spec.workload.batch_size
    timed = tables.timed(samples, batch_size)
    rows = layers.layers(environment, figures)
    drawn = [
        *plots.plots(figures, timed),
        *timeline.timeline(environment, records),
        *layer_plot(rows),
    ]
    found = advice_words.read(out, environment)
    advice = advice_words.section(environment, figures, records, found)
    everything = samples if len(records) == len(every) else tables.frame(every)
    return Study(environment, records, everything, figures, drawn, rows, advice)


def write_results(out: Path) -> Summary:
    """Write tables, summary, figures and report of the results folder `out` from its records.

    Reads as `read_study` does; every other file is written again, each in one step.
    """
    study = read_study(out)
    _write_data(out, study.every, study.figures)
    _write_layers(out, study.layers)
    _write_tables(out, study.environment, study.figures, study.layers)
    drawings = {plot.name: (plot, plots.svg(plot)) for plot in study.plots}
    _write_figures(out / "figures", drawings)
    shown = gallery(out, study.records)
    page = html(study, drawings, shown)
    write_atomically(out / FILE, page.encode())
    return study.figures


def html(
    study: Study, drawings: Mapping[str, tuple[Plot, bytes]], pictures: Sequence[Shown]
) -> str:
    """The page. Its text comes from the arguments alone: the same ones give the same page."""
    figures, environment = study.figures, study.environment
    engine = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    engine.filters |= {
        "percent": words.percent,
        "bytes": _bytes,
        "work": words.work,
        "breakable": _breakable,
    }
    template = resources.files(__package__).joinpath("report.html.j2").read_text("utf-8")
    return engine.from_string(template).render(
        summary=figures,
        environment=environment,
        headline=words.headline(figures),
        notes=_notes(figures, environment, study.records),
        advice=study.advice,
        plots={n: (plot, plots.inline(n, drawing)) for n, (plot, drawing) in drawings.items()},
        latency=_latency_rows(figures),
        rated=_rated(figures),
        batched=any(cut.frames != cut.n for cut in figures.cuts),
        labelled=any(cut.accuracy for cut in figures.cuts),
        labels=label_tables(figures, environment.manifest.spec.postprocess.confidence_percent),
        digested=any(cut.digests for cut in figures.cuts),
        tiers=list(Tier),
        stages=_stage_rows(figures),
        energy=_energy_rows(figures),
        operations=_operation_rows(study.layers),
        energy_problems=environment.energy_problems,
        usage=_usage_rows(environment),
        pictures=pictures,
        classes=_class_rows(figures, environment),
        ends=_ends(environment),
        manifest=manifest.dump(environment.manifest),
        started=f"{environment.started_at:%Y-%m-%d %H:%M %Z}",
        nothing=words.NOTHING,
    )


def _write_data(out: Path, samples: pl.DataFrame, figures: Summary) -> None:
    write_atomically(out / "records.parquet", tables.parquet(samples))
    write_atomically(out / "records.csv", tables.csv(samples))
    write_atomically(out / summary.FILE, figures.model_dump_json(indent=2).encode() + b"\n")


def _write_layers(out: Path, rows: Sequence[Layer]) -> None:
    """Write both files; without rows, remove those of an earlier report."""
    files = {ending: out / f"{layers.FILE}.{ending}" for ending in ("parquet", "csv")}
    if not rows:
        for file in files.values():
            file.unlink(missing_ok=True)
        return
    made = columns.table(Layer, rows)
    write_atomically(files["parquet"], tables.parquet(made))
    write_atomically(files["csv"], tables.csv(made))


def _write_tables(
    out: Path, environment: Environment, figures: Summary, rows: Sequence[Layer]
) -> None:
    """The figures as tables for spreadsheets and papers."""
    by_cut = columns.table(CutRow, flat.cut_rows(figures))
    stages = [flat.stage_cells(cut) for cut in figures.cuts]
    by_cut = by_cut.hstack(pl.DataFrame(stages, schema=dict.fromkeys(flat.STAGE_KEYS, pl.Float64)))
    energy = columns.table(flat.EnergyRow, flat.energy_rows(figures))
    sheets = [
        ("Overall", by_cut, False),
        ("Layers", columns.table(Layer, rows), False),
        ("Energy", energy, True),
        ("Machines", columns.table(flat.LoadRow, flat.load_rows(environment)), True),
    ]
    write_atomically(out / "summary.csv", tables.csv(by_cut))
    write_atomically(out / "summary.tex", latex.document(figures).encode())
    write_atomically(out / "summary.xlsx", workbook(sheets, environment.started_at))


def _write_figures(folder: Path, drawings: Mapping[str, tuple[Plot, bytes]]) -> None:
    """Write each figure as SVG and PNG; remove old files of figures that are not drawn now."""
    for name in (*plots.NAMES, timeline.NAME, LAYER_PLOT):
        vector, raster = folder / f"{name}.svg", folder / f"{name}.png"
        if name in drawings:
            plot, drawing = drawings[name]
            write_atomically(vector, drawing)
            write_atomically(raster, plots.png(plot))
        else:
            vector.unlink(missing_ok=True)
            raster.unlink(missing_ok=True)


def _breakable(text: str) -> Markup:
    """The text, escaped, with places to break a line inside of dotted names."""
    return Markup("<wbr>").join(re.split(r"(?<=[._/])(?=\S)", text))


def _bytes(value: float | None) -> str:
    return words.NOTHING if value is None else words.human_bytes(value)


def _notes(
    figures: Summary, environment: Environment, records: Sequence[Record]
) -> list[tuple[str, str]]:
    """Notes that a reader needs before the figures, as (heading, text)."""
    study, counts = figures.study, figures.counts
    notes = []
    if not study.finished:
        text = "It did not come to its end; figures cover only what was recorded until then"
        notes.append(("Study was broken off.", f"{text}: {words.recorded(counts)}."))
    if study.emulated:
        notes.append(("Emulated.", f"{_sentence(study.emulated)} Times hold for that only."))
    if study.random_weights:
        text = f"Predictions mean nothing; times and sizes do. Loaded: {study.weights}."
        notes.append(("Random weights.", text))
    if figures.gaps:
        heading = f"{words.plural(len(figures.gaps), 'gap')} between records."
        text = f"No records: {words.gaps(figures.gaps)}. Throughput counts that time, latency not."
        notes.append((heading, text))
    if counts.failed:
        notes.append((f"{words.plural(counts.failed, 'sample')} failed.", _errors(records)))
    notes += _left_out(figures)
    mixed = words.mixed_codecs(figures)
    if mixed:
        notes.append(("Several codecs at a cut.", mixed))
    if figures.agreement:
        text = "; ".join(map(words.agreement, figures.agreement))
        notes.append(("Lossy codecs.", f"Against the uncoded model: {text}."))
    inexact = words.exactness(_measured(figures, environment))
    if inexact:
        notes.append(("Not bit-equal to PyTorch.", f"{inexact}, as start-up found."))
    shared = words.shared_energy(figures)
    if shared:
        notes.append(("Energy of one machine.", shared))
    if environment.refused:
        text = f"{words.REFUSED}: {', '.join(environment.refused)}."
        notes.append((f"{words.plural(len(environment.refused), 'cut')} refused.", text))
    if figures.outputs and figures.outputs.differing:
        notes.append(("Outputs differ.", words.differing(figures.outputs)))
    notes += _audits(environment, records)
    return notes


def _audits(environment: Environment, records: Sequence[Record]) -> list[tuple[str, str]]:
    """The note on the audits of a cascade, if there were any."""
    found = audits.note(environment.manifest.spec.partition.cascade, records)
    return [] if found is None else [(found.heading, found.text)]


def _measured(figures: Summary, environment: Environment) -> list[Cut]:
    """The cuts that have figures."""
    indices = {cut.index for cut in figures.cuts}
    return [cut for cut in environment.cuts if cut.index in indices]


def _class_rows(figures: Summary, environment: Environment) -> list[tuple[str, list[str]]]:
    """Class, largest relative error and top-1 agreement of each cut; none if all are exact."""
    cuts = _measured(figures, environment)
    if all(cut.exactness is Exactness.EXACT for cut in cuts):
        return []
    return [
        (
            cut.name,
            [
                cut.exactness.value,
                words.NOTHING if cut.largest_error is None else f"{cut.largest_error:.1e}",
                words.NOTHING if cut.top1_agreement is None else words.percent(cut.top1_agreement),
            ],
        )
        for cut in cuts
    ]


def _left_out(figures: Summary) -> Iterator[tuple[str, str]]:
    """Notes on samples that figures leave out, though they did not fail."""
    unanswered = sum(cut.unanswered for cut in figures.cuts)
    if unanswered:
        text = "The edge finished them; the figures of their cuts leave them out."
        yield f"{words.plural(unanswered, 'sample')} got no answer.", text
    resent = sum(cut.resent for cut in figures.cuts)
    if resent:
        text = "Times leave them out, since they contain the outage. Their predictions count."
        yield f"{words.plural(resent, 'sample')} waited for a lost server.", text


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."


def _errors(records: Sequence[Record]) -> str:
    """The most common errors with their counts."""
    failed = (record for record in records if record.outcome == "failed")
    common = Counter(record.error or "no reason recorded" for record in failed).most_common()
    listed = "; ".join(
        f"{count}\u00a0× {words.middle_cut(error, 160)}" for error, count in common[:_MAX_ERRORS]
    )
    more = f"; and {len(common) - _MAX_ERRORS} other errors" if len(common) > _MAX_ERRORS else ""
    return f"Figures leave them out. Reasons: {listed}{more}."


def _latency_rows(figures: Summary) -> list[tuple[CutFigures, list[str]]]:
    """Cells of the latency table: edge, link, server, mean, interval, percentiles."""
    largest = max((cut.p99_ms for cut in figures.cuts if cut.p99_ms is not None), default=0.0)
    digits = words.decimals(largest)
    rows = []
    for cut in figures.cuts:
        interval = words.NOTHING
        if cut.total_ms is not None and cut.total_ms.interval is not None:
            interval = " – ".join(f"{end:,.{digits}f}" for end in cut.total_ms.interval)
        percentiles = [_number(p, digits) for p in (cut.p50_ms, cut.p95_ms, cut.p99_ms)]
        rate = [_number(cut.frames_per_second, 2)] if _rated(figures) else []
        rows.append((cut, [*words.parts_and_mean(cut, digits), interval, *percentiles, *rate]))
    return rows


def _rated(figures: Summary) -> bool:
    return any(cut.frames_per_second is not None for cut in figures.cuts)


def _number(value: float | None, digits: int) -> str:
    return words.NOTHING if value is None else f"{value:,.{digits}f}"


def _energy_rows(figures: Summary) -> list[tuple[str, list[str]]]:
    """Cells of the energy table, one row a cut and zone."""
    rows = []
    for cut in figures.cuts:
        for one in cut.energy:
            windows = [
                f"{value:.3g}{unit}" if value is not None else words.NOTHING
                for value, unit in (
                    (one.watts, " W"),
                    (one.seconds, " s"),
                    (one.resolution_seconds, " s"),
                    (one.readings_per_second, " /s"),
                )
            ]
            named = [one.role, one.component, one.zone, f"{one.source}, {one.kind}"]
            value = one.note or words.joules(one.joules_per_frame)
            rows.append((cut.cut, [*named, value, str(one.frames or words.NOTHING), *windows]))
    return rows


def _operation_rows(rows: Sequence[Layer]) -> list[tuple[str, list[str]]]:
    """Cells of the table of the slowest operations at each end."""
    ends = dict.fromkeys((row.role, row.edge) for row in rows)
    shown = [
        row
        for end in ends
        for row in layers.slowest([r for r in rows if (r.role, r.edge) == end], _SLOWEST)
    ]
    energy = any(row.energy_joules is not None for row in rows)
    made = []
    for row in shown:
        cells = [
            row.role if row.role != EDGE or len(ends) < 3 else row.edge,
            row.type,
            f"{row.mean_ms:,.3f}",
            f"{row.p95_ms:,.3f}",
            str(row.readings),
            words.percent(row.share),
            row.shape.replace("x", "×"),
            words.human_bytes(row.bytes),
            f"{row.parameters:,}",
            words.NOTHING if row.flops is None else words.human_count(row.flops),
        ]
        made.append((row.operation, [*cells, *([words.joules(row.energy_joules)] * energy)]))
    return made


def _usage_rows(environment: Environment) -> list[tuple[str, list[str]]]:
    """Mean and largest of each figure that a machine shows, one row a figure and machine."""
    rows = []
    for one in environment.usage:
        for name in MachineLoad.model_fields:
            mean, largest = getattr(one.mean, name), getattr(one.largest, name)
            if mean is not None:
                cells = [one.role, f"{mean:,.4g}", f"{largest:,.4g}"]
                rows.append((name.replace("_", " "), cells))
        if one.memory_bytes is not None:
            peak = words.human_bytes(one.memory_bytes)
            rows.append(("resident memory of the worker", [one.role, words.NOTHING, peak]))
    return rows


def _stage_rows(figures: Summary) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Names of the stages that happened, and their means by cut."""
    names = [s for s in STAGES if any(cut.stages_ms.get(s) for cut in figures.cuts)]
    rows = [
        (cut.cut, [_number(cut.stages_ms.get(stage), 2) for stage in names]) for cut in figures.cuts
    ]
    return names, rows


def _ends(environment: Environment) -> list[tuple[str, str, str]]:
    """Rows (what, at the edge, at the server) of the environment table."""
    edge, server = environment.edge, environment.server
    rows = [
        (name.replace("_", " "), _fact(edge, name), _fact(server, name))
        for name in End.model_fields
        if name != "versions"
    ]
    packages = sorted({*edge.versions, *(server.versions if server else {})})
    rows += [
        (name, edge.versions.get(name, words.NOTHING), _version(server, name)) for name in packages
    ]
    return rows


def _fact(end: End | None, field: str) -> str:
    return words.NOTHING if end is None else str(getattr(end, field))


def _version(end: End | None, package: str) -> str:
    return words.NOTHING if end is None else end.versions.get(package, words.NOTHING)
