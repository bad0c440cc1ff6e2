"""A network of torch, captured and proven, ready to run either half.

Both ends hold the whole network, so a cut is only a number in a message.
"""

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from splittracr.backends.protocol import Part
from splittracr.backends.torch.device import TorchDevice
from splittracr.backends.torch.examples import example_batch
from splittracr.backends.torch.profiler import Subject, profile
from splittracr.backends.torch.timing import OperationTimes
from splittracr.data.contracts import Dataset, PostProcessor, Reduced, Sample
from splittracr.data.transform import code
from splittracr.experiment.contracts import Runtime
from splittracr.experiment.errors import FrameFailed, InvalidInput, SplittracrError, reason
from splittracr.experiment.profile import Profile
from splittracr.experiment.spec import ExperimentSpec, InputType, LayerRef, StaticCut
from splittracr.experiment.types import Cut, OperationTime
from splittracr.models.layers import top_level
from splittracr.models.network import Network, Task
from splittracr.splitting import batching, live
from splittracr.splitting.layers import Layers, layers
from splittracr.splitting.proof import Proof
from splittracr.splitting.sources import files, modules_behind
from splittracr.splitting.tape import Tape
from splittracr.wire.messages import Identity
from splittracr.wire.payload import Payload

P = ParamSpec("P")
T = TypeVar("T")
N = TypeVar("N", bound="ProvenNetwork")


def in_memory(method: Callable[Concatenate[N, P], T]) -> Callable[Concatenate[N, P], T]:
    """Raise FrameFailed if the device runs out of memory in `method`, and free what is cached."""

    @wraps(method)
    def limited(own: N, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(own, *args, **kwargs)
        except torch.OutOfMemoryError as error:
            why = reason(error)
        own.free_memory()  # the error is gone, and with it what its frames refer to
        raise FrameFailed(f"{own.device.name} ({own.device}) is out of memory: {why[:400]}")

    return limited


@dataclass(frozen=True)
class ProvenNetwork:
    """A proven network on a device: the `Backend` of torch.

    It stays one class because that protocol asks for all these methods, most of them short.
    """

    network: Network
    tape: Tape
    proof: Proof
    identity: Identity
    device: TorchDevice
    postprocessor: PostProcessor
    operation_times: OperationTimes
    naming: Callable[[tuple[str, ...]], PostProcessor]
    batchable: frozenset[int] = frozenset()
    _counted: dict[int, Layers] = field(default_factory=dict, repr=False)

    @property
    def runtime(self) -> Runtime:
        """What computes its operations."""
        return Runtime.TORCH

    @property
    def outputs(self) -> int | None:
        """The number of classes that a classifier scores; None if unknown."""
        return len(self.network.classes) or self.scored

    @property
    def scored(self) -> int | None:
        """The same by the shape of the output alone."""
        if self.network.task is not Task.CLASSIFY:
            return None
        shapes = [tensor.shape for tensor in self.proof.cuts[-1].live]
        return shapes[0][1] if len(shapes) == 1 and len(shapes[0]) == 2 else None

    def cut(self, reference: StaticCut, field: str = "spec.partition.cut") -> Cut:
        """The cut by name, index or layer.

        Raises InvalidInput for an unknown cut, CutRefused for a refused one.
        """
        if isinstance(reference, LayerRef):
            reference = self._after(reference)
        return self.proof.cut(reference, field)

    def _after(self, layer: LayerRef) -> int:
        """The index of the cut after a layer. InvalidInput lists the layers that have one."""
        found = self.layers(layer.depth)
        cut = found.cuts[layer.index] if layer.index < len(found.cuts) else None
        if cut is None:
            expected = f"a layer of {self.network.name}, {found.valid()}"
            if layer.index < len(found.names):
                expected += f"; {found.names[layer.index]} lies inside an operation"
            raise InvalidInput("spec.partition.layer", layer.index, expected)
        return cut

    @torch.inference_mode()
    def layers(self, depth: int) -> Layers:
        """The layers down to `depth`, and the cut after each."""
        if depth not in self._counted:
            module = self.network.module
            run = partial(module, self.example(0).to(self.device.place))
            self._counted[depth] = layers(self.tape, top_level(module), run, depth)
        return self._counted[depth]

    def named(self, classes: Sequence[str]) -> Self:
        """This network with class names for its predictions; what it computes is the same."""
        return replace(self, postprocessor=self.naming(tuple(classes)))

    def input_code(self, dataset: Dataset) -> Mapping[str, str]:
        """SHA-256 by name of the user's source files that make inputs from samples."""
        return files(modules_behind(*code(dataset), self.network.prepare))

    def prepare(self, sample: Sample) -> Tensor:
        """The network's input for a sample, without the batch dimension."""
        return prepared(self.network, sample)

    def stack(self, inputs: Sequence[Tensor]) -> Tensor:
        """The batch of several inputs."""
        return torch.stack(list(inputs))

    @in_memory
    @torch.inference_mode()
    def head(self, cut: int, batch: Tensor, *, timed: bool = False) -> list[Any]:
        """Live values at `cut` for an input batch on any device."""
        self.device.launches()
        run = self.operation_times.run if timed else None
        return self.tape.head(cut, batch.to(self.device.place), run)

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
        """The raw output from live values on this network's device."""
        self.device.launches()
        return self.tape.tail(cut, live, abandon, self.operation_times.run if timed else None)

    def ready(self, part: Part, cut: int) -> bool:
        """Always: PyTorch makes nothing for a cut."""
        del part, cut
        return True

    def make_ready(self, part: Part, cut: int) -> None:
        """Nothing is missing."""

    def session_bytes(self, part: Part, cuts: Sequence[int]) -> int:
        """None: a cut without a session is computed all the same."""
        del part, cuts
        return 0

    def free_memory(self) -> None:
        """Free memory of the device that is kept for speed only: PyTorch has done so itself."""

    def times(self) -> tuple[OperationTime, ...]:
        """How long each operation took in the proof and in timed passes."""
        return self.operation_times.table()

    @in_memory
    @torch.inference_mode()
    def reduce(self, output: Any) -> list[Reduced]:
        """The numeric post-processing, one result a picture.

        Raises FrameFailed if the output has a tensor that is not dense, or a value that is NaN or
        infinite. Post-processors would use or drop such a value without an error.
        """
        self.device.launches()
        if not all(_finite(value) for value in tree_leaves(output)):
            raise FrameFailed("the model's output is not finite")
        return self.postprocessor.reduce(output)

    def on_host(self, results: Sequence[Reduced]) -> list[Reduced]:
        """Results in the host's memory."""
        return [{k: v.cpu() for k, v in one.items()} for one in results]

    @in_memory
    def pack(self, values: Sequence[Any]) -> Payload:
        """Values as a payload whose buffers may be views of the tensors' own memory."""
        with self.device.copies(after=True):
            return live.pack(values)

    @in_memory
    def unpack(self, payload: Payload, *, take: bool = False) -> list[Any]:
        """The values on this network's device."""
        with self.device.copies() as user:
            return live.unpack(payload, self.device.place, take=take, user=user)

    def buffers(self, value: object) -> Iterator[memoryview]:
        """The memory of each tensor in a value."""
        for leaf in tree_leaves(value):
            if isinstance(leaf, Tensor):
                yield live.as_buffer(live.raw_bytes(leaf))

    def join(self, lives: Sequence[Sequence[Any]]) -> list[Any] | None:
        """Live values of several requests as those of one batch; None if they do not fit."""
        return batching.joined(lives)

    def agree(self, together: Any, alone: Sequence[Any]) -> bool:
        """Whether the output of a batch is that of each of its requests, except for rounding."""
        return batching.agree(together, alone)

    def example(self, seed: int) -> Tensor:
        """A random batch, the same on every machine."""
        return example_batch(self.network, self.identity.batch, seed)

    def difference(self, exact: Any, other: Any) -> tuple[float, float]:
        """The largest difference of floating-point values, and the largest size in `exact`."""
        error, magnitude = 0.0, 0.0
        for a, b in zip(_floats(exact), _floats(other), strict=True):
            if a.shape == b.shape and a.numel():  # detections may be more or fewer
                error = max(error, float((a.double() - b.double()).abs().max()))
                magnitude = max(magnitude, float(a.double().abs().max()))
        return error, magnitude

    def profile(
        self,
        spec: ExperimentSpec,
        batches: Sequence[Tensor],
        codecs: Sequence[str],
        picture_codecs: Sequence[str],
        judged: Sequence[Tensor] = (),
    ) -> Profile:
        """Time every operation and codec on `batches`, and judge lossy codecs on those `judged`."""
        subject = Subject(
            network=self.network,
            tape=self.tape,
            proof=self.proof,
            device=self.device,
            dtype=spec.model.dtype.value,
            reduce=self.reduce,
            ranking=self.postprocessor.ranking,
            times=self.operation_times,
        )
        return profile(subject, batches, codecs, picture_codecs, judged=judged)


def prepared(network: Network, sample: Sample) -> Tensor:
    """The network's input for a sample, without the batch dimension.

    Raises SplittracrError if it has another dtype or shape than the network takes.
    """
    if sample.picture is not None:
        made = network.prepare(sample.picture)
    elif sample.data is not None:
        made = sample.data
    else:
        raise SplittracrError(f"{sample.name} has neither a picture nor data")
    free = 2 if network.variable_shape else 0  # trailing dimensions of any size
    fixed = len(network.shape) - free
    fits = made.dim() == len(network.shape) and tuple(made.shape[:fixed]) == network.shape[:fixed]
    if made.dtype is not network.input_dtype or not fits:
        raise SplittracrError(
            f"{sample.name} became {made.dtype} {list(made.shape)}, the model takes "
            f"{network.input_dtype} {list(network.shape)}{_advice(network, sample, made)}"
        )
    return made


def _advice(network: Network, sample: Sample, made: Tensor) -> str:
    """How to make a sample fit, as the end of a sentence."""
    if sample.picture is not None:
        return "; spec.dataset.transform makes such tensors of pictures"
    hints = []
    if network.pictures:
        hints.append("return a PIL picture or an array [H, W, 3] of uint8 to have it resized")
    dtype = str(made.dtype).removeprefix("torch.")
    if dtype in list(InputType) and made.dim() == len(network.shape):
        shape = ", ".join(map(str, made.shape))
        hints.append(f"declare spec.model.input: {{shape: [{shape}], dtype: {dtype}}}")
    return f"; {', or '.join(hints)}" if hints else ""


def _finite(value: Any) -> bool:
    if not isinstance(value, Tensor):
        return True
    if value.is_nested or value.is_quantized or value.layout is not torch.strided:
        kind = value.dtype if value.is_quantized else "nested" if value.is_nested else value.layout
        raise FrameFailed(f"the model's output is a {kind} tensor, expected a dense one")
    if not value.numel():
        return True
    if value.is_floating_point() and value.dtype.itemsize == 1:
        value = value.float()  # float8 has no comparison
    if value.is_complex():
        value = torch.view_as_real(value.resolve_conj())
    if not value.is_floating_point():
        return True
    # The extremes carry a NaN too, and take a tenth of the time of a check of every element.
    return all(math.isfinite(extreme) for extreme in value.aminmax())


def _floats(output: object) -> list[Tensor]:
    leaves = tree_leaves(output)
    return [x for x in leaves if isinstance(x, Tensor) and torch.is_floating_point(x)]
