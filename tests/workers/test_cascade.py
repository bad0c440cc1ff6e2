"""A cascade with a server: the small model answers if it is sure enough, else the large one."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from splittracr.backends.torch import build
from splittracr.backends.torch.proven import ProvenNetwork
from splittracr.data.contracts import Geometry
from splittracr.edge import cascade
from splittracr.edge.frame import Truth
from splittracr.edge.infer import Inferencer, Options
from splittracr.edge.recording import Cascaded
from splittracr.edge.study import StudyRunner
from splittracr.experiment.errors import InvalidInput, ServerLost
from splittracr.experiment.spec import ExperimentSpec, OnServerLoss
from splittracr.experiment.types import Place, Record
from splittracr.measure.metrics import EdgeMetrics
from splittracr.planning.decision import Decision, Scheduled
from splittracr.planning.schedule import Step, Trial, order, trials
from splittracr.server.worker import Server
from tests.edge.local import Counts, FakeLink
from tests.scrape import scraped
from tests.workers.pair import Counted, Small, Tensors, opened, proven, serving, spec, within

CUT = 2
FRAMES = 16
LARGE, SMALL = 0, 1  # seeds of the weights


def of(**more: object) -> ExperimentSpec:
    """A study in mode Cascade; keyword arguments are keys of `cascade`."""
    keys = {"model": {"name": "small"}, "statistic": "Margin", "thresholdPerMillion": 1, **more}
    return spec(partition={"mode": "Cascade", "cut": CUT, "cascade": keys})


def joined(
    wanted: ExperimentSpec, small: ProvenNetwork | None = None, large: ProvenNetwork | None = None
) -> cascade.Small:
    assert wanted.partition.cascade is not None
    small, large = small or proven(wanted, SMALL), large or proven(wanted, LARGE)
    return cascade.joined(small, large, large.network.classes, wanted.partition.cascade)


def first_class(seed: int, index: int) -> int:
    with torch.inference_mode():
        data = Tensors().load(index).data
        assert data is not None
        return int(Small(seed).eval()(data.unsqueeze(0)).argmax())


def surenesses() -> list[int]:
    """The margin of the small network for each sample, in millionths."""
    found = []
    for index in range(8):
        data = Tensors().load(index).data
        assert data is not None
        with torch.inference_mode():
            best = Small(SMALL).eval()(data.unsqueeze(0)).softmax(1)[0].sort(descending=True)[0]
        found.append(int(1e6 * float(best[0] - best[1])))
    return found


def median() -> int:
    """A threshold from which half of the samples are sure."""
    return sorted(surenesses())[4]


def run(
    wanted: ExperimentSpec, dataset: Tensors | None = None
) -> tuple[list[Record], cascade.Small]:
    """The records of a study over a real server, and the small network's side of it."""
    records: list[Record] = []
    small = joined(wanted)

    async def body() -> None:
        large = proven(wanted, LARGE)
        async with AsyncExitStack() as stack:
            server = Server(proven(wanted, LARGE), wanted, None)
            url, _ = await stack.enter_async_context(serving(server))
            link = await stack.enter_async_context(opened(url, large, wanted))
            worker = StudyRunner(
                large,
                wanted,
                dataset or Tensors(),
                link,
                EdgeMetrics(),
                Scheduled(wanted, large.network.pictures),
                small,
            )
            stack.callback(worker.close)
            steps = order(trials([CUT], 1), FRAMES, 0)
            async for done in worker.run(steps, FRAMES, asyncio.Event()):
                records.extend(worker.records(done, "u", "edge-0"))

    within(body())
    return records, small


OUTCOMES = ("agrees", "disagrees", "failed")


def audited_as(records: Sequence[Record], outcome: str) -> float:
    return float(sum(record.audit == outcome for record in records))


def best(record: Record) -> int:
    found: int = record.prediction[0]["class"]
    return found


def test_each_sample_is_answered_once_by_the_network_that_is_sure_enough() -> None:
    dataset, threshold = Counted(), median()
    records, _ = run(of(thresholdPerMillion=threshold, auditPercent=0), dataset)
    assert [record.sample for record in records] == list(range(FRAMES))
    assert dataset.loads == [2] * 8  # each sample is in two frames
    networks = [record.network for record in records]
    expected = ["small" if one >= threshold else "large" for one in surenesses()] * 2
    assert networks == expected
    assert {"small", "large"} == set(networks)
    for record in records:
        index, sure = record.sample % 8, record.network == "small"
        assert record.sureness == pytest.approx(surenesses()[index], abs=1)
        assert best(record) == first_class(SMALL if sure else LARGE, index)
        assert record.finished_on is (Place.EDGE if sure else Place.SERVER)
        assert (record.bytes_up == 0) is sure
        assert record.cut == ("output" if sure else proven(of()).proof.cuts[CUT].name)
        assert record.total_ms == pytest.approx(sum(record.stages.values()))
        assert ("small" in record.stages) is not sure
        assert record.audit is None
        assert record.top1 is (best(record) == index)  # Tensors has labels


def test_audits_compare_with_the_large_network_and_leave_the_answer() -> None:
    records, small = run(of(auditPercent=100, maxDisagreementPerMillion=50_000))
    agreeing = [first_class(SMALL, i) == first_class(LARGE, i) for i in range(8)] * 2
    assert [record.audit == "agrees" for record in records] == agreeing
    assert {record.audit for record in records} <= {"agrees", "disagrees"}
    for record in records:
        assert best(record) == first_class(SMALL, record.sample % 8)
        assert record.finished_on is Place.EDGE
        assert record.bytes_up > 0
        assert "tail" not in record.stages  # the audit is no part of the latency
    disagreeing = agreeing.count(False)
    audit = small.calibrated.audit
    assert (audit.audited, audit.disagreeing) == (FRAMES, disagreeing)
    assert audit.drifted is (disagreeing >= 5)  # 0.05 promised: 5 of 16 refute it


def test_metrics_and_audits_continue_after_a_restart() -> None:
    records, before = run(of(auditPercent=50, maxDisagreementPerMillion=50_000))
    audited = [record for record in records if record.audit is not None]
    assert 0 < len(audited) < FRAMES
    again, metrics = joined(of(maxDisagreementPerMillion=50_000)), EdgeMetrics()
    again.calibrated.resume(records)
    now, expected = again.calibrated.audit, before.calibrated.audit
    assert now.audited == expected.audited == len(audited)
    assert now.disagreeing == expected.disagreeing
    metrics.cascade(again.calibrated, again.kind)
    metrics.planned(FRAMES, records)
    seen = scraped(metrics.exposition)
    counts = {(outcome,): audited_as(records, outcome) for outcome in OUTCOMES}
    assert seen.of("splittracr_cascade_audits_total", "outcome") == counts
    networks = {("small",): float(FRAMES), ("large",): 0.0}
    assert seen.of("splittracr_cascade_samples_total", "network") == networks
    assert seen.one("splittracr_cascade_disagreement_ratio") == expected.bound
    assert seen.one("splittracr_cascade_drifted") == expected.drifted


def test_other_modes_have_no_metrics_of_cascades() -> None:
    assert not {name for name in scraped(EdgeMetrics().exposition).names if "cascade" in name}


def test_a_wait_before_the_frame_is_no_part_of_the_small_networks_time() -> None:
    async def body() -> None:
        wanted = of(thresholdPerMillion=1_000_001)
        small, large = joined(wanted), proven(wanted, LARGE)
        counts, options = Counts(), Options(pipelined=False)
        here = Inferencer(small.backend, None, counts, options)
        there = Inferencer(large, None, counts, options)
        runs = cascade.Cascade(small, here, there, seed=0)
        alone = Decision(large.proof.last, small="first")
        due = time.perf_counter() - 100
        step, load = Step(Trial(0, CUT, 0), 0), partial(Tensors().load, 0)
        try:
            done = await runs.finish(step, load, alone, due)
        finally:
            here.close()
            there.close()
        stages = done.result.stages
        assert done.result.total_ms == pytest.approx(sum(stages.values()))
        assert stages["other"] >= 100_000  # the wait
        assert 0 < stages["small"] < 100_000

    within(body())


@pytest.mark.parametrize("threshold", [1, 1_000_001])  # all are sure, none is
def test_a_lost_server_fails_a_sample_that_needs_it(threshold: int) -> None:
    async def body() -> None:
        wanted = of(thresholdPerMillion=threshold, auditPercent=0)
        large = proven(wanted, LARGE)
        link = FakeLink(proven(wanted, LARGE), error=ServerLost("it is gone"))
        link.open.set()
        counts = Counts()
        options = Options(pipelined=False, server_loss=OnServerLoss.FAIL)
        there = Inferencer(large, link, counts, options)
        small = joined(wanted)
        here = Inferencer(small.backend, None, counts, options)
        runs = cascade.Cascade(small, here, there, seed=0)
        step = Step(Trial(0, CUT, 0), 0)
        load, first = partial(Tensors().load, 0), Decision(CUT, small="first")
        try:
            if threshold > 1:
                with pytest.raises(ServerLost):
                    await runs.finish(step, load, first, time.perf_counter())
            else:
                done = await runs.finish(step, load, first, time.perf_counter())
                assert done.cascaded is not None
                expected = Cascaded("small", surenesses()[0], threshold=1)
                assert replace(done.cascaded, run=None) == expected
        finally:
            here.close()
            there.close()

    within(body())


def test_a_sample_that_cannot_be_loaded_fails_once() -> None:
    records, _ = run(of(auditPercent=100), Tensors(broken=[3]))
    failed = [record for record in records if record.outcome == "failed"]
    assert [record.sample for record in failed] == [3, 11]
    assert {(one.error, one.network, one.sureness) for one in failed} == {
        ("ValueError: tensor-3 is broken", "large", 0)
    }


# ------------------------------------------------------------------------------------- classes


def with_classes(seed: int, *names: str) -> ProvenNetwork:
    made = proven(of(), seed)
    return replace(made, network=replace(made.network, classes=names))


LETTERS = tuple("abcdefghij")


def test_other_classes_are_refused_and_a_mapping_is_asked_for() -> None:
    other = with_classes(SMALL, "x", *LETTERS[1:])
    with pytest.raises(InvalidInput, match=r"mapping in .*class 0 is 'x', that of small 'a'"):
        joined(of(), other, with_classes(LARGE, *LETTERS))


def test_answers_are_in_classes_of_the_large_network() -> None:
    turned = {name: LETTERS[-1 - i] for i, name in enumerate(LETTERS)}
    wanted = of(classes=turned, auditPercent=0)
    small = joined(wanted, with_classes(SMALL, *LETTERS), with_classes(LARGE, *LETTERS))

    async def body() -> None:
        counts, options = Counts(), Options(pipelined=False)
        here = Inferencer(small.backend, None, counts, options, lambda _: Truth(label=4))
        runs = cascade.Cascade(small, here, here, seed=0)
        try:
            for index in range(8):
                load = partial(Tensors().load, index)
                step, decision = Step(Trial(0, CUT, 0), index), Decision(0, small="first")
                done = await runs.finish(step, load, decision, 0.0)
                expected = 9 - first_class(SMALL, index)
                prediction = done.result.predictions[0]
                assert prediction.described[0]["class"] == expected
                assert prediction.described[0]["label"] == LETTERS[expected]
                assert prediction.top1 is (expected == 4)
        finally:
            here.close()

    within(body())


def test_a_small_network_without_names_has_those_in_the_large_ones_predictions() -> None:
    wanted = of()
    assert wanted.partition.cascade is not None
    pair = proven(wanted, SMALL), proven(wanted, LARGE)
    small = cascade.joined(*pair, LETTERS, wanted.partition.cascade)  # as of a labelled folder
    post = small.backend.postprocessor
    scores, classes = torch.tensor([1.0]), torch.tensor([2])
    (found,) = post.describe({"scores": scores, "classes": classes}, Geometry((8, 8), (8, 8)))
    assert found["label"] == "c"


def test_a_cut_at_which_both_networks_answers_would_meet_is_refused() -> None:
    small, large = joined(of()), proven(of(), LARGE)
    with pytest.raises(InvalidInput, match=r"spec\.partition\.cut: got 'output', expected a cut"):
        small.check_cut(large.cut("output"))
    small.check_cut(large.cut("input"))
    small.check_cut(large.cut(large.proof.last - 1))


def test_a_statistic_for_other_results_is_refused() -> None:
    expected = r"cascade\.statistic: got 'MeanScore', expected one of: Margin, Probability, Entropy"
    with pytest.raises(InvalidInput, match=expected):
        joined(of(statistic="MeanScore"))


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"model": {"name": "nothing"}}, r"spec\.partition\.cascade\.model\.name: got 'nothing'"),
    ],
)
def test_bad_input_names_the_field_of_the_manifest(
    sections: dict[str, object], expected: str, tmp_path: Path
) -> None:
    keys = {"model": {"name": "nothing"}, "statistic": "Margin", "thresholdPerMillion": 1}
    wanted = spec(partition={"mode": "Cascade", "cut": CUT, "cascade": keys}, **sections)
    with pytest.raises(InvalidInput, match=expected):
        cascade.built(wanted, proven(of(), LARGE), (), build, tmp_path)
