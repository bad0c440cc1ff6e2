import csv
import io
import json
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from splittracr.experiment.types import STAGES, Cut, Exactness, Place, Record, Tier
from splittracr.results import tables
from splittracr.results.environment import Environment
from splittracr.results.summary import CutFigures, Summary
from tests.results import synthetic

CUTS = synthetic.cuts(6)
ENVIRONMENT = synthetic.environment(CUTS)


def summary_of(records: list[Record], **changes: Any) -> Summary:
    return tables.summarise(tables.frame(records), ENVIRONMENT.model_copy(update=changes))


def in_batches(size: int) -> Environment:
    """The study's environment with frames of `size` pictures."""
    return synthetic.environment(CUTS, batch_size=size)


def only_cut(records: list[Record]) -> CutFigures:
    (cut,) = summary_of(records).cuts
    return cut


# ------------------------------------------------------------------------------------ flat tables


def test_a_row_holds_all_of_a_record() -> None:
    record = synthetic.record(CUTS[1], label=3, top1=True, top5=True, output_digest="ab")
    row = tables.frame([record]).row(0, named=True)
    assert row["total_ms"] == record.total_ms
    assert {s: row[f"{s}_ms"] for s in STAGES} == {s: record.stages.get(s) for s in STAGES}
    assert json.loads(row["prediction"]) == record.prediction
    same = record.model_dump(mode="json", exclude={"stages", "prediction"})
    assert {name: row[name] for name in same} == same


def test_parquet_and_csv_hold_the_same_rows() -> None:
    samples = tables.frame(synthetic.records(CUTS, samples=3))
    assert pl.read_parquet(io.BytesIO(tables.parquet(samples))).equals(samples)
    assert pl.read_parquet_metadata(io.BytesIO(tables.parquet(samples)))["schemaVersion"] == "2"
    assert set(samples["schemaVersion"]) == {2}
    assert pl.read_csv(io.BytesIO(tables.csv(samples)), schema=tables.SCHEMA).equals(samples)


@pytest.mark.parametrize(
    "name",
    [
        "=1+1",
        "+1",
        "-1",
        "@SUM(A1)",
        "\t=1",
        " =1",
        "\r=1",
        "\n=cmd",
        "\x00=1",
        "＝1",
        "－1",
        "=1.jpg",
    ],
)
def test_no_spreadsheet_runs_what_a_name_holds(name: str) -> None:
    record = synthetic.record(CUTS[1]).model_copy(update={"name": name, "error": name})
    text = tables.csv(tables.frame([record])).decode("utf-8-sig")
    (row,) = csv.DictReader(io.StringIO(text, newline=""))
    assert (row["name"], row["error"]) == (f"'{name}", f"'{name}")


@pytest.mark.parametrize("name", ["a=1.jpg", "1-2", "Größe 中.png", "'quoted'", ""])
def test_other_names_are_kept_and_excel_is_told_of_utf8(name: str) -> None:
    record = synthetic.record(CUTS[1]).model_copy(update={"name": name})
    written = tables.csv(tables.frame([record]))
    assert written.startswith(b"\xef\xbb\xbf")
    (row,) = csv.DictReader(io.StringIO(written.decode("utf-8-sig"), newline=""))
    assert row["name"] == name


def test_a_table_without_rows_has_its_columns() -> None:
    samples = tables.frame([])
    assert samples.columns == list(tables.SCHEMA)
    assert tables.csv(samples).decode("utf-8-sig").strip() == ",".join(tables.SCHEMA)


# ------------------------------------------------------------------------------------ the figures


MS = st.floats(0, 1e4)


@st.composite
def measured(draw: st.DrawFn) -> list[Record]:
    """Records of one cut whose stages sum to their totals, some of them failed."""
    cut: Cut = draw(st.sampled_from(CUTS))
    records = []
    for number in range(draw(st.integers(1, 12))):
        stages = draw(st.dictionaries(st.sampled_from(list(STAGES)), MS))
        place = Place.EDGE if cut.name == "output" else draw(st.sampled_from(Place))
        if place is Place.EDGE:  # nothing ran on the server
            stages = {
                s: ms for s, ms in stages.items() if s not in ("decode", "server_wait", "reply")
            }
        record = synthetic.record(
            cut, number, number % 3, stages=stages, total_ms=sum(stages.values()), finished_on=place
        )
        records.append(synthetic.failed(record) if draw(st.booleans()) else record)
    return records


@settings(max_examples=60, deadline=None)
@given(measured())
def test_parts_add_up_and_percentiles_lie_among_the_totals(records: list[Record]) -> None:
    cut = only_cut(records)
    good = tables.answered(tables.frame(records))["total_ms"].to_list()
    assert cut.n + cut.failed + cut.unanswered == len(records)
    assert cut.n == len(good)
    assert sum(cut.finished_on.values()) == len(records) - cut.failed
    if not good:
        assert (cut.total_ms, cut.p50_ms, cut.tiers_ms, cut.stages_ms) == (None, None, {}, {})
        return
    assert cut.total_ms
    assert cut.p50_ms is not None
    assert sum(cut.tiers_ms.values()) == pytest.approx(cut.total_ms.mean)
    assert sum(cut.stages_ms.values()) == pytest.approx(cut.total_ms.mean)
    assert cut.p95_ms is not None
    assert cut.p99_ms is not None
    assert min(good) <= cut.p50_ms <= cut.p95_ms <= cut.p99_ms <= max(good)
    assert cut.p50_ms == pytest.approx(np.median(good))


def test_figures_leave_out_failed_samples_and_count_them() -> None:
    records = synthetic.records(CUTS[1:2], samples=8)
    broken = [synthetic.failed(one) if one.sample < 3 else one for one in records]
    assert only_cut(broken) == only_cut(records[3:]).model_copy(update={"failed": 3})
    counts = summary_of(broken).counts
    assert (counts.samples, counts.ok, counts.failed) == (8, 5, 3)


def test_each_codec_of_a_cut_is_counted() -> None:
    records = synthetic.records([CUTS[1], CUTS[-1]], samples=4)
    changed = [one.model_copy(update={"codec": "uint8"}) if one.sample else one for one in records]
    split, whole = summary_of(changed).cuts
    assert (split.n, split.codecs) == (4, {"raw": 1, "uint8": 3})
    assert (whole.cut, whole.n, whole.codecs) == ("output", 4, {})  # nothing was sent


def test_samples_that_the_server_did_not_answer_are_left_out_and_counted() -> None:
    records = synthetic.records(CUTS[1:2], samples=4)
    records[0] = records[0].model_copy(update={"finished_on": Place.EDGE, "total_ms": 9e9})
    cut = only_cut(records)
    assert (cut.n, cut.unanswered, cut.failed) == (3, 1, 0)
    assert cut.finished_on == {"edge": 1, "server": 3}
    assert cut.total_ms
    assert cut.total_ms.mean < 1e4


@pytest.mark.parametrize("place", list(Place))
def test_a_stage_counts_for_its_tier_and_the_tail_for_where_it_ran(place: Place) -> None:
    stages = {stage: 2.0**i for i, stage in enumerate(STAGES)}
    cut = CUTS[1] if place is Place.SERVER else CUTS[-1]
    total = sum(stages.values())
    made = synthetic.record(cut, stages=stages, total_ms=total, finished_on=place)
    tail = stages["tail"] + stages["reduce"]
    server = stages["decode"] + stages["server_wait"] + stages["reply"]
    edge = total - tail - server - stages["link"]
    on_edge = place is Place.EDGE
    assert only_cut([made]).tiers_ms == {
        Tier.EDGE: edge + tail * on_edge,
        Tier.LINK: stages["link"],
        Tier.SERVER: server + tail * (not on_edge),
    }


def test_the_edge_alone_needs_no_answer() -> None:
    cut = only_cut(synthetic.records(CUTS[-1:], samples=4))
    assert (cut.n, cut.unanswered, cut.tiers_ms[Tier.SERVER]) == (4, 0, 0)


def test_what_is_left_where_nothing_was_sent_is_the_edges_and_not_the_links() -> None:
    stages = {"load": 1.0, "head": 10.0, "other": 4.0, "reduce": 2.0}
    cut = only_cut([synthetic.record(CUTS[-1], stages=stages, total_ms=17.0)])
    assert cut.tiers_ms == {Tier.EDGE: 17.0, Tier.LINK: 0.0, Tier.SERVER: 0.0}
    assert cut.stages_ms["other"] == 4.0


@pytest.mark.parametrize("size", [2, 8])
def test_a_latency_counts_once_a_frame_not_once_a_picture(size: int) -> None:
    single = only_cut(synthetic.batched(CUTS[1:2], 12, 1, repeats=2))
    records = synthetic.batched(CUTS[1:2], 12, size, repeats=2)
    (cut,) = tables.summarise(tables.frame(records), in_batches(size)).cuts
    assert (single.n, single.frames) == (24, 24)
    assert cut.frames_per_second == pytest.approx(size * (single.frames_per_second or 0))
    counted = {"n": 24 * size, "codecs": {"raw": 24 * size}, "finished_on": {"server": 24 * size}}
    rate = {"frames_per_second": cut.frames_per_second}  # of samples, all of which came through
    assert cut == single.model_copy(update=counted | rate)


def test_a_frame_with_a_failed_picture_counts_like_the_others() -> None:
    records = synthetic.batched(CUTS[1:2], 3, 4)
    whole = tables.summarise(tables.frame(records), in_batches(4)).cuts[0]
    broken = [synthetic.failed(one) if one.sample in (0, 1, 2, 5) else one for one in records]
    cut = tables.summarise(tables.frame(broken), in_batches(4)).cuts[0]
    assert (cut.n, cut.failed, cut.frames) == (8, 4, 3)
    assert (cut.total_ms, cut.p95_ms) == (whole.total_ms, whole.p95_ms)


def test_work_and_live_tensors_come_from_the_cut_table() -> None:
    cut = only_cut(synthetic.records(CUTS[2:3]))
    assert (cut.work, cut.live_bytes) == (CUTS[2].work, CUTS[2].bytes)
    (unknown,) = summary_of(synthetic.records(CUTS[2:3]), cuts=()).cuts
    assert (unknown.work, unknown.live_bytes) == (None, None)


def test_a_summary_says_how_exact_each_cut_is() -> None:
    exact = only_cut(synthetic.records(CUTS[2:3]))
    assert (exact.exactness, exact.largest_error, exact.top1_agreement) == ("Exact", None, None)
    found = {"exactness": Exactness.BOUNDED, "largest_error": 2e-6, "top1_agreement": 0.5}
    cuts = (CUTS[2].model_copy(update=found),)
    (bounded,) = summary_of(synthetic.records(CUTS[2:3]), cuts=cuts).cuts
    assert bounded == exact.model_copy(update=found)
    (unknown,) = summary_of(synthetic.records(CUTS[2:3]), cuts=()).cuts
    assert unknown.exactness is None


def test_repeats_of_a_cut_are_counted_and_widen_its_interval() -> None:
    def at(repeat: int, level: float) -> list[Record]:
        return [
            synthetic.record(CUTS[1], s, repeat, total_ms=level + s / 100, stages={})
            for s in range(20)
        ]

    flat, drifting = only_cut(at(0, 50) + at(1, 50)), only_cut(at(0, 40) + at(1, 60))
    assert flat.repeats == drifting.repeats == 2
    assert flat.total_ms
    assert drifting.total_ms
    assert flat.total_ms.interval
    assert drifting.total_ms.interval
    (low, high), (lower, higher) = flat.total_ms.interval, drifting.total_ms.interval
    assert high - low < 0.1
    assert higher - lower == pytest.approx(20, abs=0.5)


def test_fewer_than_five_frames_have_no_interval() -> None:
    for samples, there in ((4, False), (5, True)):
        mean = only_cut(synthetic.records(CUTS[1:2], samples=samples)).total_ms
        assert mean
        assert (mean.interval is not None) == there


def test_cuts_come_in_the_order_of_the_network() -> None:
    cuts = summary_of(synthetic.records(CUTS[::-1], samples=2)).cuts
    assert [cut.cut for cut in cuts] == [cut.name for cut in CUTS]


# ------------------------------------------------------------------------------------- throughput


def timed(cut: Cut, sample: int, start: float, repeat: int = 0) -> Record:
    return synthetic.record(
        cut, sample, repeat, started_at=1e9 + start, total_ms=100.0, stages={"link": 100.0}
    )


def test_throughput_is_samples_over_the_time_they_took_without_the_pauses() -> None:
    first = [timed(CUTS[1], s, 0.1 * s) for s in range(10)]
    second = [timed(CUTS[1], s, 500 + 0.1 * s, repeat=1) for s in range(10)]
    summary = summary_of(first + second)
    assert summary.cuts[0].frames_per_second == pytest.approx(10, rel=1e-6)
    assert summary.counts.frames_per_second == pytest.approx(10, rel=1e-6)


def test_throughput_of_edges_adds_up() -> None:
    first = [timed(CUTS[1], s, 0.1 * s) for s in range(10)]
    second = [one.model_copy(update={"edge": "edge-1"}) for one in first]
    assert summary_of(first + second).counts.frames_per_second == pytest.approx(20, rel=1e-6)


def test_cuts_that_took_turns_have_no_throughput_of_their_own() -> None:
    turns = [timed(CUTS[1 + s % 2], s, 0.1 * s) for s in range(10)]
    summary = summary_of(turns)
    assert [cut.frames_per_second for cut in summary.cuts] == [None, None]
    assert summary.counts.frames_per_second == pytest.approx(10, rel=1e-6)


# ------------------------------------------------------------------ accuracy, digests, best cut


def test_accuracy_counts_a_picture_once_whatever_its_repeats() -> None:
    hits = [(0, 0, True), (0, 1, False), (1, 0, True), (2, 0, True), (2, 1, True)]
    records = [synthetic.record(CUTS[1], s, r, label=s, top1=h, top5=True) for s, r, h in hits]
    records.append(synthetic.record(CUTS[1], 9))  # without a label
    accuracy = only_cut(records).accuracy
    assert accuracy is not None
    assert (accuracy.n, accuracy.top5) == (3, 1)
    assert accuracy.top1 == pytest.approx((0.5 + 1 + 1) / 3)


def test_without_labels_there_is_no_accuracy() -> None:
    assert only_cut(synthetic.records(CUTS[1:2])).accuracy is None


def digested(cut: Cut, sample: int, digest: str) -> Record:
    return synthetic.record(cut, sample, output_digest=digest)


def test_outputs_are_compared_sample_by_sample_over_cuts() -> None:
    same = [digested(cut, s, f"{s}") for cut in CUTS[:3] for s in range(4)]
    summary = summary_of(same)
    assert [cut.digests for cut in summary.cuts] == [4, 4, 4]
    assert summary.outputs
    assert (summary.outputs.samples, summary.outputs.differing) == (4, 0)
    odd = summary_of([*same, digested(CUTS[3], 2, "other")])
    assert odd.outputs
    assert (odd.outputs.samples, odd.outputs.differing) == (4, 1)
    assert summary.outputs.cuts == ()
    assert summary.outputs.reason is None


def test_cuts_with_another_output_than_the_last_one_are_named() -> None:
    digests = {0: "server", 1: "mixed", 2: "server", 3: "edge", 4: "edge"}
    made = [digested(CUTS[cut], 0, digest) for cut, digest in digests.items()]
    outputs = summary_of(made).outputs
    assert outputs
    assert (outputs.samples, outputs.differing) == (1, 1)
    assert outputs.cuts == tuple(cut.name for cut in CUTS[:3])
    assert outputs.reference == CUTS[4].name


def test_an_output_that_differs_between_repeats_is_found() -> None:
    made = [synthetic.record(CUTS[1], 0, repeat, output_digest=f"{repeat}") for repeat in range(2)]
    outputs = summary_of(made).outputs
    assert outputs
    assert (outputs.cuts, outputs.reference) == ((CUTS[1].name,), CUTS[1].name)


def why_outputs_differ(codec: str = "raw", cut: int = 1, **server: Any) -> str:
    """The reason if the server is like the edge but for `server`."""
    made = [synthetic.record(CUTS[i], 0, output_digest=f"{i}", codec=codec) for i in (cut, 5)]
    described = synthetic.environment(CUTS)
    like = described.edge.model_copy(update=server)
    summary = tables.summarise(tables.frame(made), described.model_copy(update={"server": like}))
    assert summary.outputs
    assert summary.outputs.reason
    return summary.outputs.reason


def test_the_reason_why_outputs_differ_is_named() -> None:
    assert (
        why_outputs_differ() == "the ends are alike, so the model does not compute the same twice"
    )
    assert why_outputs_differ(capability="AVX512") == (
        "the ends have different processors, ARM Cortex-A76 on cpu (NEON) and ARM Cortex-A76 on "
        "cpu (AVX512), which round differently"
    )
    assert why_outputs_differ(threads=4) == (
        "the ends use 1 and 4 threads, which sum in another order"
    )
    versions = {"python": "3.11.2", "splittracr": "0.1.0", "torch": "2.13.0"}
    assert why_outputs_differ(versions=versions) == "the ends have different versions of torch"
    assert why_outputs_differ("uint8") == "lossy codecs were used (uint8)"
    assert why_outputs_differ("jpeg90", cut=0) == "lossy codecs were used (jpeg90)"
    assert why_outputs_differ("uint8", cut=0).startswith("the ends are alike")
    assert why_outputs_differ("png", cut=0).startswith("the ends are alike")
    assert why_outputs_differ("raw+zstd1").startswith("the ends are alike")


def test_outputs_that_nothing_can_be_compared_with_are_not_spoken_of() -> None:
    assert summary_of([digested(CUTS[1], 0, "a")]).outputs is None
    assert summary_of(synthetic.records(CUTS[:2])).outputs is None


def test_the_best_cut_has_the_lowest_median() -> None:
    summary = summary_of(synthetic.records(CUTS, samples=9))
    assert summary.best
    fastest = min(summary.cuts, key=lambda cut: cut.p50_ms or 0)
    assert (summary.best.cut, summary.best.p50_ms) == (fastest.cut, fastest.p50_ms)
    assert summary.best.why.startswith("the lowest median of 6 cuts, ")


def test_a_close_call_is_called_that() -> None:
    random = np.random.default_rng(0)
    noise = random.normal(0, 10, (2, 30))
    assert "contains 0, so their order is not certain" in why(50 + noise[0], 51 + noise[1])
    assert "not certain" not in why(50 + noise[0], 90 + noise[1])


def why(first: NDArray[np.float64], second: NDArray[np.float64], repeats: int = 1) -> str:
    """Why the better of two cuts is the better one, given their frames' latencies."""
    records = [
        synthetic.record(cut, s % 1000, s * repeats // len(totals), total_ms=ms, stages={})
        for cut, totals in zip(CUTS[1:3], (first, second), strict=True)
        for s, ms in enumerate(totals.tolist())
    ]
    best = summary_of(records).best
    assert best
    return best.why


def test_pictures_of_different_size_do_not_blur_the_order_of_two_cuts() -> None:
    pictures = np.random.default_rng(0).uniform(20, 200, 40)
    assert "not certain" not in why(pictures, pictures + 1)
    shuffled = np.random.default_rng(1).permutation(pictures)
    assert "not certain" in why(pictures, shuffled + 1)  # unpaired, it is anybody's guess


def test_medians_are_judged_and_not_means() -> None:
    steady = np.random.default_rng(0).uniform(49, 50, 41)
    spiky = steady - 5
    spiky[:4] += 2000  # the mean is far higher, the median lower
    assert "not certain" not in why(steady, spiky)


def test_a_difference_of_one_repeat_only_is_not_certain() -> None:
    level = np.random.default_rng(0).uniform(49, 50, 40)
    moved = level + np.repeat([6.0, -5.0], 20)
    assert "not certain" in why(level, moved, repeats=2)


def test_few_frames_make_no_order_certain() -> None:
    assert "too few frames" in why(np.full(5, 10.0), np.full(5, 90.0))
    assert "too few" not in why(np.full(6, 10.0), np.full(6, 90.0))
    elsewhere = [synthetic.record(CUTS[2], s, total_ms=500.0) for s in range(20, 40)]
    best = summary_of(synthetic.records(CUTS[1:2]) + elsewhere).best
    assert best
    assert "too few frames" in best.why


def test_one_cut_is_the_best_of_itself_and_none_is_none() -> None:
    (records, failed) = synthetic.records(CUTS[1:2], samples=2), synthetic.records(CUTS[1:2])
    best = summary_of(records).best
    assert best
    assert (best.cut, best.why) == (CUTS[1].name, "the only cut with figures")
    assert summary_of([synthetic.failed(one) for one in failed]).best is None
    assert summary_of([]).best is None


def test_the_study_is_described() -> None:
    study = summary_of([], emulated="edge slowed", finished_at=None).study
    assert (study.name, study.model, study.mode) == ("resnet18-sweep", "resnet18", "Sweep")
    assert (study.emulated, study.finished, study.random_weights) == ("edge slowed", False, False)


def test_samples_that_waited_for_a_lost_server_count_but_not_their_times() -> None:
    records = synthetic.records(CUTS[1:2], samples=6, labelled=True)
    plain = only_cut(records)
    outage = records[2].model_copy(
        update={
            "resent": True,
            "total_ms": 14_400.0,
            "stages": {"link": 14_400.0},
            "sample": 9,
            "name": "9",
        }
    )
    cut = only_cut([*records, outage])
    assert (cut.n, cut.frames, cut.resent) == (7, 6, 1)
    assert (plain.n, plain.resent) == (6, 0)
    assert (cut.total_ms, cut.p99_ms, cut.tiers_ms) == (
        plain.total_ms, plain.p99_ms, plain.tiers_ms
    )  # fmt: skip
    assert cut.accuracy is not None
    assert cut.accuracy.n == 7
