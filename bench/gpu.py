"""`make gpu`: the tests that need a GPU and a short bench, which writes bench-gpu.json.

Eager and graphs take turns in each round, as everything in `make bench`.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console

from bench.figure import Figure, figure, show
from splittracr.backends.torch.cuda_graphs import CudaNetwork, build
from splittracr.backends.torch.proven import ProvenNetwork
from splittracr.experiment.spec import ExperimentSpec
from splittracr.measure import machine

NETWORKS = ("alexnet", "mobilenet_v3_small", "resnet18")
_ROUNDS, _REPEATS = 5, 15
_CUTS = 8  # of a network, evenly spread
_OUT = Path("bench-gpu.json")


def main() -> int:
    """Run the tests and the bench; return the exit code of the tests."""
    console = Console(width=None if sys.stdout.isatty() else 132)
    if not torch.cuda.is_available():
        console.print("There is no GPU that PyTorch can use here: nothing was tested or measured.")
        return 0
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "-m", "gpu", "tests"], check=False
    ).returncode
    started = time.monotonic()
    torch.set_num_threads(1)
    figures = [one for name in NETWORKS for one in _of_network(name)]
    show(figures, console)
    card = torch.cuda.get_device_name()
    found = {
        "card": card,
        "processor": machine.processor(),
        "versions": machine.versions(),
        "figures": [one.model_dump() for one in figures],
    }
    _OUT.write_text(json.dumps(found, indent=2) + "\n")
    console.print(f"{len(figures)} figures in {time.monotonic() - started:.0f} s on {card}: {_OUT}")
    return tested


def _of_network(name: str) -> list[Figure]:
    data = {
        "model": {"name": name, "weights": "none"},
        "partition": {"mode": "Sweep"},
        "server": {"runtime": "CudaGraphs", "sessionMebibytes": 8192},
    }
    own = build(ExperimentSpec.model_validate(data, by_alias=True), "server", Path())
    last = own.proof.last
    cuts = sorted({last * k // _CUTS for k in range(_CUTS)})
    return [*(one for cut in cuts for one in _tail(own, cut)), _two_edges(own, cuts[1])]


def _tail(own: CudaNetwork, cut: int) -> list[Figure]:
    """Time of the tail from live values on the GPU to the end of its last kernel."""
    place = f"{own.network.name} at {own.proof.cuts[cut].name}"
    own.make_ready("tail", cut)
    refused = own.graphs.refused("tail", cut)
    if refused is not None:
        raise RuntimeError(f"{place} has no graph: {refused}")
    payload = own.pack(own.head(cut, own.example(1)))
    runs: dict[str, Callable[[Any], Any]] = {
        "eager": lambda live: ProvenNetwork.tail(own, cut, live),
        "graph": lambda live: own.tail(cut, live),
    }
    ratios, eager, graph = [], [], []
    for _ in range(_ROUNDS + 1):  # the first one warms up
        taken: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(_REPEATS):
            for name, run in runs.items():
                live = own.unpack(payload)
                started = time.perf_counter()
                run(live)
                own.device.synchronise()
                taken[name].append((time.perf_counter() - started) * 1e3)
        eager.append(median(taken["eager"]))
        graph.append(median(taken["graph"]))
        ratios.append(graph[-1] / eager[-1])
    return [
        figure(f"tail, graph / eager: {place}", ratios[1:], "times"),
        figure(f"tail, eager: {place}", eager[1:], "ms"),
        figure(f"tail, graph: {place}", graph[1:], "ms"),
    ]


def _two_edges(own: CudaNetwork, cut: int) -> Figure:
    """How much longer two edges take than one, if a thread copies for the one while another thread
    computes for the other: 2 if nothing overlaps.
    """
    payload = own.pack(own.head(cut, own.example(1)))
    name = f"two edges / one, copy and compute: {own.network.name} at {own.proof.cuts[cut].name}"
    ratios = []
    for _ in range(_ROUNDS + 1):
        one = _timed(lambda: _requests(own, cut, payload))
        threads = [threading.Thread(target=_requests, args=(own, cut, payload)) for _ in range(2)]
        ratios.append(_timed(partial(_together, threads)) / one)
    return figure(name, ratios[1:], "times")


def _requests(own: CudaNetwork, cut: int, payload: Any, count: int = 100) -> None:
    for _ in range(count):
        live = own.unpack(payload)
        own.device.synchronise()
        own.tail(cut, live)
        own.device.synchronise()


def _together(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
