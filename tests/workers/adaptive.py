"""Cascades in mode Adaptive: a frame on the edge alone, and studies over a real server."""

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial

from splittracr.backends import measuring
from splittracr.backends.torch.proven import ProvenNetwork
from splittracr.edge.cascade import Cascade, First
from splittracr.edge.infer import Inferencer, Options
from splittracr.edge.recording import Finished
from splittracr.edge.study import StudyRunner
from splittracr.experiment.profile import Profile
from splittracr.experiment.spec import ExperimentSpec
from splittracr.experiment.types import Record
from splittracr.measure.metrics import EdgeMetrics
from splittracr.planning.adapt import adapting
from splittracr.planning.cost import Candidates
from splittracr.planning.decision import Decision, When
from splittracr.planning.estimate import Beliefs
from splittracr.planning.learner import Learner
from splittracr.planning.policy import Policy, PolicyOptions
from splittracr.planning.registry import Maker
from splittracr.planning.schedule import Step, Trial, order, trials
from splittracr.server.worker import Server
from tests.edge.local import Counts
from tests.workers.pair import Tensors, opened, proven, serving, within


class FirstIfItMay(Policy):
    """Puts the small model or the exits first, unless audits refute them; the cut is fixed."""

    def __init__(self, cut: int, candidates: Candidates, settings: PolicyOptions) -> None:
        super().__init__(candidates, settings)
        self._cut = cut

    def decide(self, now: float, beliefs: Beliefs) -> Decision:
        small: When | None = None if beliefs.cascade is None else "first"
        # So late that a small model or exits could always pay.
        return Decision(self._cut, predicted_ms=1e6, reason="fixed", small=small)


def frame_alone(
    first: First, large: ProvenNetwork, small: When | None, dataset: Tensors
) -> Finished:
    """One frame on the edge alone."""
    counts, options = Counts(), Options(pipelined=False)
    here = Inferencer(first.backend, None, counts, options)
    there = Inferencer(large, None, counts, options)
    decision = Decision(large.proof.last, predicted_ms=5.0, reason="best", epoch=3, small=small)
    runs, load = Cascade(first, here, there, seed=0), partial(dataset.load, 0)
    done: list[Finished] = []

    async def body() -> None:
        try:
            done.append(await runs.finish(Step(Trial(0, 0, 0), 0), load, decision, time.time()))
        finally:
            here.close()
            there.close()

    within(body())
    return done[0]


def measured(wanted: ExperimentSpec) -> Profile:
    """The profile of the small network."""
    own = proven(wanted)
    return measuring.measured(own, wanted, measuring.frames(own, 1))


def run(
    wanted: ExperimentSpec,
    first: First,
    large: ProvenNetwork,
    learner: Callable[[Profile], Learner],
    frames: int,
    policy: Maker | None = None,
) -> tuple[list[Record], EdgeMetrics]:
    """The records of a study in the order of samples, and the metrics of its edge."""
    records: list[Record] = []
    profile, metrics = measured(wanted), EdgeMetrics(adaptive=True)
    metrics.cascade(first.calibrated, first.kind)
    metrics.planned(frames, ())

    async def body() -> None:
        async with AsyncExitStack() as stack:
            server = Server(proven(wanted), wanted, None, profile=profile)
            url, _ = await stack.enter_async_context(serving(server))
            link = await stack.enter_async_context(opened(url, large, wanted))
            made = learner(profile)
            chooser = adapting(wanted, profile, profile, [], policy, learner=made)
            link.observer = chooser
            worker = StudyRunner(large, wanted, Tensors(), link, metrics, chooser, first)
            stack.callback(worker.close)
            steps = order(trials([large.proof.last], 1), frames, 0)
            async for done in worker.run(steps, frames, asyncio.Event()):
                for record in worker.records(done, "u", "edge-0"):
                    records.append(record)
                    metrics.recorded(record)

    within(body())
    return sorted(records, key=lambda record: record.sample), metrics
