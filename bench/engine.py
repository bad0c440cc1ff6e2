"""Time of head and tail of a network, compared with the eager network."""

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bench.figure import Figure, figure
from splittracr.backends.torch import build as runtime
from splittracr.backends.torch.examples import example_batch
from splittracr.backends.torch.proven import ProvenNetwork
from splittracr.experiment.spec import ExperimentSpec

NETWORKS = ("alexnet", "resnet18", "mobilenet_v3_small", "squeezenet1_1")
_ROUNDS = 8
_GOAL = 1.05  # of eager; a tape was measured at 0.96 to 1.00 of it


def head_and_tail() -> list[Figure]:
    """Compare head and tail, cut in the middle of the operations, with eager."""
    return [_compared(build(name)) for name in NETWORKS]


def build(name: str, **sections: Any) -> ProvenNetwork:
    """Build a proven network with seeded random weights."""
    spec = ExperimentSpec.model_validate(
        {"model": {"name": name, "weights": "none"}, "partition": {"mode": "Sweep"}, **sections}
    )
    return runtime.build(spec, "edge", Path())


@torch.inference_mode()
def _compared(own: ProvenNetwork) -> Figure:
    batch, cut = example_batch(own.network, 1), own.proof.last // 2
    runs: dict[str, Callable[[], Any]] = {
        "eager": lambda: own.network.module(batch.clone()),
        "split": lambda: own.tail(cut, own.head(cut, batch.clone())),
    }
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
    return figure(f"head + tail / eager: {own.network.name}", ratios, "times", max_value=_GOAL)


def _time(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
