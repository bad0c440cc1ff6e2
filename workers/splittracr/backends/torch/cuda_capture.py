"""Records functions as CUDA graphs. All of torch.cuda that graphs need is here."""

import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from splittracr.backends.torch.buffers import copied
from splittracr.backends.torch.graph_cache import Recording
from splittracr.backends.torch.graphs import Function

_WARM_UPS = 2
"""Runs before a recording. In them libraries choose algorithms and make their workspaces."""

_one_at_a_time = threading.Lock()
"""torch records one graph at a time in a process."""


@dataclass(frozen=True)
class _CudaRecording:
    graph: torch.cuda.CUDAGraph
    outputs: Any
    nbytes: int

    def replay(self) -> None:
        self.graph.replay()


class CudaCapturer:
    """Records on `place`, while other threads compute there.

    Each graph has a memory pool of its own, so that it frees its memory when it is dropped. Replays
    run on the caller's stream; all threads of a worker use the same one.

    Warm-up and recording have different streams: libraries keep a workspace for each stream, and
    that of the recording one is part of the graphs. A warm-up that wrote into it would spoil a
    replay under way.
    """

    def __init__(self, place: torch.device) -> None:
        self._place = place
        self._warming, self._recording = _stream(place), _stream(place)

    def record(self, function: Function, inputs: list[Any]) -> Recording:
        """Record `function` on `inputs`, whose memory the recording reads from then on."""
        with _one_at_a_time, torch.cuda.device(self._place):
            self._warming.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._warming):
                for _ in range(_WARM_UPS):
                    function(copied(inputs))
            self._warming.synchronize()
            # An error in the recording leaves torch's own context without restoring the stream.
            with torch.cuda.stream(torch.cuda.current_stream()):
                return self._recorded(function, inputs)

    def _recorded(self, function: Function, inputs: list[Any]) -> Recording:
        pool, graph = torch.cuda.graph_pool_handle(), torch.cuda.CUDAGraph()
        first: Exception | None = None
        try:
            # Other threads may use memory and streams meanwhile: only this one must not wait.
            with torch.cuda.graph(
                graph, pool=pool, stream=self._recording, capture_error_mode="thread_local"
            ):
                try:
                    outputs = function(list(inputs))
                except Exception as error:
                    first = error
                    raise
        except Exception as error:  # noqa: BLE001 - it is raised again
            self._abort(pool)
            # The error at the end of a recording only reports that there was one before.
            raise first or error from None
        return _CudaRecording(graph, outputs, _pool_bytes(pool))

    def _abort(self, pool: Any) -> None:
        """End a recording after an error; otherwise memory would come from its pool for ever."""
        device = torch.cuda.current_device()
        with suppress(RuntimeError):  # it was ended
            torch._C._cuda_endAllocateToPool(device, pool)
            torch._C._cuda_releasePool(device, pool)

    def wait(self) -> None:
        """Wait until no replay is under way."""
        torch.cuda.current_stream(self._place).synchronize()


def _stream(place: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(place)  # type: ignore[no-untyped-call]


def _pool_bytes(pool: Any) -> int:
    segments = torch.cuda.memory_snapshot()  # type: ignore[no-untyped-call]
    return sum(one["total_size"] for one in segments if one["segment_pool_id"] == tuple(pool))
