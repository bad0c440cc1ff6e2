"""Time of head and tail of a network, compared with the eager network."""

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bench.figure import Figure, figure
from splittracr.backends.onnx import sessions
from splittracr.backends.onnx.export import export
from splittracr.backends.onnx.halves import Halves
from splittracr.backends.torch import build as runtime
from splittracr.backends.torch.examples import example_batch
from splittracr.backends.torch.proven import ProvenNetwork
from splittracr.experiment.spec import ExperimentSpec

NETWORKS = ("alexnet", "resnet18", "mobilenet_v3_small", "squeezenet1_1")
_ROUNDS = 8
_ONNX_GOALS = {
    "alexnet": 0.65,
    "resnet18": 0.65,
    "efficientnet_b0": 0.65,
    "mobilenet_v3_small": 0.45,
}
_GOAL = 1.05  # of eager; a tape was measured at 0.96 to 1.00 of it


def head_and_tail() -> list[Figure]:
    """Compare head and tail, cut in the middle of the operations, with eager."""
    return [_compared(build(name)) for name in NETWORKS]


def in_onnx_runtime() -> list[Figure]:
    """Compare head and tail in ONNX Runtime, cut in the same place, with eager."""
    return [_in_onnx(name, goal) for name, goal in _ONNX_GOALS.items()]


def build(name: str, **sections: Any) -> ProvenNetwork:
    """Build a proven network with seeded random weights."""
    spec = ExperimentSpec.model_validate(
        {"model": {"name": name, "weights": "none"}, "partition": {"mode": "Sweep"}, **sections}
    )
    return runtime.build(spec, "edge", Path())


@torch.inference_mode()
def _compared(own: ProvenNetwork) -> Figure:
    batch, cut = example_batch(own.network, 1), own.proof.last // 2
    ratios = _ratios(
        eager=lambda: own.network.module(batch.clone()),
        split=lambda: own.tail(cut, own.head(cut, batch.clone())),
    )
    return figure(f"head + tail / eager: {own.network.name}", ratios, "times", max_value=_GOAL)


@torch.inference_mode()
def _in_onnx(name: str, goal: float) -> Figure:
    own = build(name)
    batch, cut = example_batch(own.network, 1), own.proof.last // 2
    sessions.use_threads(1)
    halves = Halves(export(own.tape, batch))

    def split() -> Any:
        return halves.run(cut, halves.last, halves.run(0, cut, [batch.clone()]))

    ratios = _ratios(eager=lambda: own.network.module(batch.clone()), split=split)
    return figure(f"OnnxRuntime head + tail / eager: {name}", ratios, "times", max_value=goal)


def _ratios(**runs: Callable[[], Any]) -> list[float]:
    """The time of `split` over that of `eager`, run in turns, one ratio a round."""
    for run in (*runs.values(), *runs.values()):
        run()
    repeats = max(3, int(0.1 / _time(runs["eager"])))
    ratios = []
    for _ in range(_ROUNDS):
        taken: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(repeats):
            for name, run in runs.items():
                taken[name].append(_time(run))
        ratios.append(median(taken["split"]) / median(taken["eager"]))
    return ratios


def _time(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
