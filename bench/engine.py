"""Time of head and tail of a network, compared with the eager network."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

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
    "yolov8n": 0.8,
    "yolo11n": 0.8,
}
_DETECTORS = {"inputSize": [320, 320]}
_PER_CUT = ("alexnet", "mobilenet_v3_small")
_CUTS = 6
_GOAL = 1.05  # of eager; a tape was measured at 0.96 to 1.00 of it


def head_and_tail() -> list[Figure]:
    """Compare head and tail, cut in the middle of the operations, with eager."""
    return [_compared(build(name)) for name in NETWORKS]


def in_onnx_runtime() -> list[Figure]:
    """Compare head and tail in ONNX Runtime, cut in the same place, with eager, and at cuts along
    the network with those of PyTorch.
    """
    whole = [_in_onnx(name, goal) for name, goal in _ONNX_GOALS.items()]
    return [*whole, *(made for name in _PER_CUT for made in _by_cut(name))]


def build(name: str, **model: Any) -> ProvenNetwork:
    """Build a proven network with seeded random weights. `model` are more keys of that section."""
    section = {"name": name, "weights": "none", **model}
    spec = ExperimentSpec.model_validate({"model": section, "partition": {"mode": "Sweep"}})
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
    own = build(name, **(_DETECTORS if name.startswith("yolo") else {}))
    batch, cut = example_batch(own.network, 1), own.proof.last // 2
    sessions.use_threads(1)
    halves = Halves(export(own.tape, batch))

    def split() -> Any:
        return halves.run(cut, halves.last, halves.run(0, cut, [batch.clone()]))

    ratios = _ratios(eager=lambda: own.network.module(batch.clone()), split=split)
    return figure(f"OnnxRuntime head + tail / eager: {name}", ratios, "times", max_value=goal)


@torch.inference_mode()
def _by_cut(name: str) -> list[Figure]:
    """Head and tail in both runtimes, at cuts evenly spread over the network."""
    own = build(name)
    batch, last = example_batch(own.network, 1), own.proof.last
    sessions.use_threads(1)
    halves = Halves(export(own.tape, batch))
    figures = []
    for cut in [round(i * last / _CUTS) for i in range(_CUTS)]:
        tail = partial(own.tail, cut)
        other_head, other_tail = partial(halves.run, 0, cut), partial(halves.run, cut, last)
        runs = {
            "head, Torch": partial(_on_copy, partial(_head, own, cut), [batch]),
            "head, OnnxRuntime": partial(_on_copy, other_head, [batch]),
            "tail, Torch": partial(_on_copy, tail, own.head(cut, batch.clone())),
            "tail, OnnxRuntime": partial(_on_copy, other_tail, other_head([batch.clone()])),
        }
        place = own.proof.cuts[cut].name
        for part, times in _times(runs).items():
            if cut or part.startswith("tail"):
                figures.append(figure(f"{name} at {place}: {part}", times, "ms"))
    return figures


def _head(own: ProvenNetwork, cut: int, values: Sequence[Any]) -> Any:
    return own.head(cut, values[0])


def _on_copy(part: Callable[[list[Any]], Any], values: Sequence[Any]) -> Any:
    """Run a head or a tail on copies of its input, which it may write into."""
    return part([one.clone() if isinstance(one, Tensor) else one for one in values])


def _times(runs: Mapping[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """The milliseconds of each run, in turns, one a round."""
    for run in (*runs.values(), *runs.values()):
        run()
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(4 * _ROUNDS):
        for name, run in runs.items():
            taken[name].append(_time(run) * 1e3)
    return taken


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
