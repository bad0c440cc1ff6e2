"""The tables for spreadsheets and papers hold the figures of `summary.json`."""

import io
import re
import shutil
import subprocess
import zipfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree as ET

import polars as pl
import pytest

from splittracr.experiment.energy import EnergyWindow
from splittracr.experiment.types import Record
from splittracr.results import latex, words
from splittracr.results.environment import Environment
from splittracr.results.flat import cut_rows, energy_rows
from splittracr.results.report import write_results
from splittracr.results.summary import Summary
from splittracr.results.tables import frame, summarise
from splittracr.results.workbook import NOT_MEASURED, workbook
from tests.results import synthetic
from tests.results.test_energy import GPU, window

CUTS = synthetic.cuts(3)
RECORDS = synthetic.records(CUTS, samples=6, labelled=True)
WINDOWS = (window(0, 20.0), window(2, 30.0), window(0, 5.0, **GPU))
NAMESPACE = {"x": "http://schemas.openxmlformats.org/spreadsheetml/2006/main"}


def written(
    tmp_path: Path, records: Sequence[Record] = RECORDS, windows: Sequence[EnergyWindow] = WINDOWS
) -> tuple[Path, Summary]:
    of = synthetic.environment(CUTS, energy=tuple(windows))
    return tmp_path, write_results(synthetic.write_study(tmp_path, records, of))


def summary(of: Environment | None = None, records: Sequence[Record] = RECORDS) -> Summary:
    return summarise(frame(records), of or synthetic.environment(CUTS))


def sheets(data: bytes) -> dict[str, list[list[str]]]:
    """The cells of each sheet as text; empty ones are left out."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        shared = [
            "".join(item.itertext()) for item in ET.fromstring(archive.read("xl/sharedStrings.xml"))
        ]
        book = ET.fromstring(archive.read("xl/workbook.xml"))
        names = [sheet.attrib["name"] for sheet in book.iterfind(".//x:sheet", NAMESPACE)]
        found = {}
        for number, name in enumerate(names, start=1):
            sheet = ET.fromstring(archive.read(f"xl/worksheets/sheet{number}.xml"))
            rows = sheet.iterfind(".//x:row", NAMESPACE)
            found[name] = [[_cell(cell, shared) for cell in row] for row in rows]
    return found


def _cell(cell: ET.Element, shared: Sequence[str]) -> str:
    text = cell.findtext("x:v", "", NAMESPACE)
    assert cell.find("x:f", NAMESPACE) is None, "no cell is a formula"
    return shared[int(text)] if cell.get("t") == "s" else text


def test_the_flat_table_has_a_row_a_cut_with_the_summarys_figures(tmp_path: Path) -> None:
    folder, figures = written(tmp_path)
    made = pl.read_csv(folder / "summary.csv")
    assert made["cut"].to_list() == [cut.cut for cut in figures.cuts]
    for row, cut in zip(made.iter_rows(named=True), figures.cuts, strict=True):
        assert cut.total_ms is not None
        assert cut.accuracy is not None
        assert row["mean_ms"] == pytest.approx(cut.total_ms.mean)
        assert (row["mean_low_ms"], row["mean_high_ms"]) == cut.total_ms.interval
        assert row["p95_ms"] == pytest.approx(cut.p95_ms)
        assert row["top1"] == pytest.approx(cut.accuracy.top1)
        assert row["edge_ms"] + row["link_ms"] + row["server_ms"] == pytest.approx(row["mean_ms"])
        assert row["stage_head_ms"] == pytest.approx(cut.stages_ms["head"])
    assert made["edge_joules"].to_list() == [2.0, None, 3.0]
    assert made["edge_joules_kind"].to_list() == ["measured", None, "measured"]


def test_only_a_certain_winner_is_called_best() -> None:
    rows = cut_rows(summary())
    assert [row.best for row in rows].count(True) == 1
    two = summary(records=synthetic.records(CUTS, samples=2))
    assert two.best is not None
    assert two.best.tie is not None
    assert not any(row.best for row in cut_rows(two))


def test_the_workbook_has_the_sheets_and_says_what_was_not_measured(tmp_path: Path) -> None:
    folder, _ = written(tmp_path)
    found = sheets((folder / "summary.xlsx").read_bytes())
    assert list(found) == ["Overall", "Layers", "Energy", "Machines"]
    assert [row[0] for row in found["Overall"]][:2] == ["schemaVersion", "2"]
    assert [CUTS[1].name in row for row in found["Overall"]] == [False, False, True, False]
    head, *rows = found["Energy"]
    cells = [dict(zip(head, row, strict=True)) for row in rows]
    by_end = {(row["cut"], row["role"]): row for row in cells}
    assert by_end["input", "edge"]["processing_joules"] == "2"
    assert by_end["input", "server"]["processing_joules"] == "0.5"
    assert by_end[CUTS[1].name, "edge"]["processing_joules"] == NOT_MEASURED
    assert by_end["output", "edge"]["communication_joules"] == NOT_MEASURED


def test_both_kinds_of_energy_add_up() -> None:
    environment = synthetic.environment(CUTS)
    spec = environment.manifest.spec
    power = {"power": {"computeMilliwatts": 2000, "nanojoulesPerBit": 50}}
    edge = spec.edge.model_validate(power, by_alias=True)
    manifest = environment.manifest.model_copy(
        update={"spec": spec.model_copy(update={"edge": edge})}
    )
    first = energy_rows(summary(environment.model_copy(update={"manifest": manifest})))[0]
    assert (first.role, first.kind, first.source) == ("edge", "modelled", "declared")
    assert first.processing_joules is not None
    assert first.communication_joules == pytest.approx((150_528 + 412 + 386) * 8 * 50e-9)
    assert first.total_joules == pytest.approx(
        first.processing_joules + (150_528 + 412 + 386) * 8 * 50e-9
    )


def test_a_workbook_is_the_same_twice_and_runs_nothing() -> None:
    rows = pl.DataFrame({"name": ["=1+1", "https://x.example", "a\x07b"], "n": [1, None, 3]})
    at = datetime(2026, 3, 1, tzinfo=UTC)
    data = workbook([("One", rows, False)], at)
    assert data == workbook([("One", rows, False)], at)
    assert [row[0] for row in sheets(data)["One"]][1:3] == ["=1+1", "https://x.example"]


def test_the_latex_table_has_as_many_cells_in_each_row(tmp_path: Path) -> None:
    folder, figures = written(tmp_path)
    text = (folder / "summary.tex").read_text("utf-8")
    lines = text.splitlines()
    tabular = re.search(r"\\begin\{tabular\}\{(l(r+))\}", text)
    assert tabular is not None
    rows = [line.strip() for line in lines if line.endswith(r" \\")]
    cells = [row.removesuffix(r" \\").split(" & ") for row in rows]
    assert {len(row) for row in cells} == {len(tabular[1])}
    assert cells[0] == [
        *("Cut", "Sent", "Edge", "Link", "Server", "Mean", r"95\,\% CI", "Median", "p95", "Top-1"),
        *("Edge energy", "Server energy"),
    ]
    first = figures.cuts[0]
    assert first.p50_ms is not None
    assert cells[1][1] == words.human_bytes(first.bytes_up or 0).replace(" ", r"\,")
    assert cells[1][7] == f"{first.p50_ms:.1f}"
    assert cells[1][10] == r"2\,J"
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == 1
    assert text.count("{") == text.count("}")
    assert r"\textbf{input}" in text
    assert "edge energy of a frame, measured" in text


def test_few_frames_have_no_interval() -> None:
    text = latex.document(summary(records=synthetic.records(CUTS[:1], samples=4)))
    (row,) = (line for line in text.splitlines() if line.strip().startswith("input"))
    assert row.split(" & ")[6] == "--"


def test_every_letter_of_latex_is_escaped() -> None:
    assert latex.escape(r"a_b & 5 % of $x$ #1 {y} ~ ^ \n") == (
        r"a\_b \& 5 \% of \$x\$ \#1 \{y\} \textasciitilde{} \textasciicircum{} \textbackslash{}n"
    )
    assert latex.escape("3 × 4 µJ – <a|b>\n\x07") == (
        r"3 \(\times\) 4 \(\mu\)J -- \textless{}a\textbar{}b\textgreater{} U+2407"
    )
    assert latex.escape("Älg, ½ ≥ 層") == "Älg, U+00BD U+2265 U+5C64"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex sets the table")
def test_pdflatex_sets_any_table_within_the_text(tmp_path: Path) -> None:
    letters = "".join(map(chr, range(0x20, 0x250))) + "␇層Ж"
    cuts = synthetic.cuts(17)
    names = (f"backbone.{letters[i : i + 40]}" for i in range(0, len(letters), 40))
    renamed = {cut.name: name for cut, name in zip(cuts, names, strict=False)}
    assert len(renamed) * 40 >= len(letters)
    records = [
        record.model_copy(update={"cut": renamed[record.cut]})
        for record in synthetic.records(cuts[: len(renamed)], samples=6)
    ]
    figures = summary(records=records)
    (tmp_path / "summary.tex").write_text(latex.document(figures), "utf-8")
    (tmp_path / "paper.tex").write_text(
        r"\documentclass{article}\usepackage{booktabs,graphicx}"
        r"\begin{document}\input{summary}\end{document}"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert b"Overfull" not in done.stdout


def test_a_wide_table_is_scaled_to_the_text() -> None:
    text = latex.document(summary(records=synthetic.records(CUTS[:1], samples=4)))
    assert text.startswith(r"% \usepackage{booktabs,graphicx}")
    assert r"\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}" in text
