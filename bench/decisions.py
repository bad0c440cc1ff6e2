"""Decisions: their time, the accuracy of predictions, and the cost of a change of cut."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from bench.engine import build
from bench.figure import Figure, figure
from bench.frames import Ready, left_over, open_link, server_process, study
from splittracr.backends import measuring
from splittracr.backends.torch.proven import ProvenNetwork
from splittracr.edge.dial import Endpoint
from splittracr.edge.result import Result
from splittracr.edge.study import StudyRunner
from splittracr.experiment.profile import CodecProfile, Profile
from splittracr.experiment.spec import ExperimentSpec
from splittracr.measure.metrics import EdgeMetrics
from splittracr.planning import cost
from splittracr.planning.adapt import HANDSHAKE_BYTES, Adapting, adapting
from splittracr.planning.audit import Audit
from splittracr.planning.cascade import Cascade, Exit
from splittracr.planning.decision import Scheduled
from splittracr.planning.emulated_link import Conditions, constant
from splittracr.planning.estimate import Beliefs
from splittracr.planning.learner import LearntExits
from splittracr.planning.policy import PolicyOptions
from splittracr.planning.registry import create
from splittracr.planning.schedule import Step, Trial, order, spread, trials

_NETWORK, _SLOWDOWN = "mobilenet_v3_small", 1000  # per cent
_MEGABITS = (1, 2, 4, 8, 12, 20, 30, 50, 80, 120)
_ROUND_TRIP_NS = 20 * 10**6
_CUTS, _FRAMES = 6, 5
_BEFORE = 3  # frames that the policy decides, after the probes of the handshake
_NEAR = 1.1  # times the best measured latency


async def decisions() -> list[Figure]:
    """Measure all figures of decisions."""
    with TemporaryDirectory() as folder:
        return [*_times(), *await _predictions(Path(folder) / "links"), *await _switches(folder)]


# ------------------------------------------------------------------------------ time of a decision


def _times() -> list[Figure]:
    """Time a decision over 300 cuts with 8 codecs each, for the policies that enumerate."""
    one = _large(cuts=300, codecs=8)
    candidates = cost.candidates(one, one, slowdown=10)
    draw = np.random.default_rng(0)
    links = [Beliefs.of_link(float(rate), 20) for rate in draw.uniform(1e6, 1e8, 200)]
    small = Cascade("small", small_ms=50, sure=0.6, wrong=0.01)
    exits = [Exit(f"cut{k}", k, 10.0 * k, own_ms=1, share=0.25) for k in (20, 40, 60, 80)]
    learnt = LearntExits(exits, Audit(0.01))
    cascades: dict[str, Callable[[], Cascade | None]] = {
        "": lambda: None,
        " and a small model": lambda: small,
        " and four exits": lambda: learnt.believed(1.0),
    }
    figures = []
    for name, (also, cascade) in product(("adaptive", "deadline", "hedge"), cascades.items()):
        policy, taken = create(name, candidates, PolicyOptions(accuracy=0.9)), []
        for now, link in enumerate(links):
            started = time.perf_counter()
            policy.decide(float(now), replace(link, cascade=cascade()))
            taken.append((time.perf_counter() - started) * 1e3)
        title = f"a decision over {len(candidates)} candidates{also}, {name}"
        figures.append(figure(title, taken, "ms", max_value=1))
    return figures


def _large(cuts: int, codecs: int) -> Profile:
    """Return a made-up profile with the given number of cuts and codecs."""
    draw = np.random.default_rng(1)
    sizes = tuple(int(n) for n in draw.integers(1_000, 1_000_000, cuts + 1))
    few = (0.1,) * (cuts + 1)
    return Profile(
        network="large", weights="none", input=(1, 3, 8, 8), dtype="float32", device="cpu",
        threads=1, processor="none", cores=1, capability="none", versions={}, frames=1,
        cuts=tuple(f"cut{k}" for k in range(cuts + 1)), live_bytes=sizes, memory_bytes=sizes,
        op_ms=(1.0,) * cuts, reduce_ms=0, reply_bytes=500,
        codecs=tuple(
            CodecProfile(
                codec=f"raw+zstd{i + 1}", bytes=tuple(n // (i + 1) for n in sizes), encode_ms=few,
                decode_ms=few,
            )
            for i in range(codecs)
        ),
    )  # fmt: skip


# ------------------------------------------------------------------------------------- predictions


async def _predictions(folder: Path) -> list[Figure]:
    """Compare predicted and measured latency over cuts and emulated links.

    Also measures how often the policy, after a few frames on a link, chooses a cut near the best.
    """
    spec = study(
        _NETWORK,
        codec="uint8",
        edge={"slowdownPercent": _SLOWDOWN},
        partition={"mode": "Adaptive", "adaptive": {"policy": "Adaptive"}},
    )
    own = build(_NETWORK)
    edge = measuring.measured(own, spec, measuring.frames(own, 3))
    cuts = spread(list(own.proof.offered().values()), _CUTS)
    errors, near = [], []
    async with server_process(folder, spec) as endpoint:
        for megabits in _MEGABITS:
            uplink = Conditions(constant(megabits * 10**6, _ROUND_TRIP_NS))
            over = replace(endpoint, uplink=uplink)
            chosen, predicted, measured = await _over(over, spec, own, edge, cuts)
            errors += [abs(predicted[cut] / measured[cut] - 1) * 100 for cut in cuts]
            near.append(float(measured[chosen] <= _NEAR * min(measured.values())))
    return [
        figure("predicted against measured latency, off by", errors, "%", max_value=15),
        figure(
            f"cut that Adaptive takes after {_BEFORE} frames, within 10 % of the best of {_CUTS}",
            near,
            "of links",
            min_value=0.9,
            value=sum(near) / len(near),
        ),
    ]


async def _over(
    endpoint: Endpoint,
    spec: ExperimentSpec,
    own: ProvenNetwork,
    edge: Profile,
    cuts: Sequence[int],
) -> tuple[int, dict[int, float], dict[int, float]]:
    """Return the policy's cut on one link, and predicted and measured latency by cut.

    The policy decides after the handshake's probes and a few frames of its own. Each prediction is
    made before its frame.
    """
    async with open_link(endpoint, spec, own, "edge-0") as link:
        assert link.welcome is not None
        chooser = adapting(spec, edge, link.welcome.profile or edge, cuts)
        link.observer = chooser
        for size in HANDSHAKE_BYTES:
            await link.learn(size)
        metrics = EdgeMetrics(adaptive=True)
        begun = StudyRunner(own, spec, Ready(own), link, metrics, chooser)
        steps = order(trials([own.proof.last], 1), _BEFORE, 0)
        async for finished in begun.run(steps, _BEFORE, asyncio.Event()):
            assert not finished.result.failures, finished.result.failures
        begun.close()
        chosen = chooser.choose(Step(Trial(0, own.proof.last, 0), _BEFORE), time.perf_counter()).cut
        worker = StudyRunner(
            own, spec, Ready(own), link, EdgeMetrics(), Scheduled(spec, own.network.pictures)
        )
        predicted: dict[int, list[float]] = {cut: [] for cut in cuts}
        measured: dict[int, list[float]] = {cut: [] for cut in cuts}
        for number in range(_FRAMES + 1):
            for cut in cuts:
                before = chooser.expected_ms(cut, time.perf_counter())
                frame = await _one(worker, cut, chooser)
                if number:  # the first round warms up
                    predicted[cut].append(before)
                    measured[cut].append(frame.total_ms)
        worker.close()
    medians = [{cut: median(one[cut]) for cut in cuts} for one in (predicted, measured)]
    return chosen, medians[0], medians[1]


async def _one(worker: StudyRunner, cut: int, chooser: Adapting) -> Result:
    steps = order(trials([cut], 1), 1, 0)
    (finished,) = [one async for one in worker.run(steps, 1, asyncio.Event())]
    assert not finished.result.failures, finished.result.failures
    chooser.observe(finished.result.outcome(), time.perf_counter())
    return finished.result


# ---------------------------------------------------------------------------------------- switches


async def _switches(folder: str) -> list[Figure]:
    """Measure the extra time of a frame, without computing, if its cut differs from the last."""
    spec, own = study("alexnet"), build("alexnet")
    pair, extra = (6, 13), []
    async with (
        server_process(Path(folder) / "switches", spec) as endpoint,
        open_link(endpoint, spec, own, "edge-0") as link,
    ):
        fixed = Scheduled(spec, own.network.pictures)
        worker = StudyRunner(own, spec, Ready(own), link, EdgeMetrics(), fixed)
        for number in range(9):
            stayed = [await _costs(worker, [cut] * 12) for cut in pair]
            changed = await _costs(worker, list(pair) * 6)
            if number:
                extra.append(changed - sum(stayed) / 2)
        worker.close()
    return [figure("a change of cut: longer than without, a frame", extra, "ms", max_value=1)]


async def _costs(worker: StudyRunner, cuts: Sequence[int]) -> float:
    """Return the mean over cuts of the median overhead of frames that run in this order."""
    took: dict[int, list[float]] = {cut: [] for cut in cuts}
    for cut in cuts:
        steps = order(trials([cut], 1), 1, 0)
        async for finished in worker.run(steps, 1, asyncio.Event()):
            took[cut].append(left_over(finished.result))
    return sum(median(times) for times in took.values()) / len(took)
