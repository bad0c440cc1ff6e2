"""Mode Adaptive with a small model: it goes first, runs after the answer, or does not run."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest

from splittracr.edge import cascade, recording
from splittracr.edge.learner import small_model
from splittracr.edge.recording import Finished
from splittracr.experiment.codec import RAW
from splittracr.experiment.profile import Profile
from splittracr.experiment.spec import ExperimentSpec
from splittracr.experiment.types import Record
from splittracr.measure.metrics import EdgeMetrics
from splittracr.planning.decision import Decision, When
from splittracr.planning.learner import Learner
from splittracr.planning.registry import Maker
from tests.scrape import scraped
from tests.workers import adaptive
from tests.workers.adaptive import FirstIfItMay, frame_alone
from tests.workers.pair import Counted, Tensors, proven, spec

CUT = 2
LARGE, OTHER = 0, 1  # seeds of the weights


def of(adaptive: dict[str, object] | None = None, **more: object) -> ExperimentSpec:
    """A study in mode Adaptive whose small model is sure of all samples."""
    keys = {"model": {"name": "small"}, "statistic": "Margin", "thresholdPerMillion": 1, **more}
    partition = {"mode": "Adaptive", "cascade": keys}
    return spec(partition=partition if adaptive is None else {**partition, "adaptive": adaptive})


def joined(wanted: ExperimentSpec, seed: int) -> cascade.Small:
    """The small model with the weights of a seed. With that of the large one all answers agree."""
    assert wanted.partition.cascade is not None
    large = proven(wanted, LARGE)
    return cascade.joined(proven(wanted, seed), large, (), wanted.partition.cascade)


def frame(small: When | None, seed: int, dataset: Tensors, threshold: int = 1) -> Finished:
    """One frame on the edge alone."""
    wanted = of(thresholdPerMillion=threshold)
    first, large = joined(wanted, seed), proven(wanted, LARGE)
    return frame_alone(first, large, small, dataset)


def test_a_sample_is_answered_by_the_large_model_without_the_small_one() -> None:
    dataset = Counted()
    done = frame(None, OTHER, dataset)
    assert done.cascaded is not None
    assert (done.cascaded.network, done.cascaded.sureness) == ("large", None)
    assert (done.cascaded.audit, done.outcome().first) == (None, None)
    assert sum(dataset.loads) == 1


@pytest.mark.parametrize(("seed", "audit"), [(LARGE, "agrees"), (OTHER, "disagrees")])
def test_after_an_answer_the_small_model_runs_on_the_same_sample(seed: int, audit: str) -> None:
    dataset = Counted()
    done, alone = frame("after", seed, dataset), frame(None, seed, Tensors())
    assert done.cascaded is not None
    assert (done.cascaded.network, done.cascaded.audit) == ("large", audit)
    assert (done.cascaded.sureness or 0) > 0
    assert sum(dataset.loads) == 1
    assert done.result.predictions[0].described == alone.result.predictions[0].described
    assert "small" not in done.result.stages  # the answer did not wait for it
    run = done.outcome().first
    assert run is not None
    assert run.sure
    assert run.ms > 0


def test_a_small_model_that_is_not_sure_gives_no_audit() -> None:
    done = frame("after", OTHER, Tensors(), threshold=1_000_001)
    assert done.cascaded is not None
    assert (done.cascaded.network, done.cascaded.audit) == ("large", None)
    run = done.outcome().first
    assert run is not None
    assert not run.sure


def test_a_sample_that_cannot_be_loaded_is_not_tried() -> None:
    done = frame("after", OTHER, Tensors(broken=[0]))
    assert done.result.failures == {0: "ValueError: tensor-0 is broken"}
    assert done.outcome().first is None


def test_an_answer_has_what_was_decided() -> None:
    decision = frame("first", OTHER, Tensors()).result.decision
    last = proven(of(), LARGE).proof.last
    expected = Decision(last, RAW, 3, predicted_ms=5.0, reason="best", small="first")
    assert decision == expected


# ------------------------------------------------------------------------------- whole studies


FIRST = partial(FirstIfItMay, CUT)


def run(
    wanted: ExperimentSpec, small: cascade.Small, frames: int, policy: Maker | None = None
) -> tuple[list[Record], EdgeMetrics]:
    def learner(profile: Profile) -> Learner:
        del profile
        return small_model(small, wanted, Tensors(), ())

    return adaptive.run(wanted, small, proven(wanted, LARGE), learner, frames, policy)


def went_first(record: Record) -> bool:
    return record.network == "small" or "small" in record.stages


@pytest.mark.parametrize("policy", ["Adaptive", "Deadline", "Hedge"])
def test_every_sample_has_one_record_with_what_was_decided(policy: str) -> None:
    wanted = of({"policy": policy}, auditPercent=50)
    records, metrics = run(wanted, joined(wanted, LARGE), 40)
    assert [record.sample for record in records] == list(range(40))
    assert {record.outcome for record in records} == {"ok"}
    for record in records:
        assert record.predicted_ms is not None
        assert record.predicted_ms > 0
        assert record.reason is not None
        assert record.network == ("small" if went_first(record) else "large")
    for earlier, later in pairwise(records):
        if went_first(earlier) != went_first(later):
            assert later.epoch > earlier.epoch
    seen = scraped(metrics.exposition)
    assert seen.one("splittracr_candidate_switches_total") == records[-1].epoch
    networks = seen.of("splittracr_cascade_samples_total", "network")
    small = sum(map(went_first, records))
    assert networks == {("small",): small, ("large",): 40 - small}
    audits = seen.of("splittracr_cascade_audits_total", "outcome")
    assert audits["agrees",] == sum(record.audit == "agrees" for record in records)
    assert seen.one("splittracr_predicted_frames_total") == 40


def test_a_small_model_that_drifts_answers_no_more_but_is_tried() -> None:
    wanted = of(auditPercent=100, maxDisagreementPerMillion=50_000)
    small = joined(wanted, OTHER)
    records, metrics = run(wanted, small, 60, FIRST)
    outcomes = [record.audit for record in records if record.audit is not None]
    assert outcomes.count("disagrees") > 3
    assert small.calibrated.audit.drifted
    answered = [record.sample for record in records if went_first(record)]
    assert answered == list(range(len(answered)))  # none after the drift
    assert 3 <= len(answered) < 30
    tried = [r for r in records[len(answered) :] if r.audit is not None]
    assert tried
    assert {r.network for r in tried} == {"large"}
    assert {r.reason for r in tried} == {"explore"}
    assert all(r.bytes_up > 0 for r in tried)  # of the answer: comparing takes none
    assert scraped(metrics.exposition).one("splittracr_cascade_drifted") == 1


def test_audits_of_tried_samples_end_a_drift() -> None:
    wanted = of(auditPercent=100, maxDisagreementPerMillion=50_000)
    small = joined(wanted, LARGE)
    for _ in range(3):
        small.calibrated.audit.add(agrees=False)
    assert small.calibrated.audit.drifted
    records, _ = run(wanted, small, 60, FIRST)
    assert not went_first(records[0])
    assert went_first(records[-1])
    assert not small.calibrated.audit.drifted


# ------------------------------------------------------------------------------------- start-up


def test_the_small_model_is_measured_before_the_study() -> None:
    wanted = of({"edgeMemoryMebibytes": 1})
    slowed = replace_slowdown(wanted, 10_000)
    small = joined(wanted, OTHER)
    one, hundred = (small_model(small, each, Tensors(), ()) for each in (wanted, slowed))
    believed, slower = one.believed(1.0), hundred.believed(1.0)
    assert believed is not None
    assert slower is not None
    assert 0 < believed.small_ms < slower.small_ms
    assert one.memory_bytes > 4 * (10 * 4 * 36)  # the weights of the last layer
    assert small_model(small, of(), Tensors(), ()).memory_bytes == 0  # without a limit
    unreadable = small_model(small, wanted, Tensors(broken=range(8)), ()).believed(1.0)
    assert unreadable is not None
    assert unreadable.small_ms == 0


def replace_slowdown(wanted: ExperimentSpec, percent: int) -> ExperimentSpec:
    edge = wanted.edge.model_copy(update={"slowdown_percent": percent})
    return wanted.model_copy(update={"edge": edge})


def test_records_of_an_earlier_start_are_learnt_from() -> None:
    wanted = of(thresholdPerMillion=500_000)
    done = frame("first", OTHER, Tensors())
    template = recorded(done)
    earlier = [template(600_000), template(500_000), template(400_000), template(None)]
    model = small_model(joined(wanted, OTHER), wanted, Tensors(), earlier)
    assert model.sure == pytest.approx(3 / 5, rel=0.01)
    recalibrated = [template(400_000, 300_000), template(600_000, 700_000)]
    model = small_model(joined(wanted, OTHER), wanted, Tensors(), recalibrated)
    assert model.sure == pytest.approx(2 / 4, rel=0.01)


def recorded(done: Finished) -> Callable[..., Record]:
    """Makes a record with a sureness, and the threshold of that sample if it is known."""

    def made(sureness: int | None, threshold: int | None = None) -> Record:
        assert done.cascaded is not None
        cascaded = replace(done.cascaded, sureness=sureness, threshold=threshold)
        changed = replace(done, cascaded=cascaded)
        (record,) = recording.records(changed, "u", "edge-0", ["a"], emulated=False)
        return record

    return made
