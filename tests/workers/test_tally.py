from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from splittracr.edge.tally import Latencies, Tally, quantile
from splittracr.experiment.report import Phase
from splittracr.experiment.types import Place, Record
from splittracr.planning.decision import Decision

times = st.floats(0, 1e6, allow_nan=False)


def record(sample: int, total_ms: float = 10.0, **fields: Any) -> Record:
    given_fields: dict[str, Any] = {
        "uid": "u",
        "edge": "edge-0",
        "trial": 0,
        "repeat": 0,
        "sample": sample,
        "name": str(sample),
        "cut": "relu",
        "cut_index": 3,
        "outcome": "ok",
        "finished_on": Place.SERVER,
        "emulated": False,
        "started_at": 100.0 + sample,
        "bytes_up": 7,
        "bytes_down": 2,
        "total_ms": total_ms,
        "stages": {},
    }
    return Record(**{**given_fields, **fields})


@given(st.lists(times, min_size=1, max_size=60), st.floats(0, 1))
def test_quantiles_are_numpys(values: list[float], share: float) -> None:
    expected = np.quantile(values, share)
    assert quantile(sorted(values), share) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_an_answer_at_an_exit_counts_for_its_cut() -> None:
    tally, here = Tally("edge-0", 1, 10), Place.EDGE
    tally.add(record(0, 4.0, cut="stem", cut_index=1, finished_on=here, network="exit"))
    tally.add(record(1, 99.0, finished_on=here, network="large", fallback="hedge"))
    report = tally.report(Phase.RUNNING, 200.0)
    assert report.unanswered == 1
    assert [(c.cut, c.frames, c.p50_ms) for c in report.cuts] == [("stem", 1, 4.0)]


def test_figures_of_answered_frames_only() -> None:
    tally = Tally("edge-0", 1, 10)
    for made in (
        record(0, 10.0),
        record(1, 30.0),
        record(2, 99.0, finished_on=Place.EDGE),
        record(3, 99.0, outcome="failed", error="unreadable"),
        record(4, 5.0, cut="output", cut_index=9, finished_on=Place.EDGE),
    ):
        tally.add(made)
    report = tally.report(Phase.RUNNING, 200.0)
    assert (report.done, report.failed, report.unanswered) == (5, 1, 1)
    assert (report.bytes_up, report.bytes_down) == (35, 10)
    assert [(c.cut, c.frames, c.p50_ms) for c in report.cuts] == [
        ("relu", 2, 20.0),
        ("output", 1, 5),
    ]
    assert report.best is not None
    assert report.best.cut == "output"
    assert (report.cut, report.latency) == ("output", report.best)


def test_a_batch_counts_once() -> None:
    tally = Tally("edge-0", 4, 8)
    for sample in range(8):
        tally.add(record(sample, float(sample // 4)))
    report = tally.report(Phase.RUNNING, 200.0)
    assert (report.done, report.bytes_up) == (8, 14)
    assert report.cuts[0].frames == 2


def test_expected_end_at_the_pace_since_the_restart() -> None:
    tally = Tally("edge-0", 1, 103)
    tally.resume([record(sample) for sample in range(50)])
    assert tally.report(Phase.RUNNING, 1000.0).completion_at is None
    for sample in (50, 51, 52):
        tally.add(record(sample, 0.0, started_at=1000.0 + sample))
    report = tally.report(Phase.RUNNING, 1052.0)
    assert report.resumed == 50
    assert report.completion_at == pytest.approx(1052.0 + 50)


def test_memory_is_bounded() -> None:
    latencies = Latencies(index=3)
    for _ in range(20_000):
        latencies.add(1.0)
    assert len(latencies.values) == 2_048
    assert latencies.report("conv").frames == 20_000


def test_only_cuts_with_new_frames_are_reckoned_anew() -> None:
    tally = Tally("edge-0", 1, 10)
    tally.add(record(0))
    tally.add(record(1, cut="conv", cut_index=5))
    before = tally.report(Phase.RUNNING, 1.0).cuts
    tally.add(record(2, 30.0))
    after = tally.report(Phase.RUNNING, 2.0).cuts
    assert (after[0].frames, after[0].p50_ms) == (2, 20.0)
    assert after[1] is before[1]


def test_regret_is_against_the_best_candidate() -> None:
    tally = Tally("edge-0", 1, 10)
    kept = Decision(cut=3, epoch=1, predicted_ms=8.0, reason="hysteresis", predicted_regret_ms=2.0)
    tally.decided(kept, 9.0, 100.0)
    decisions = tally.report(Phase.RUNNING, 100.0).decisions
    assert decisions is not None
    assert decisions.predicted_ms == 8.0
    assert decisions.regret_ms == pytest.approx(3.0)


def test_decisions_and_how_they_turned_out() -> None:
    tally = Tally("edge-0", 1, 10)
    fixed = Decision(cut=3)
    tally.decided(fixed, 10.0, 100.0)
    assert tally.report(Phase.RUNNING, 100.0).decisions is None
    first = Decision(cut=3, epoch=1, predicted_ms=8.0, reason="best")
    tally.decided(first, 10.0, 101.0)
    tally.decided(first, 15.0, 102.0)
    decisions = tally.report(Phase.RUNNING, 102.0).decisions
    assert decisions is not None
    assert (decisions.since, decisions.switches, decisions.reason, decisions.predicted_ms) == (
        101.0,
        1,
        "best",
        8.0,
    )
    assert decisions.measured_ms == pytest.approx(11.0)
    assert decisions.regret_ms == pytest.approx(3.0)
    tally.decided(Decision(cut=5, epoch=2, predicted_ms=8.0, reason="explore"), 6.0, 103.0)
    decisions = tally.report(Phase.RUNNING, 103.0).decisions
    assert decisions is not None
    assert (decisions.since, decisions.switches, decisions.measured_ms, decisions.regret_ms) == (
        103.0,
        2,
        6.0,
        0.0,
    )
    assert decisions.by_reason == {"best": 2, "explore": 1}


def test_frames_that_finish_out_of_order_are_one_switch() -> None:
    tally = Tally("edge-0", 1, 10)
    for at, epoch in enumerate([0, 1, 0, 1]):
        decision = Decision(cut=3 + epoch, epoch=epoch, predicted_ms=8.0, reason=f"epoch {epoch}")
        tally.decided(decision, 100.0 if epoch == 0 else 10.0, float(at))
    decisions = tally.report(Phase.RUNNING, 4.0).decisions
    assert decisions is not None
    assert (decisions.switches, decisions.since, decisions.reason, decisions.measured_ms) == (
        1,
        1.0,
        "epoch 1",
        10.0,
    )
    assert decisions.by_reason == {"epoch 0": 2, "epoch 1": 2}


def test_a_study_fails_only_if_every_sample_failed() -> None:
    tally = Tally("edge-0", 2, 4)
    tally.resume([record(0, outcome="failed", error="unreadable")])
    found = [tally.failure]
    for one in (
        record(1, outcome="failed", error="too thin"),
        record(2),
        record(3, outcome="failed", error="too thin"),
    ):
        tally.add(one)
        found.append(tally.failure)
    both = "all 2 samples failed; the first: unreadable"
    assert found == ["the only sample failed: unreadable", both, None, None]
    assert Tally("edge-0", 2, 4).failure is None
