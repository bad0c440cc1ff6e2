"""Start-up, memory and threads of a process that computes with ONNX Runtime, beside PyTorch.

Each measurement is a process of its own, and those of the two runtimes take turns.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import psutil

from bench.figure import Figure, figure
from splittracr.backends import registry
from splittracr.experiment.contracts import NO_CLASS_CACHE, Runtime
from splittracr.experiment.spec import ExperimentSpec

NETWORKS = ("mobilenet_v3_small", "alexnet")
THREADS = (1, 2)
_ROUNDS = 3
_UNCACHED = {NO_CLASS_CACHE: "1"}
_FRAMES = 10


@dataclass(frozen=True)
class Measured:
    """What one process took: seconds until it has computed a frame, those of them on a processor,
    bytes of resident memory then, its threads, and milliseconds of head and tail in a row.
    """

    start_seconds: float
    start_cpu_seconds: float
    memory_bytes: int
    threads: int
    frame_ms: float


def beside_torch() -> list[Figure]:
    """Compare the two runtimes, on one thread and on two."""
    return [made for name in NETWORKS for made in _compared(name)]


def starts() -> list[Figure]:
    """Processor time until the first frame, with the classes of cuts from a cache and without."""
    return [made for name in NETWORKS for made in _starts(name)]


def _starts(name: str) -> list[Figure]:
    with TemporaryDirectory() as folder:
        cached = {"XDG_CACHE_HOME": folder, "TORCH_HOME": "", NO_CLASS_CACHE: ""}
        _child(name, Runtime.ONNX_RUNTIME, 1, cached)  # fills the cache
        rounds = [
            tuple(
                _child(name, runtime, 1, variables).start_cpu_seconds
                for runtime, variables in (
                    (Runtime.TORCH, _UNCACHED),
                    (Runtime.ONNX_RUNTIME, _UNCACHED),
                    (Runtime.ONNX_RUNTIME, cached),
                )
            )
            for _ in range(_ROUNDS)
        ]
    torch, measured, cached_seconds = zip(*rounds, strict=True)
    ratios = [b / a for a, b in zip(measured, cached_seconds, strict=True)]
    return [
        figure(f"start, processor time: {name}, Torch", torch, "s"),
        figure(f"start, processor time: {name}, OnnxRuntime", measured, "s"),
        figure(f"start with cached classes / without: {name}", ratios, "times", max_value=0.6),
    ]


def _compared(name: str) -> list[Figure]:
    figures = []
    for threads in THREADS:
        rounds = [
            (_child(name, Runtime.ONNX_RUNTIME, threads), _child(name, Runtime.TORCH, threads))
            for _ in range(_ROUNDS)
        ]
        what = f"{name}, threads: {threads}"
        figures += [
            _ratio(
                "start to first frame",
                what,
                [(a.start_seconds, b.start_seconds) for a, b in rounds],
            ),
            _ratio(
                "memory when ready", what, [(a.memory_bytes, b.memory_bytes) for a, b in rounds]
            ),
            _ratio("threads of the process", what, [(a.threads, b.threads) for a, b in rounds]),
            _ratio("head + tail", what, [(a.frame_ms, b.frame_ms) for a, b in rounds]),
        ]
    return figures


def _ratio(measured: str, what: str, rounds: Sequence[tuple[float, float]]) -> Figure:
    return figure(f"OnnxRuntime / Torch, {measured}: {what}", [a / b for a, b in rounds], "times")


def _child(
    name: str, runtime: Runtime, threads: int, variables: Mapping[str, str] = _UNCACHED
) -> Measured:
    """Measure in a process of its own."""
    command = [sys.executable, "-m", "bench.runtimes", name, runtime.value, str(threads)]
    env = {**os.environ, **variables}
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env).stdout
    return Measured(**json.loads(output.splitlines()[-1]))


def measure(name: str, runtime: Runtime, threads: int) -> Measured:
    """Build a network in this process, which has just started, and run frames."""
    spec = ExperimentSpec.model_validate(
        {
            "model": {"name": name, "weights": "none", "exactness": "Bounded"},
            "partition": {"mode": "Sweep"},
            "edge": {"runtime": runtime, "threads": threads},
            "server": {"runtime": runtime, "threads": threads},
        }
    )
    own = registry.load(runtime).build(spec, "edge", Path())
    batch, cut, times = own.example(0), own.proof.last // 2, []
    own.tail(cut, own.head(cut, batch))
    here = psutil.Process()
    ready, used = time.time() - here.create_time(), here.cpu_times()
    memory, running = here.memory_info().rss, here.num_threads()
    for _ in range(_FRAMES):
        started = time.perf_counter()
        own.tail(cut, own.head(cut, batch))
        times.append((time.perf_counter() - started) * 1e3)
    return Measured(ready, used.user + used.system, memory, running, median(times))


if __name__ == "__main__":
    made = measure(sys.argv[1], Runtime(sys.argv[2]), int(sys.argv[3]))
    print(json.dumps(asdict(made)))
