"""Start-up, memory and threads of a process that computes with ONNX Runtime, beside PyTorch.

Each measurement is a process of its own, and those of the two runtimes take turns.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import psutil

from bench.figure import Figure, figure
from splittracr.backends import registry
from splittracr.experiment.contracts import Runtime
from splittracr.experiment.spec import ExperimentSpec

NETWORKS = ("mobilenet_v3_small", "alexnet")
THREADS = (1, 2)
_ROUNDS = 3
_FRAMES = 10


@dataclass(frozen=True)
class Measured:
    """What one process took: seconds until it has computed a frame, bytes of resident memory then,
    its threads, and milliseconds of head and tail in a row.
    """

    start_seconds: float
    memory_bytes: int
    threads: int
    frame_ms: float


def beside_torch() -> list[Figure]:
    """Compare the two runtimes, on one thread and on two."""
    return [made for name in NETWORKS for made in _compared(name)]


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


def _child(name: str, runtime: Runtime, threads: int) -> Measured:
    """Measure in a process of its own."""
    command = [sys.executable, "-m", "bench.runtimes", name, runtime.value, str(threads)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
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
    ready = time.time() - here.create_time()
    memory, running = here.memory_info().rss, here.num_threads()
    for _ in range(_FRAMES):
        started = time.perf_counter()
        own.tail(cut, own.head(cut, batch))
        times.append((time.perf_counter() - started) * 1e3)
    return Measured(ready, memory, running, median(times))


if __name__ == "__main__":
    made = measure(sys.argv[1], Runtime(sys.argv[2]), int(sys.argv[3]))
    print(json.dumps(asdict(made)))
