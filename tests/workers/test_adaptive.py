"""Mode Adaptive over real websockets."""

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack
from itertools import pairwise
from typing import Any

import pytest

from splittracr.backends import measuring
from splittracr.edge.study import StudyRunner
from splittracr.experiment.spec import ExperimentSpec
from splittracr.experiment.types import Record
from splittracr.measure.metrics import EdgeMetrics
from splittracr.planning.adapt import HANDSHAKE_BYTES, adapting
from splittracr.planning.schedule import order, trials
from splittracr.server.worker import Server
from tests.scrape import scraped
from tests.workers.pair import Tensors, opened, proven, serving, spec


def adaptive(**settings: Any) -> ExperimentSpec:
    return spec(partition={"mode": "Adaptive", "adaptive": settings})


async def run(of: ExperimentSpec, frames: int) -> tuple[EdgeMetrics, list[Record]]:
    edge, far = proven(of), proven(of)
    measured = measuring.measured(far, of, measuring.frames(far, 1))
    metrics = EdgeMetrics(adaptive=True)
    async with AsyncExitStack() as stack:
        server = Server(far, of, None, profile=measured)
        url, _ = await stack.enter_async_context(serving(server))
        link = await stack.enter_async_context(opened(url, edge, of))
        assert link.welcome is not None
        assert link.welcome.profile == measured
        chooser = adapting(of, measured, link.welcome.profile, [])
        link.observer = chooser
        first = chooser.expected_ms(0, time.perf_counter())
        for size in HANDSHAKE_BYTES:
            await link.learn(size)
        while chooser.expected_ms(0, time.perf_counter()) >= first:  # 10 Mbit/s was assumed
            await link.learn(HANDSHAKE_BYTES[-1])  # others on the machine may have slowed the first
        worker = StudyRunner(edge, of, Tensors(), link, metrics, chooser)
        stack.callback(worker.close)
        done: list[Record] = []
        steps = order(trials([edge.proof.last], 1), frames, 0)
        async for frame in worker.run(steps, frames, asyncio.Event()):
            done += worker.records(frame, "u", "edge-0")
            await link.learn(2_000)
        assert link.reconnects == 0
    return metrics, done


@pytest.mark.parametrize("policy", ["Adaptive", "Deadline", "Hedge", "Bandit"])
def test_every_sample_is_recorded_with_what_was_decided(policy: str) -> None:
    metrics, records = asyncio.run(run(adaptive(policy=policy), 30))
    assert sorted(record.sample for record in records) == list(range(30))
    assert {record.outcome for record in records} == {"ok"}
    assert "server-lost" not in {record.fallback for record in records}
    for record in records:
        assert record.predicted_ms is not None
        assert record.predicted_ms > 0
        assert record.reason is not None
    for earlier, later in pairwise(sorted(records, key=lambda record: record.sample)):
        changed = (earlier.cut, earlier.codec) != (later.cut, later.codec)
        assert later.epoch - earlier.epoch == changed
    seen = scraped(metrics.exposition)
    reasons = Counter(record.reason for record in records)
    for reason, count in reasons.items():
        assert seen.one("splittracr_decisions_total", reason=str(reason)) == count
    last = max(records, key=lambda record: record.sample)
    assert seen.one("splittracr_cut_index") == last.cut_index
    candidate = seen.of("splittracr_candidate_info", "cut", "codec")
    assert candidate == {(last.cut, last.codec): 1}
    assert seen.one("splittracr_candidate_switches_total") == last.epoch
    assert seen.one("splittracr_predicted_frames_total") == 30
    predicted = sum(record.predicted_ms or 0.0 for record in records) / 1e3
    measured = sum(record.total_ms for record in records) / 1e3
    assert seen.one("splittracr_predicted_latency_seconds_total") == pytest.approx(predicted)
    assert seen.one("splittracr_measured_latency_seconds_total") == pytest.approx(measured)
