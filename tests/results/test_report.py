import logging
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from splittracr.cli.main import app
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.spec import ExperimentSpec
from splittracr.experiment.types import Exactness, Place, Record
from splittracr.results import plots
from splittracr.results.report import write_results
from splittracr.results.summary import Summary
from tests.results import synthetic
from tests.results.test_files import files_end_at

CUTS = synthetic.cuts(4)
VOID = {"meta", "img", "wbr", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Checks that elements are closed in order; collects texts and addresses."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.words: list[str] = []
        self.feed(html)
        assert self.open == []
        self.text = " ".join("".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self._collect(tag, dict(attrs))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._collect(tag, dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    def _collect(self, tag: str, found: dict[str, str | None]) -> None:
        self.addresses += [found[k] or "" for k in ("src", "href", "xlink:href") if k in found]
        self.ids += [found["id"] or ""] if "id" in found else []
        self.images += [found] if tag == "img" else []


def report(out: Path, records: list[Record], pictures: int = 0, **changes: Any) -> Page:
    synthetic.write_study(out, records, synthetic.environment(CUTS, **changes), pictures)
    write_results(out)
    return Page((out / "report.html").read_text())


def test_cuts_that_are_not_exact_have_their_class_and_error(tmp_path: Path) -> None:
    bounded = {"exactness": Exactness.BOUNDED, "largest_error": 2e-6, "top1_agreement": 0.5}
    cuts = (*CUTS[:1], CUTS[1].model_copy(update=bounded), *CUTS[2:])
    page = report(tmp_path, synthetic.records(CUTS, samples=6), cuts=cuts)
    assert f"{cuts[1].name}Bounded2.0e-0650 %" in page.text.replace("\u00a0", " ")
    assert f"{cuts[0].name}Exact" in page.text
    assert "1 bounded: outputs are those of PyTorch within 2.0e-06 of the largest" in page.text
    made = pl.read_csv(tmp_path / "summary.csv").filter(pl.col("cut") == cuts[1].name)
    assert made.select("exactness", "largest_error", "top1_agreement").row(0) == (
        *("Bounded", 2e-6, 0.5),
    )


def test_a_full_disk_leaves_the_records_and_says_how_to_go_on(tmp_path: Path) -> None:
    synthetic.write_study(
        tmp_path, synthetic.records(CUTS, samples=4), synthetic.environment(CUTS), 0
    )
    before = (tmp_path / "records.jsonl").read_bytes()
    with files_end_at(20):
        done = CliRunner().invoke(app, ["report", str(tmp_path)])
    said = "".join(done.stderr.split())
    assert (done.exit_code, done.stdout) == (1, "")
    assert f"Filetoolarge({tmp_path / 'records.parquet'}).Therecordsaresafein{tmp_path};" in said
    assert f"`splittracrreport{tmp_path}`makestherest." in said
    assert (tmp_path / "records.jsonl").read_bytes() == before
    assert CliRunner().invoke(app, ["report", str(tmp_path)]).exit_code == 0


def test_everything_is_written(tmp_path: Path) -> None:
    records = synthetic.records(CUTS, samples=4)
    report(tmp_path, records, pictures=2)
    assert {path.name for path in tmp_path.iterdir()} == {
        "environment.json",
        "figures",
        "pictures",
        "records.csv",
        "records.jsonl",
        "records.parquet",
        "report.html",
        *(f"summary.{kind}" for kind in ("json", "csv", "tex", "xlsx")),
    }
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        f"{name}.{kind}" for name in ("latency", "cuts", "distribution") for kind in ("png", "svg")
    }
    assert pl.read_parquet(tmp_path / "records.parquet").height == len(records)
    summary = Summary.model_validate_json((tmp_path / "summary.json").read_text())
    assert summary.counts.samples == len(records)


def test_the_page_needs_nothing_from_elsewhere_and_shows_each_cut(tmp_path: Path) -> None:
    page = report(tmp_path, synthetic.records(CUTS, samples=4), pictures=2)
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)
    html = re.sub(r"data:image/jpeg;base64,[^\"]*", "", (tmp_path / "report.html").read_text())
    assert not re.search(r"https?:|//[a-z]|@import|<script|<link|url\((?!#)", html)
    assert all(cut.name in page.text for cut in CUTS)
    assert len(page.ids) == len(set(page.ids))
    assert len(page.images) == 2
    assert all(image["alt"] for image in page.images)
    assert html.count("<svg") == html.count('role="img" aria-label=') == 3


def test_it_begins_with_the_result_in_a_sentence(tmp_path: Path) -> None:
    page = report(tmp_path, synthetic.records(CUTS[2:3], samples=4))
    assert re.search(
        r"Cutting resnet18 at layer1\.1\.relu took [\d.]+ ms in the median\.", page.text
    )
    assert "broken off" not in page.text
    assert "failed." not in page.text


def test_a_cut_with_several_codecs_is_named(tmp_path: Path) -> None:
    records = synthetic.records(CUTS[:2], samples=4)
    heading = "Several codecs at a cut."
    assert heading not in report(tmp_path / "one", records).text
    records[:2] = [one.model_copy(update={"codec": "uint8"}) for one in records[:2]]
    text = report(tmp_path / "two", records).text
    first, second = (f"{cut.name} (3 by raw, 1 by uint8)" for cut in CUTS[:2])
    assert f"{heading} The figures average the samples of {first}, {second}." in text


def test_what_limits_the_figures_is_said_loudly(tmp_path: Path) -> None:
    records = synthetic.records(CUTS, samples=4)
    records[5] = synthetic.failed(records[5], "the server <closed> the connection")
    records[9] = records[9].model_copy(update={"finished_on": Place.EDGE})
    records = [one.model_copy(update={"output_digest": f"{i}"}) for i, one in enumerate(records)]
    page = report(
        tmp_path,
        records,
        weights="none (random, seed 3)",
        emulated="edge slowed to 400 % of its own time",
        finished_at=None,
        refused={"layer9.relu": "its output differs"},
    )
    for words in (
        "Emulated. Edge slowed to 400 % of its own time.",
        "Random weights. Predictions mean nothing; times and sizes do.",
        "Loaded: none (random, seed 3).",
        "Study was broken off. It did not come to its end; figures cover only what was recorded "
        "until then: 16 samples.",
        "1 sample failed. Figures leave them out. Reasons: 1 × the server <closed> the connection.",
        "1 sample got no answer.",
        "1 cut refused. Not proven exact, or below spec.model.exactness: layer9.relu.",
        "Outputs differ. The raw output of 4 of 4 samples depends on the cut: at input, ",
        "Reason: the ends have different processors, ARM Cortex-A76 on cpu (NEON) and AMD EPYC "
        "9334 32-Core Processor on cuda:0 (NVIDIA H100, sm_90), which round differently.",
    ):
        assert words in page.text


def test_a_study_that_was_broken_off_has_a_report_that_says_so(tmp_path: Path) -> None:
    made = synthetic.records(CUTS, samples=4)[:9]  # two frames of each cut, and one more
    synthetic.write_study(tmp_path, made, synthetic.environment(CUTS, finished_at=None))
    with (tmp_path / "records.jsonl").open("ab") as journal:
        journal.write(b'{"uid": "3f0c8d5e-0d0b-4e')  # what the writer was killed at
    result = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert said.count("The study was broken off") == 2  # the sentence and the table
    page = Page((tmp_path / "report.html").read_text())
    assert page.text.count("study was broken off.") >= 1
    assert "Study was broken off. It did not come to its end" in page.text
    summary = Summary.model_validate_json((tmp_path / "summary.json").read_text())
    assert (summary.counts.samples, summary.study.finished) == (9, False)


def test_a_study_broken_off_before_its_first_record_has_a_report(tmp_path: Path) -> None:
    page = report(tmp_path, [], finished_at=None)
    assert "No sample was recorded. The study was broken off." in page.text


@pytest.mark.parametrize(
    ("promised", "disagreeing", "words"),
    [
        (50_000, 1, "Audits. 1 of 20 audited answers of the edge disagree with the model of the "
         "study. The promise is at most 5 %."),
        (50_000, 9, "Audits refute the promise. 9 of 20 audited answers of the edge disagree with "
         "the model of the study. The promise is at most 5 %. The first refutation was at edge-0;"),
        (None, 9, "Audits. 9 of 20 audited answers of the edge disagree with the model of the "
         "study."),
    ],
)  # fmt: skip
def test_the_report_of_a_cascade_says_what_audits_have_found(
    promised: int | None, disagreeing: int, words: str, tmp_path: Path
) -> None:
    cascade = {
        "model": {"name": "tiny"}, "statistic": "Margin", "thresholdPerMillion": 1,
        "maxDisagreementPerMillion": promised,
    }  # fmt: skip
    partition = {"mode": "Cascade", "cut": "input", "cascade": cascade}
    spec = {"model": {"name": "resnet18"}, "partition": partition}
    manifest = synthetic.environment(CUTS).manifest.model_copy(
        update={"spec": ExperimentSpec.model_validate(spec)}
    )
    records = [
        synthetic.record(CUTS[-1], sample, network="small", audit=audit)
        for sample, audit in enumerate(
            ["disagrees"] * disagreeing + ["agrees"] * (20 - disagreeing) + [None] * 5
        )
    ]
    page = report(tmp_path, records, manifest=manifest)
    assert words in page.text.replace("\u00a0", " ")


@pytest.mark.parametrize(
    ("judged", "words"),
    [
        (0, "The first refutation was at edge-0; calibrate on pictures like these. After sample 3 "
         "of edge-0: audits refute the promise of threshold 0.1."),
        (100, "Audits refuted the promise. 4 of 5 audited answers of the edge disagree with the "
         "model of the study. The promise is at most 5 %. "
         "The first refutation was at edge-0. After sample 3 of edge-0: audits refute the "
         "promise of threshold 0.1. After sample 104 of edge-0: recalibrated on 100 pictures: "
         "threshold 0.1 -> 0.93."),
    ],
)  # fmt: skip
def test_the_report_says_when_a_cascade_was_recalibrated(
    judged: int, words: str, tmp_path: Path
) -> None:
    cascade = {
        "model": {"name": "tiny"}, "statistic": "Margin", "thresholdPerMillion": 100_000,
        "maxDisagreementPerMillion": 50_000, "recalibrate": 100,
    }  # fmt: skip
    spec = {
        "model": {"name": "resnet18"},
        "partition": {"mode": "Cascade", "cut": "input", "cascade": cascade},
    }
    manifest = synthetic.environment(CUTS).manifest.model_copy(
        update={"spec": ExperimentSpec.model_validate(spec)}
    )
    small = [
        synthetic.record(CUTS[-1], sample, network="small", audit=audit, threshold=100_000)
        for sample, audit in enumerate(["agrees", *["disagrees"] * 4])
    ]
    large = [
        synthetic.record(CUTS[0], sample, network="large", judged=((930_000, True),))
        for sample in range(5, 5 + judged)
    ]
    page = report(tmp_path, [*small, *large], manifest=manifest)
    assert words in page.text.replace("\u00a0", " ")
    assert "lowest median" not in page.text  # its cuts are no alternatives
    assert 'tr class="best"' not in (tmp_path / "report.html").read_text("utf-8")
    assert (tmp_path / "figures" / "latency.svg").exists()


def test_batches_are_shown_as_samples_and_frames(tmp_path: Path) -> None:
    records = synthetic.batched(CUTS, 6, 4)
    synthetic.write_study(tmp_path, records, synthetic.environment(CUTS, batch_size=4))
    write_results(tmp_path)
    page = Page((tmp_path / "report.html").read_text())
    assert "n counts samples, and a latency counts once a frame" in page.text
    assert re.search(r"output\s*24\s*6\s*0", page.text)


def test_figures_draw_each_frame_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[pl.DataFrame] = []

    def draw(_: Summary, samples: pl.DataFrame) -> list[plots.Plot]:
        drawn.append(samples)
        return []

    monkeypatch.setattr(plots, "plots", draw)
    records = synthetic.batched(CUTS, 6, 4)
    synthetic.write_study(tmp_path, records, synthetic.environment(CUTS, batch_size=4))
    write_results(tmp_path)
    assert [samples.height for samples in drawn] == [6 * len(CUTS)]


def test_equal_outputs_are_stated(tmp_path: Path) -> None:
    records = synthetic.records(CUTS, samples=4)
    digested = [one.model_copy(update={"output_digest": f"{one.sample}"}) for one in records]
    assert "4 samples were compared" in report(tmp_path, digested).text


@pytest.mark.parametrize("samples", [0, 3])
def test_a_study_without_a_single_result_still_has_a_report(tmp_path: Path, samples: int) -> None:
    failed = [synthetic.failed(one) for one in synthetic.records(CUTS, samples)]
    page = report(tmp_path, failed, server=None)
    assert ("No sample finished: 12 samples failed." in page.text) == (samples > 0)
    assert ("No sample was recorded." in page.text) == (samples == 0)
    assert list((tmp_path / "figures").glob("*")) == []


def test_names_are_shown_as_text(tmp_path: Path) -> None:
    cut = CUTS[1].model_copy(update={"name": "a<b>.c&d"})
    record = synthetic.record(cut, name="<img src=x>.jpg")
    page = report(tmp_path, [record], pictures=1)
    assert "a<b>.c&d" in page.text
    assert page.images[0]["alt"] == "<img src=x>.jpg: minibus"


def test_the_same_records_give_the_same_files(tmp_path: Path) -> None:
    records = synthetic.records(CUTS, samples=4, labelled=True)
    report(tmp_path / "a", records, pictures=2)
    report(tmp_path / "b", records, pictures=2)
    for path in (tmp_path / "a").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_a_report_made_again_drops_figures_that_are_not_drawn_any_more(tmp_path: Path) -> None:
    report(tmp_path, synthetic.records(CUTS, samples=4))
    (tmp_path / "figures" / "accuracy.svg").write_text("of earlier records")
    (tmp_path / "figures" / "mine.svg").write_text("somebody's own")
    write_results(tmp_path)
    kept = {path.name for path in (tmp_path / "figures").glob("*.svg")}
    assert kept == {"latency.svg", "cuts.svg", "distribution.svg", "mine.svg"}


def test_records_of_another_study_stay_out_of_the_figures(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records = synthetic.records(CUTS, samples=4)
    other = records[0].model_copy(update={"uid": "another"})
    synthetic.write_study(tmp_path, [*records, other], synthetic.environment(CUTS))
    with caplog.at_level(logging.WARNING):
        assert write_results(tmp_path).counts.samples == len(records)
    assert "1 record of other studies" in caplog.text
    assert pl.read_parquet(tmp_path / "records.parquet").height == len(records) + 1


def test_a_folder_that_is_no_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"to contain environment\.json"):
        write_results(tmp_path)
