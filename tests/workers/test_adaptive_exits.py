"""Mode Adaptive with exits over a real server: they go first, run after the answer, or not."""

from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from splittracr.data.contracts import Sample
from splittracr.edge import exits, recording
from splittracr.edge.learner import learnt_exits
from splittracr.edge.recording import Finished
from splittracr.experiment.profile import Profile
from splittracr.experiment.spec import ExperimentSpec
from splittracr.experiment.types import Record
from splittracr.measure.metrics import EdgeMetrics
from splittracr.planning.decision import When
from splittracr.planning.learner import Learner, LearntExits
from splittracr.planning.registry import Maker
from tests.scrape import scraped
from tests.workers import adaptive
from tests.workers.adaptive import FirstIfItMay, frame_alone, measured
from tests.workers.exit_samples import CUT, FILE, FIRST, SECOND, trained
from tests.workers.pair import Counted, Tensors, proven, run_frames, spec, within

RAW: dict[str, object] = {"results": {"outputs": "Raw"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with exits that have learnt labels, with which the model seldom agrees."""
    return trained(tmp_path_factory.mktemp("exits"))


def of(adaptive: dict[str, object] | None = None, **more: object) -> ExperimentSpec:
    """A study in mode Adaptive whose first exit is sure of all samples."""
    keys = {"exits": FILE, "statistic": "Margin", "thresholdPerMillion": 1, **more}
    partition = {"mode": "Adaptive", "cascade": keys, "adaptive": adaptive or {}}
    return spec(partition=partition, **RAW)


def went_first(record: Record) -> bool:
    return "exit" in record.stages


def frame(small: When | None, folder: Path, dataset: Tensors, threshold: int = 1) -> Finished:
    """One frame on the edge alone."""
    wanted = of(thresholdPerMillion=threshold)
    own = proven(wanted)
    first = exits.built(wanted, own, folder)
    return frame_alone(first, own, small, dataset)


def test_exits_that_do_not_run_leave_no_trace(folder: Path) -> None:
    dataset = Counted()
    done = frame(None, folder, dataset)
    assert done.cascaded is not None
    assert (done.cascaded.network, done.cascaded.sureness) == ("large", None)
    assert (done.cascaded.audit, done.outcome().first) == (None, None)
    assert "exit" not in done.result.stages
    assert sum(dataset.loads) == 1


@pytest.mark.parametrize(("threshold", "count"), [(1, 1), (1_000_001, 2)])
@pytest.mark.parametrize("small", ["first", "after"])
def test_a_run_has_the_times_of_the_exits(
    small: When, threshold: int, count: int, folder: Path
) -> None:
    dataset = Counted()
    done, alone = frame(small, folder, dataset, threshold), frame(None, folder, Tensors())
    run = done.outcome().first
    assert run is not None
    assert run.sure is (count == 1)
    assert len(run.exit_ms) == count
    assert min(run.exit_ms) > 0
    assert run.ms == pytest.approx(sum(run.exit_ms))
    assert sum(dataset.loads) == 1
    assert done.cascaded is not None
    assert (done.cascaded.sureness or 0) > 0
    if small == "first":
        assert done.result.stages["exit"] == pytest.approx(run.ms)
        assert done.cascaded.network == ("exit" if run.sure else "large")
        assert done.result.decision.small == "first"
    else:  # the answer did not wait for them
        assert "exit" not in done.result.stages
        assert done.cascaded.network == "large"
        assert (done.cascaded.audit is not None) is run.sure
        assert done.result.predictions[0].described == alone.result.predictions[0].described


# ------------------------------------------------------------------------------- whole studies


FIRST_IF_IT_MAY = partial(FirstIfItMay, CUT)


def run(
    wanted: ExperimentSpec, folder: Path, frames: int, policy: Maker | None = None
) -> tuple[list[Record], exits.AtExits, EdgeMetrics]:
    """The records of a study, its exits, and the metrics of its edge."""
    own = proven(wanted)
    first = exits.built(wanted, own, folder)

    def learner(profile: Profile) -> Learner:
        return learnt_exits(first, wanted, Tensors(), profile, ())

    records, metrics = adaptive.run(wanted, first, own, learner, frames, policy)
    return records, first, metrics


def digests() -> dict[int, str | None]:
    """Those of the outputs of the whole network, by sample."""
    found: dict[int, str | None] = {}
    plain = spec(partition={"mode": "EdgeOnly"}, **RAW)

    async def body() -> None:
        own = proven(plain)
        done = await run_frames(None, own, plain, [own.proof.last], len(Tensors()))
        for one in done.frames:
            for record in done.worker.records(one, "u", "edge-0"):
                found[record.sample] = record.output_digest

    within(body())
    assert None not in found.values()
    return found


@pytest.mark.parametrize("policy", ["Adaptive", "Deadline", "Hedge"])
def test_every_sample_has_one_record_with_what_was_decided(policy: str, folder: Path) -> None:
    wanted = of({"policy": policy}, auditPercent=50, thresholdPerMillion=100_000)
    records, first, metrics = run(wanted, folder, 40)
    assert [record.sample for record in records] == list(range(40))
    assert {record.outcome for record in records} == {"ok"}
    expected, at = digests(), {cut.name for cut in first.exits.cuts}
    for record in records:
        assert (record.predicted_ms or 0) > 0
        assert record.reason is not None
        if record.network == "exit":
            assert record.cut in at
            assert (record.sureness or 0) >= 100_000
        else:
            assert record.output_digest == expected[record.sample % 8]
            if went_first(record):
                assert record.cut_index == 0 or record.cut_index > SECOND
    for earlier, later in pairwise(records):
        if went_first(earlier) != went_first(later):
            assert later.epoch > earlier.epoch
    seen = scraped(metrics.exposition)
    assert seen.one("splittracr_candidate_switches_total") == records[-1].epoch
    networks = seen.of("splittracr_cascade_samples_total", "network")
    answered = sum(record.network == "exit" for record in records)
    assert networks == {("exit",): answered, ("large",): 40 - answered}
    audits = seen.of("splittracr_cascade_audits_total", "outcome")
    for outcome in ("agrees", "disagrees"):
        assert audits[outcome,] == sum(record.audit == outcome for record in records)
    assert seen.one("splittracr_predicted_frames_total") == 40


def test_exits_that_go_first_leave_results_as_they_are(folder: Path) -> None:
    records, _, _ = run(of(thresholdPerMillion=1_000_001), folder, 16, FIRST_IF_IT_MAY)
    assert all(map(went_first, records))
    assert {(record.network, record.cut_index) for record in records} == {("large", CUT)}
    expected = digests()
    assert all(record.output_digest == expected[record.sample % 8] for record in records)


def test_exits_that_drift_answer_no_more_but_are_tried(folder: Path) -> None:
    wanted = of(auditPercent=100, maxDisagreementPerMillion=50_000)
    records, first, metrics = run(wanted, folder, 60, FIRST_IF_IT_MAY)
    assert first.calibrated.audit.drifted
    answered = [record.sample for record in records if went_first(record)]
    assert answered == list(range(len(answered)))  # none after the drift
    assert 3 <= len(answered) < 30
    tried = [record for record in records[len(answered) :] if record.audit is not None]
    assert tried
    assert {(record.network, record.reason) for record in tried} == {("large", "explore")}
    assert scraped(metrics.exposition).one("splittracr_cascade_drifted") == 1


# ------------------------------------------------------------------------------------- start-up


def started(
    wanted: ExperimentSpec, folder: Path, dataset: Tensors | None = None
) -> tuple[LearntExits, Profile]:
    own, profile = proven(wanted), measured(wanted)
    first = exits.built(wanted, own, folder)
    return learnt_exits(first, wanted, dataset or Tensors(), profile, ()), profile


def test_exits_are_measured_before_the_study(folder: Path) -> None:
    wanted = of()
    slow = wanted.model_copy(
        update={"edge": wanted.edge.model_copy(update={"slowdown_percent": 10_000})}
    )
    (one, profile), (hundred, slowed) = started(wanted, folder), started(slow, folder)
    believed, slower = one.believed(1.0), hundred.believed(1.0)
    assert believed is not None
    assert slower is not None
    assert [made.cut for made in believed.exits] == [FIRST, SECOND]
    assert [made.share for made in believed.exits] == [0.5, 0.5]
    for quick, late in zip(believed.exits, slower.exits, strict=True):
        assert 0 < quick.own_ms < late.own_ms
        assert quick.head_ms == profile.head_ms()[quick.cut]
        assert late.head_ms == pytest.approx(100 * slowed.head_ms()[late.cut])
        assert quick.head_bytes == profile.memory_bytes[quick.cut]
    assert one.memory_bytes == 4 * (10 * 8 + 10 + 10 * 4 + 10)  # of both linear layers
    unreadable = started(wanted, folder, Tensors(broken=range(8)))[0].believed(1.0)
    assert unreadable is not None
    assert [made.own_ms for made in unreadable.exits] == [0, 0]


def test_samples_that_exits_have_learnt_from_measure_their_time(folder: Path) -> None:
    class Learnt(Tensors):
        """The samples of the training."""

        def load(self, index: int) -> Sample:
            return super().load(1000 + index)

    believed = started(of(), folder, Learnt())[0].believed(1.0)
    assert believed is not None
    assert min(one.own_ms for one in believed.exits) > 0


def test_records_of_an_earlier_start_are_learnt_from(folder: Path) -> None:
    wanted = of(thresholdPerMillion=500_000)
    first = exits.built(wanted, proven(wanted), folder)

    def record(cut: int, sureness: int | None, network: str = "large") -> Record:
        done = frame(None, folder, Tensors())
        (made,) = recording.records(done, "u", "edge-0", ["a"], emulated=False)
        changes = {"cut_index": cut, "sureness": sureness, "network": network}
        return made.model_copy(update=changes)

    earlier = [
        record(SECOND, 600_000, "exit"),
        record(SECOND, 500_000, "exit"),
        record(CUT, 400_000),
        record(CUT, None),
    ]
    made = learnt_exits(first, wanted, Tensors(), measured(wanted), earlier)
    believed = made.believed(1.0)
    assert believed is not None
    assert believed.sure == pytest.approx(3 / 5, rel=0.01)
    assert [one.share for one in believed.exits] == pytest.approx([0.5 / 3, 2.5 / 3], rel=0.01)
    tried = learnt_exits(first, wanted, Tensors(), measured(wanted), [record(1, 900_000)])
    assert tried.sure == pytest.approx(2 / 3, rel=0.01)
    assert believed.wrong > 0
