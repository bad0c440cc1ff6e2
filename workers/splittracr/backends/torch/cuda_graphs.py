"""The runtime CudaGraphs: PyTorch on a CUDA device, with heads and tails as graphs.

A graph launches all kernels of a head or a tail at once. They are those of PyTorch, so a cut is as
exact as there, and nothing changes for the other end.
"""

import dataclasses
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from splittracr.backends.protocol import Part
from splittracr.backends.torch import build as torch_build
from splittracr.backends.torch.buffers import Layout, layout
from splittracr.backends.torch.cuda_capture import CudaCapturer
from splittracr.backends.torch.device import resolve
from splittracr.backends.torch.examples import example_batch
from splittracr.backends.torch.graphs import Capturer, Function, Graphs
from splittracr.backends.torch.halves_profile import with_halves
from splittracr.backends.torch.proven import ProvenNetwork, in_memory
from splittracr.experiment.contracts import Runtime
from splittracr.experiment.errors import Abandoned, InvalidInput, SplittracrError
from splittracr.experiment.profile import Profile
from splittracr.experiment.spec import ExperimentSpec, ModelSpec
from splittracr.splitting import batching, live
from splittracr.splitting.proof import Proof

_NAME = Runtime.CUDA_GRAPHS.value
_SEEDS = (1, 2)


@dataclass(frozen=True)
class CudaNetwork(ProvenNetwork):
    """A proven network whose heads and tails are replayed from graphs where there is one."""

    graphs: Graphs = field(kw_only=True)

    @property
    def runtime(self) -> Runtime:
        """The runtime in profiles and environments."""
        return Runtime.CUDA_GRAPHS

    @in_memory
    @torch.inference_mode()
    def head(self, cut: int, batch: Tensor, *, timed: bool = False) -> list[Any]:
        """Live values at `cut` for an input batch. Operations that are timed run one by one."""
        if timed or self._is_empty("head", cut):
            return super().head(cut, batch, timed=timed)
        self.device.launches()
        eager = _head(self, cut)
        made: list[Any] = self.graphs.run("head", cut, [batch.to(self.device.place)], eager)
        return made

    @in_memory
    @torch.inference_mode()
    def tail(
        self,
        cut: int,
        live: Sequence[Any],
        abandon: threading.Event | None = None,
        *,
        timed: bool = False,
    ) -> Any:
        """The raw output from live values. Once a graph is replayed, it is not abandoned."""
        if timed or self._is_empty("tail", cut):
            return super().tail(cut, live, abandon, timed=timed)
        if abandon is not None and abandon.is_set():
            raise Abandoned("the other end has the answer")
        self.device.launches()
        eager = partial(self.tape.tail, cut, abandon=abandon)
        return self.graphs.run("tail", cut, list(live), eager)

    def ready(self, part: Part, cut: int) -> bool:
        """Whether a head or a tail has its graph, or never will."""
        return self._is_empty(part, cut) or self.graphs.ready(part, cut)

    def make_ready(self, part: Part, cut: int) -> None:
        """Record the graph of a head or a tail."""
        if not self._is_empty(part, cut):
            self.graphs.make_ready(part, cut)

    def free_memory(self) -> None:
        """Drop all graphs."""
        self.graphs.drop_all()

    def _is_empty(self, part: Part, cut: int) -> bool:
        return cut == (0 if part == "head" else len(self.tape))

    def profile(
        self,
        spec: ExperimentSpec,
        batches: Sequence[Tensor],
        codecs: Sequence[str],
        picture_codecs: Sequence[str],
        judged: Sequence[Tensor] = (),
    ) -> Profile:
        """The profile of PyTorch with the head and the tail at every cut, each as a whole."""
        made = super().profile(spec, batches, codecs, picture_codecs, judged)
        return with_halves(made, replace(self, graphs=self.graphs.on_trial()), batches)


@dataclass(frozen=True)
class Recorded:
    """The parts of a proven network as graphs record them: the `Source` of `Graphs`."""

    own: ProvenNetwork

    def function(self, part: Part, cut: int) -> Function:
        """The function that computes a part."""
        return _head(self.own, cut) if part == "head" else partial(self.own.tape.tail, cut)

    def examples(self, part: Part, cut: int, like: Layout | None) -> Sequence[list[Any]]:
        """Seeded values for a part. The server may join several requests; an edge has one batch."""
        network = self.own.network
        if network.variable_shape:
            raise SplittracrError(f"{network.name} keeps each picture's own size")
        if part == "head":
            return [[self._batch(seed)] for seed in _SEEDS]
        count = 1 if like is None else self._requests(cut, like)
        made = [self._joined(cut, count, seed) for seed in _SEEDS] if count else []
        return [one for one in made if one is not None]

    def _batch(self, seed: int) -> Tensor:
        made = example_batch(self.own.network, self.own.identity.batch, seed)
        return made.to(self.own.device.place)

    def _requests(self, cut: int, like: Layout) -> int:
        """Of how many requests these are the values; 0 if of no number of them."""
        one = layout(self._live(cut, _SEEDS[0]))
        sizes = zip(one.tensors if one else [], like.tensors, strict=False)
        first = next(((a.shape, b.shape) for a, b in sizes if a.shape and b.shape), None)
        if first is None or not first[0][0] or first[1][0] % first[0][0]:
            return 0
        return first[1][0] // first[0][0]

    def _live(self, cut: int, seed: int) -> list[Any]:
        """Live values as they arrive from the other end."""
        made = self.own.tape.head(cut, self._batch(seed))
        return live.unpack(live.pack(made), self.own.device.place)

    def _joined(self, cut: int, count: int, seed: int) -> list[Any] | None:
        lives = [self._live(cut, seed + i) for i in range(count)]
        return lives[0] if count == 1 else batching.joined(lives)


def _head(own: ProvenNetwork, cut: int) -> Function:
    return lambda values: own.tape.head(cut, values[0])


def build(spec: ExperimentSpec, side: str, base: Path) -> CudaNetwork:
    """Build, capture and prove the network of `spec` for `side`, "edge" or "server".

    Sets the threads of this process. Relative paths of the manifest start at `base`. Raises
    InvalidInput if there is no CUDA device, or the manifest names another one.
    """
    worker = spec.edge if side == "edge" else spec.server
    place = _place(worker.device, side)
    own = torch_build.build(spec, side, base)
    return with_graphs(own, CudaCapturer(place), worker.session_mebibytes * 2**20)


def with_graphs(own: ProvenNetwork, capturer: Capturer, limit: int) -> CudaNetwork:
    """The same network with graphs of at most `limit` bytes."""
    fields = {one.name: getattr(own, one.name) for one in dataclasses.fields(own)}
    return CudaNetwork(**fields, graphs=Graphs(Recorded(own), capturer, limit))


def prove_cuts(spec: ModelSpec, batch: int) -> tuple[str, Proof]:
    """The name and the cuts of a network on the CUDA device, where graphs change no bit."""
    place = _place("auto", "edge")
    torch.set_num_threads(1)
    return torch_build.prove_on(spec, batch, place)


def _place(device: str, side: str) -> torch.device:
    if device.split(":")[0] not in ("auto", "cuda"):
        expected = f"auto or cuda: runtime {_NAME} needs a CUDA device"
        raise InvalidInput(f"spec.{side}.device", device, expected)
    if torch.cuda.is_available():
        return resolve(device, f"spec.{side}.device")
    field, value = ("runtime", _NAME) if device == "auto" else ("device", device)
    raise InvalidInput(f"spec.{side}.{field}", value, "a CUDA device; there is none here")
