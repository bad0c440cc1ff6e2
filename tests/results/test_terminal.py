import io
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from splittracr.experiment.spec import ExperimentSpec
from splittracr.experiment.types import Place, Record
from splittracr.results import labels, report, terminal
from splittracr.results.summary import Summary
from splittracr.results.tables import frame, summarise
from tests.results import synthetic

CUTS = synthetic.cuts(12)


def shown(table: Table, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def summary_of(records: list[Record], emulated: str | None = None) -> Summary:
    return summarise(frame(records), synthetic.environment(CUTS, emulated=emulated))


def test_parts_of_a_row_add_up_to_its_mean_as_shown() -> None:
    table = terminal.latency_table(summary_of(synthetic.records(CUTS, samples=7, repeats=2)))
    rows = [line.split() for line in shown(table, 200) if " kB " in line or " MB " in line]
    assert len(rows) == 11  # `output` sends 0 B
    for row in rows:
        edge, link, server, mean = (round(10 * float(cell)) for cell in row[6:10])
        assert edge + link + server == mean


@pytest.mark.parametrize("labelled", [False, True])
def test_it_fits_80_columns_and_loses_no_name(labelled: bool) -> None:
    cuts = synthetic.cuts(60, long_names=True)
    records = synthetic.records(cuts, samples=2, labelled=labelled)
    records[0] = synthetic.failed(records[0])
    summary = summarise(frame(records), synthetic.environment(cuts))
    lines = shown(terminal.latency_table(summary))
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)
    # A folded name continues at the same place of the next lines.
    width = next(line.index("#") for line in lines if "#" in line) - 2
    names = "".join(line[:width].strip() for line in lines)
    assert all(cut.name in names for cut in cuts)


def test_columns_that_say_nothing_are_left_out() -> None:
    plain = shown(terminal.latency_table(summary_of(synthetic.records(CUTS, samples=2))))
    assert not any("failed" in line or "top-1" in line for line in plain)
    records = synthetic.records(CUTS, samples=8, labelled=True)
    full = shown(terminal.latency_table(summary_of([synthetic.failed(records[0]), *records[1:]])))
    assert any("failed" in line for line in full)
    assert any("top-1" in line for line in full)
    assert any("7/1" in line for line in full)


def test_work_that_is_not_known_is_no_number() -> None:
    cuts = [cut.model_copy(update={"work_by": "time"}) for cut in CUTS]
    environment = synthetic.environment(tuple(cuts))
    summary = summarise(frame(synthetic.records(tuple(cuts))), environment)
    assert [cut.work for cut in summary.cuts] == [None] * len(cuts)
    lines = shown(terminal.latency_table(summary))
    assert max(map(len, lines)) <= 80
    assert any("Work is unknown" in line for line in lines)
    known = shown(terminal.latency_table(summary_of(synthetic.records(CUTS))))
    assert not any("Work is unknown" in line for line in known)


def test_labels_are_said_below_the_tables(tmp_path: Path) -> None:
    records = synthetic.records(CUTS[1:2], labelled=True)
    study = synthetic.write_study(tmp_path, records, synthetic.environment(CUTS))
    console = Console(file=io.StringIO(), width=80)
    labels.write_labels(study, "Labels: 2 classes matched.")
    terminal.show(report.write_results(study), study, console)
    assert isinstance(console.file, io.StringIO)
    assert "Labels: 2 classes matched.\nReport: " in console.file.getvalue()


def test_batches_and_a_broken_off_study_are_said() -> None:
    environment = synthetic.environment(CUTS, batch_size=4, finished_at=None)
    summary = summarise(frame(synthetic.batched(CUTS[:2], 3, 4)), environment)
    lines = shown(terminal.latency_table(summary))
    assert "n counts samples; they came in 6 frames, each timed once." in lines
    assert "The study was broken off: figures cover what was recorded." in lines


def test_samples_that_the_edge_finished_are_said() -> None:
    records = synthetic.records(CUTS[1:2], samples=4)
    assert not any("Finished on" in line for line in shown(table_of(records)))
    records[:2] = [one.model_copy(update={"finished_on": Place.EDGE}) for one in records[:2]]
    assert "Finished on the edge, and not in the figures: 2 samples." in shown(table_of(records))


def test_a_cut_with_several_codecs_is_said() -> None:
    records = synthetic.records(CUTS[1:2], samples=4)
    assert not any("Several codecs" in line for line in shown(table_of(records)))
    records[0] = records[0].model_copy(update={"codec": "float16"})
    said = " ".join(" ".join(shown(table_of(records))).split())
    average = f"The figures average the samples of {CUTS[1].name} (1 by float16, 3 by raw)."
    assert f"Several codecs at a cut. {average}" in said


def table_of(records: list[Record]) -> Table:
    return terminal.latency_table(summary_of(records))


def test_emulation_is_said() -> None:
    summary = summary_of(synthetic.records(CUTS, samples=2), emulated="edge slowed to 400 %")
    assert "Emulated: edge slowed to 400 %." in shown(terminal.latency_table(summary))


def test_a_name_with_brackets_is_not_taken_for_markup() -> None:
    cut = CUTS[1].model_copy(update={"name": "[bold]x"})
    record = synthetic.record(cut, name="[red]y.jpg")
    assert any("[bold]x" in line for line in shown(terminal.latency_table(summary_of([record]))))
    assert any("[red]y.jpg" in line for line in shown(terminal.predictions_table([record])))


def test_predictions_show_the_first_good_record_of_each_picture() -> None:
    first, second = (synthetic.record(cut, 0) for cut in CUTS[1:3])
    failed = synthetic.record(CUTS[1], 1)
    lines = shown(
        terminal.predictions_table([synthetic.failed(first), second, synthetic.failed(failed)])
    )
    assert sum("minibus_000.jpg" in line for line in lines) == 1
    assert any("minibus_000.jpg minibus " in line for line in lines)
    assert any("failed: the picture could not" in line for line in lines)


def test_predictions_say_how_many_are_left() -> None:
    records = synthetic.records(CUTS[1:2], samples=13)
    assert any("3 samples more" in line for line in shown(terminal.predictions_table(records)))


def test_show_prints_sentence_tables_and_the_way_to_the_report(tmp_path: Path) -> None:
    records = synthetic.records(CUTS, samples=8)
    synthetic.write_study(tmp_path, records, synthetic.environment(CUTS))
    console = Console(file=io.StringIO(), width=80)
    terminal.show(summary_of(records), tmp_path, console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "Running resnet18 wholly on the server" in text
    assert "layer1.0.add" in text
    assert "tabby_001.jpg" in text
    assert f"Report: {tmp_path / 'report.html'}" in text


@pytest.mark.parametrize("differ", [False, True])
def test_outputs_that_differ_between_cuts_are_announced(tmp_path: Path, differ: bool) -> None:
    records = [
        one.model_copy(update={"output_digest": f"{one.sample} {differ and one.cut_index}"})
        for one in synthetic.records(CUTS, samples=3)
    ]
    synthetic.write_study(tmp_path, records, synthetic.environment(CUTS))
    console = Console(file=io.StringIO(), width=80)
    terminal.show(report.write_results(tmp_path), tmp_path, console)
    assert isinstance(console.file, io.StringIO)
    begins = "Outputs differ. The raw output of 3 of 3 samples depends on the cut: at input, "
    assert (begins in console.file.getvalue()) == differ
    assert ("and 6 more cuts it is not that of cut output." in console.file.getvalue()) == differ


@pytest.mark.parametrize("disagreeing", [1, 9])
def test_audits_that_refute_the_promise_are_announced(disagreeing: int, tmp_path: Path) -> None:
    cascade = {
        "model": {"name": "tiny"}, "statistic": "Margin", "thresholdPerMillion": 1,
        "maxDisagreementPerMillion": 50_000,
    }  # fmt: skip
    partition = {"mode": "Cascade", "cut": "input", "cascade": cascade}
    spec = {"model": {"name": "resnet18"}, "partition": partition}
    known = synthetic.environment(CUTS)
    manifest = known.manifest.model_copy(update={"spec": ExperimentSpec.model_validate(spec)})
    outcomes = ["disagrees"] * disagreeing + ["agrees"] * (20 - disagreeing)
    records = [
        synthetic.record(CUTS[-1], sample, network="small", audit=audit)
        for sample, audit in enumerate(outcomes)
    ]
    synthetic.write_study(tmp_path, records, known.model_copy(update={"manifest": manifest}))
    console = Console(file=io.StringIO(), width=80)
    terminal.show(report.write_results(tmp_path), tmp_path, console)
    assert isinstance(console.file, io.StringIO)
    announced = "Audits refute the promise. 9 of 20 audited answers" in console.file.getvalue()
    assert announced == (disagreeing == 9)
