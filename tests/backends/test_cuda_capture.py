"""How graphs are recorded, with a torch.cuda that notes what is asked of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from splittracr.backends.torch.cuda_capture import CudaCapturer

POOL = (0, 7)


class Cuda:
    """What recording needs of torch.cuda. `current` is the stream in use, `capturing` the graph."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.current: Any = Stream("compute")
        self.streams: list[Stream] = []
        self.capturing: dict[str, Any] | None = None
        self.ended: list[tuple[str, Any]] = []
        self.spoilt = False
        replaced = {
            "Stream": self.new_stream,
            "stream": self.use,
            "device": self.on,
            "current_stream": lambda *_: self.current,
            "current_device": lambda: 0,
            "graph": self.graph,
            "CUDAGraph": lambda: "graph",
            "graph_pool_handle": lambda: POOL,
            "memory_snapshot": lambda: [
                {"segment_pool_id": POOL, "total_size": 2},
                {"segment_pool_id": POOL, "total_size": 20},
                {"segment_pool_id": (0, 0), "total_size": 200},
            ],
        }
        for name, value in replaced.items():
            monkeypatch.setattr(torch.cuda, name, value)
        for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
            monkeypatch.setattr(torch._C, name, self.ends(name))

    def new_stream(self, place: torch.device) -> "Stream":
        self.streams.append(Stream(f"{place}, {len(self.streams)}"))
        return self.streams[-1]

    @contextmanager
    def on(self, _: torch.device) -> Iterator[None]:
        yield

    @contextmanager
    def use(self, stream: "Stream") -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def graph(self, graph: str, **how: Any) -> Iterator[None]:
        """As torch's: after an error its end fails, too, and leaves the stream."""
        before, self.current, self.capturing = self.current, how["stream"], {"graph": graph, **how}
        try:
            yield
        finally:
            self.capturing = None
            if self.spoilt:
                raise RuntimeError("operation failed due to a previous error during capture")
            self.current = before

    def ends(self, name: str) -> Any:
        def end(device: int, pool: Any) -> None:
            if not self.spoilt:
                raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
            self.ended.append((name, (device, pool)))

        return end


class Stream:
    def __init__(self, name: str) -> None:
        self.name, self.waited = name, list[str]()

    def wait_stream(self, other: "Stream") -> None:
        self.waited.append(other.name)

    def synchronize(self) -> None:
        self.waited.append("host")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    return Cuda(monkeypatch)


def test_a_function_warms_up_on_copies_and_is_recorded_on_its_inputs(cuda: Cuda) -> None:
    inputs, runs = [torch.arange(3.0)], list[tuple[str, bool, Any]]()

    def function(values: list[Any]) -> Any:
        runs.append((cuda.current.name, values[0] is inputs[0], cuda.capturing))
        return values[0].add_(1)

    made = CudaCapturer(torch.device("cuda", 5)).record(function, inputs)
    warming, recording = cuda.streams
    assert runs[:2] == [(warming.name, False, None)] * 2
    assert warming.waited == ["compute", "host"]
    how = {"graph": "graph", "pool": POOL, "stream": recording}
    assert runs[2:] == [(recording.name, True, {**how, "capture_error_mode": "thread_local"})]
    assert made.outputs is inputs[0]
    assert made.nbytes == 22
    assert cuda.current.name == "compute"
    assert cuda.ended == []


def test_an_error_of_a_recording_is_the_first_and_leaves_nothing_begun(cuda: Cuda) -> None:
    def function(values: list[Any]) -> Any:
        if cuda.capturing is not None:
            cuda.spoilt = True
            raise RuntimeError("operation not permitted when stream is capturing")
        return values[0]

    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        CudaCapturer(torch.device("cuda", 5)).record(function, [torch.ones(1)])
    assert cuda.current.name == "compute"
    assert cuda.ended == [
        ("_cuda_endAllocateToPool", (0, POOL)),
        ("_cuda_releasePool", (0, POOL)),
    ]


def test_an_error_that_spoils_no_recording_needs_no_end(cuda: Cuda) -> None:
    def function(values: list[Any]) -> Any:
        if cuda.capturing is not None:
            raise KeyError("x")
        return values[0]

    with pytest.raises(KeyError):
        CudaCapturer(torch.device("cuda", 5)).record(function, [torch.ones(1)])
    assert cuda.ended == []


def test_a_wait_is_for_the_stream_of_replays(cuda: Cuda) -> None:
    CudaCapturer(torch.device("cuda", 5)).wait()
    assert cuda.current.waited == ["host"]
