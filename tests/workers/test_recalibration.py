"""A cascade over a real server whose pictures shift: it drifts, recalibrates and answers again."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from splittracr.backends import measuring
from splittracr.backends.torch.proven import ProvenNetwork
from splittracr.edge import cascade, exits
from splittracr.edge.cascade import First
from splittracr.edge.learner import small_model
from splittracr.edge.run import Schedule
from splittracr.edge.study import StudyRunner
from splittracr.experiment.spec import ExperimentSpec
from splittracr.experiment.types import Record
from splittracr.measure.metrics import EdgeMetrics
from splittracr.planning.adapt import adapting
from splittracr.planning.decision import Chooser, Scheduled
from splittracr.planning.schedule import order, trials
from splittracr.server.worker import Server
from tests.scrape import Scrape, scraped
from tests.workers.adaptive import FirstIfItMay
from tests.workers.pair import opened, serving, spec, within
from tests.workers.shifting import FROM, SHIFT, Shifting, network

CUT = 4  # after both exits
PICTURES, FRAMES = 100, 400
PROMISED = 0.2


def of(
    first: dict[str, object], mode: str = "Cascade", in_flight: int = 1, **more: object
) -> ExperimentSpec:
    """A study that recalibrates; keyword arguments are keys of `cascade`."""
    keys: dict[str, object] = {
        "statistic": "Margin",
        "thresholdPerMillion": FROM,
        "maxDisagreementPerMillion": round(PROMISED * 1e6),
        "auditPercent": 60,
        "recalibrate": PICTURES,
        **first,
        **more,
    }
    partition: dict[str, object] = {"mode": mode, "cascade": keys}
    none: dict[str, object] = {}
    partition |= {"cut": CUT} if mode == "Cascade" else {"adaptive": none}
    arrival = {"mode": "Closed", "inFlight": in_flight}
    return spec(partition=partition, workload={"arrival": arrival})


SMALL: dict[str, object] = {"model": {"name": "small"}}
EXITS: dict[str, object] = {"exits": "Declared"}


@dataclass
class Ran:
    """The records of a run in the order in which frames ended, and the edge's side of it."""

    records: list[Record]
    first: First
    metrics: EdgeMetrics

    @property
    def scraped(self) -> Scrape:
        return scraped(self.metrics.exposition)


def built(wanted: ExperimentSpec, large: ProvenNetwork) -> First:
    keys = wanted.partition.cascade
    assert keys is not None
    if keys.exits is not None:
        return exits.built(wanted, large, Path())
    return cascade.joined(network(wanted, 0), large, (), keys)


def run(wanted: ExperimentSpec, dataset: Shifting, earlier: Sequence[Record] = ()) -> Ran:
    """The whole study, or the rest of one that has left records."""
    large, far = network(wanted, 1, exits=True), network(wanted, 1)
    first, metrics, records = built(wanted, large), EdgeMetrics(adaptive=True), list[Record]()
    first.calibrated.resume(earlier)
    metrics.cascade(first.calibrated, first.kind)
    metrics.planned(len(dataset), earlier)

    async def body() -> None:
        async with AsyncExitStack() as stack:
            measured = measuring.measured(far, wanted, measuring.frames(far, 1))
            server = Server(far, wanted, None, profile=measured)
            url, _ = await stack.enter_async_context(serving(server))
            link = await stack.enter_async_context(opened(url, large, wanted))
            chooser: Chooser = Scheduled(wanted, large.network.pictures)
            if isinstance(first, cascade.Small) and wanted.partition.adaptive is not None:
                model = small_model(first, wanted, dataset, earlier)
                own = partial(FirstIfItMay, CUT)
                link.observer = chooser = adapting(
                    wanted, measured, measured, [], own, learner=model
                )
            worker = StudyRunner(large, wanted, dataset, link, metrics, chooser, first)
            stack.callback(worker.close)
            steps, count = order(trials([CUT], 1), len(dataset), 0), len(dataset)
            left = Schedule({}, steps, count).without(earlier, 1)
            async for done in worker.run(left.steps, left.total, asyncio.Event()):
                for record in worker.records(done, "u", "edge-0"):
                    records.append(record)
                    metrics.recorded(record)

    within(body())
    return Ran(records, first, metrics)


def answer(record: Record) -> int:
    found: int = record.prediction[0]["class"]
    return found


def wrong(records: Sequence[Record], dataset: Shifting) -> float:
    """The share of answers that are not those of the large network."""
    return sum(answer(one) != dataset.truth(one.sample) for one in records) / len(records)


@pytest.mark.parametrize("in_flight", [1, 8])
@pytest.mark.parametrize(
    ("first", "mode", "answering"),
    [
        (SMALL, "Cascade", {"small"}),
        (SMALL, "Adaptive", {"small"}),
        (EXITS, "Cascade", {"exit"}),
    ],
)
def test_a_cascade_whose_pictures_shift_answers_again_within_its_promise(
    first: dict[str, object],
    mode: str,
    answering: set[str],
    in_flight: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    dataset = Shifting(FRAMES)
    with caplog.at_level(logging.WARNING):
        ran = run(of(first, mode, in_flight), dataset)
    assert sorted(record.sample for record in ran.records) == list(range(FRAMES))
    judged = [one for one in ran.records if one.judged is not None]
    assert len(judged) == PICTURES
    assert min(one.sample for one in judged) > SHIFT
    assert {one.network for one in judged} == {"large"}
    assert {one.audit for one in judged} == {None}
    assert {len(one.judged or ()) for one in judged} == {2 if first is EXITS else 1}
    assert wrong(judged, dataset) == 0
    assert all("small" not in one.stages and "exit" not in one.stages for one in judged)

    now = ran.first.calibrated
    assert now.threshold > 300_000  # above all that err
    again = [one for one in ran.records if one.threshold == now.threshold]
    answered = [one for one in again if one.network != "large"]
    assert {one.network for one in answered} == answering
    assert len(answered) > 20
    assert wrong(answered, dataset) <= PROMISED
    assert {one.audit for one in answered} > {"agrees"}
    before = [one for one in ran.records if one.network != "large" and one not in answered]
    assert {one.threshold for one in before} == {FROM}
    assert wrong(before, dataset) > 0

    seen = ran.scraped
    assert seen.one("splittracr_cascade_threshold_ratio") == now.threshold / 1e6
    assert seen.one("splittracr_cascade_drifted") == 0
    counts = {("proven",): 1, ("unproven",): 0}
    assert seen.of("splittracr_cascade_recalibrations_total", "outcome") == counts
    said = [one.getMessage() for one in caplog.records if "threshold" in one.getMessage()]
    assert len(said) == 2
    assert "audits refute the promise of threshold 0.1" in said[0]
    assert f"recalibrated on 100 pictures: threshold 0.1 -> {now.threshold / 1e6:g}" in (said[1])


def test_exits_are_all_judged_and_answer_as_before_in_turn() -> None:
    ran = run(of(EXITS), Shifting(FRAMES))
    judged = [one.judged for one in ran.records if one.judged]
    assert all(not agrees for ((sure, agrees), _) in judged if sure < 500_000)
    assert {agrees for _, (sure, agrees) in judged if sure > 500_000} == {True}
    again = [one for one in ran.records if one.threshold == ran.first.calibrated.threshold]
    assert {one.cut for one in again if one.network == "exit"} == {"body.0", "body.1"}
    assert "large" in {one.network for one in again}


@pytest.mark.parametrize(("first", "mode"), [(SMALL, "Cascade"), (EXITS, "Cascade")])
def test_a_restart_at_any_point_changes_no_answer(first: dict[str, object], mode: str) -> None:
    dataset, wanted = Shifting(FRAMES), of(first, mode)
    whole = run(wanted, dataset).records
    judged = [place for place, one in enumerate(whole) if one.judged is not None]
    for killed in (SHIFT - 5, judged[0], judged[50], judged[-1], judged[-1] + 1, FRAMES - 5):
        rest = run(wanted, dataset, whole[:killed]).records
        assert list(map(shown, whole)) == list(map(shown, [*whole[:killed], *rest]))


def shown(record: Record) -> tuple[object, ...]:
    one = record
    return one.sample, one.network, one.sureness, one.threshold, one.audit, one.judged, answer(one)


def test_a_hopeless_small_model_stays_off() -> None:
    dataset = Shifting(FRAMES, hopeless=True)
    ran = run(of(SMALL), dataset)
    assert sorted(record.sample for record in ran.records) == list(range(FRAMES))
    answered = [one.sample for one in ran.records if one.network == "small"]
    judged = [one.sample for one in ran.records if one.judged is not None]
    assert answered == list(range(len(answered)))  # none after the drift
    assert SHIFT < judged[0] == len(answered)
    assert judged[:PICTURES] == list(range(judged[0], judged[0] + PICTURES))
    assert 0 < len(judged) - PICTURES < (FRAMES - judged[PICTURES]) / 4  # rarely from then on
    now = ran.first.calibrated
    assert (now.threshold, now.audit.drifted, now.unproven) == (FROM, True, 1)
    assert ran.scraped.one("splittracr_cascade_drifted") == 1
