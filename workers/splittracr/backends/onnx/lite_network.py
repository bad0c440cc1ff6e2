"""A network of ONNX Runtime on an edge without PyTorch: a `Backend` whose tensors are arrays."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from splittracr.backends import seeded
from splittracr.backends.exported import ExportedModel
from splittracr.backends.onnx import lite_profile, values
from splittracr.backends.onnx.loaded import Parts
from splittracr.backends.protocol import Part
from splittracr.data.contracts import Dataset, PostProcessor, Reduced, Sample
from splittracr.experiment.contracts import Runtime
from splittracr.experiment.errors import Abandoned, FrameFailed, InvalidInput, SplittracrError
from splittracr.experiment.profile import Profile
from splittracr.experiment.spec import ExperimentSpec, LayerRef, StaticCut
from splittracr.experiment.types import Cut, OperationTime
from splittracr.measure import machine
from splittracr.splitting.proof import Proof
from splittracr.wire.messages import Identity
from splittracr.wire.payload import Payload

Array = NDArray[Any]


@dataclass(frozen=True)
class Host:
    """The processor, as a `Device` of `measure/device.py`."""

    threads: int
    uuid: str | None = None

    def __str__(self) -> str:
        return "cpu"

    @property
    def name(self) -> str:
        """The processor's own name."""
        return machine.processor()

    @property
    def capability(self) -> str:
        """The architecture: ONNX Runtime does not say which instructions it uses."""
        return machine.architecture()

    def synchronise(self) -> None:
        """Do nothing: a processor has no queue."""

    def finish(self) -> float:
        """Nothing is left to wait for."""
        return 0.0

    def memory(self) -> Mapping[str, float]:
        """Empty, for a processor."""
        return {}


@dataclass(frozen=True)
class LiteDescription:
    """The properties of the model that need no run."""

    name: str
    weights: str
    classes: tuple[str, ...]
    pictures: bool
    preparation: str | None
    variable_shape: bool = False
    keypoints: int | None = None


@dataclass(frozen=True)
class LiteNetwork:
    """An exported model, ready to run either part.

    It stays one class because the protocol `Backend` asks for all these methods, mostly short ones.
    """

    network: LiteDescription
    model: ExportedModel
    parts: Parts
    proof: Proof
    identity: Identity
    device: Host
    naming: Callable[[tuple[str, ...]], PostProcessor]
    postprocessor: PostProcessor
    batchable: frozenset[int] = frozenset()

    @property
    def runtime(self) -> Runtime:
        """The runtime of its operations."""
        return Runtime.ONNX_RUNTIME

    @property
    def outputs(self) -> int | None:
        """The number of classes that a classifier scores; None if that is not known."""
        return len(self.network.classes) or self.model.outputs

    def cut(self, reference: StaticCut, field: str = "spec.partition.cut") -> Cut:
        """The cut by name, index or layer.

        Raises InvalidInput if there is none, CutRefused if it is refused.
        """
        if isinstance(reference, LayerRef):
            reference = self._after(reference)
        return self.proof.cut(reference, field)

    def _after(self, layer: LayerRef) -> int:
        """The index of the cut after a layer, of those that the export has."""
        field, known = "spec.partition.layer", self.model.layers
        if known is None or known.depth != layer.depth:
            expected = "a layer that the manifest named when the model was exported, or a cut"
            raise InvalidInput(field, layer.index, f"{expected}, on an edge without PyTorch")
        cut = known.cuts[layer.index] if layer.index < len(known.cuts) else None
        if cut is None:
            raise InvalidInput(field, layer.index, f"a layer of {self.network.name} with a cut")
        return cut

    def named(self, classes: Sequence[str]) -> Self:
        """This network with class names for its predictions. Its outputs are the same."""
        return replace(self, postprocessor=self.naming(tuple(classes)))

    def input_code(self, dataset: Dataset) -> Mapping[str, str]:
        """Nothing: source files are found with PyTorch's help."""
        del dataset
        return {}

    # -------------------------------------------------------------------------------- a frame

    def prepare(self, sample: Sample) -> Array:
        """The network's input for one sample, without the batch dimension.

        Raises SplittracrError if the sample has another type or shape than the network takes.
        """
        if sample.picture is not None and self.model.prepared is not None:
            made = self.model.prepared(sample.picture)
        elif sample.data is not None:
            made = np.asarray(sample.data)
        else:
            raise SplittracrError(f"{sample.name} is no input that {self.network.name} takes")
        if made.dtype != np.dtype(self.model.dtype) or made.shape != self.model.shape:
            raise SplittracrError(
                f"{sample.name} became {made.dtype} {list(made.shape)}, the model takes "
                f"{self.model.dtype} {list(self.model.shape)}"
            )
        return made

    def stack(self, inputs: Sequence[Array]) -> Array:
        """The batch of several inputs."""
        return np.stack(list(inputs))

    def head(self, cut: int, batch: Array, *, timed: bool = False) -> list[Any]:
        """Live values at `cut` for an input batch. A session times no single operations."""
        del timed
        arrays = self.parts.run(0, cut, [batch])
        return [values.from_tree(tree, arrays) for tree in self.model.live[cut].values]

    def tail(
        self,
        cut: int,
        live: Sequence[Any],
        abandon: threading.Event | None = None,
        *,
        timed: bool = False,
    ) -> Any:
        """The raw output from live values. Once a session runs, it is not abandoned."""
        del timed
        if abandon is not None and abandon.is_set():
            raise Abandoned("the other end has the answer")
        arrays = self.parts.run(cut, self.parts.last, values.arrays_in(live))
        return values.from_tree(self.model.output, arrays)

    def ready(self, part: Part, cut: int) -> bool:
        """Whether a head or a tail runs without a session that has still to be made."""
        return self.parts.ready(*self._ends(part, cut))

    def make_ready(self, part: Part, cut: int) -> None:
        """Make the session of a head or a tail."""
        self.parts.make_ready(*self._ends(part, cut))

    def session_bytes(self, part: Part, cuts: Sequence[int]) -> int:
        """Max memory of the sessions of the heads or tails at all these cuts."""
        return self.parts.session_bytes([self._ends(part, cut) for cut in cuts])

    def _ends(self, part: Part, cut: int) -> tuple[int, int]:
        return (0, cut) if part == "head" else (cut, self.parts.last)

    def reduce(self, output: Any) -> list[Reduced]:
        """The numeric post-processing, one result a picture.

        Raises FrameFailed if the output is not finite.
        """
        if not all(map(_finite, values.arrays_in([output]))):
            raise FrameFailed("the model's output is not finite")
        return self.postprocessor.reduce(output)

    def on_host(self, results: Sequence[Reduced]) -> Sequence[Reduced]:
        """Results in the host's memory, where they are."""
        return results

    def pack(self, live: Sequence[Any]) -> Payload:
        """Values as a payload whose buffers are the arrays' own memory."""
        return values.pack(live)

    def unpack(self, payload: Payload, *, take: bool = False) -> list[Any]:
        """The values, in the payload's memory: no session writes to its inputs."""
        del take
        return values.unpack(payload)

    def buffers(self, value: object) -> Iterator[memoryview]:
        """The memory of each array in a value."""
        for array in values.arrays_in([value]):
            yield values.memory(np.ascontiguousarray(array))

    # -------------------------------------------------------------------- requests in one batch

    def join(self, lives: Sequence[Sequence[Any]]) -> list[Any] | None:
        """None: sessions take one size of a batch."""
        del lives
        return None

    def agree(self, together: Any, alone: Sequence[Any]) -> bool:
        """False: requests are not computed together."""
        del together, alone
        return False

    # ------------------------------------------------------------------------------ measuring

    def example(self, seed: int) -> Array:
        """A random batch, the same on every machine."""
        shape = (self.identity.batch, *self.model.shape)
        return seeded.random(shape, self.model.dtype, seed).astype(self.model.dtype)

    def times(self) -> tuple[OperationTime, ...]:
        """Nothing: a session merges operations."""
        return ()

    def difference(self, exact: Any, other: Any) -> tuple[float, float]:
        """The largest difference of floating-point values, and the largest size in `exact`."""
        error, size = 0.0, 0.0
        pairs = zip(values.arrays_in([exact]), values.arrays_in([other]), strict=True)
        for a, b in pairs:
            if a.dtype.kind == "f" and a.shape == b.shape and a.size:
                wide = a.astype(np.float64)
                error = max(error, float(np.abs(wide - b).max()))
                size = max(size, float(np.abs(wide).max()))
        return error, size

    def profile(
        self,
        spec: ExperimentSpec,
        batches: Sequence[Array],
        codecs: Sequence[str],
        picture_codecs: Sequence[str],
        judged: Sequence[Array] = (),
    ) -> Profile:
        """Time the head and the tail of every cut and every codec on `batches`, and judge lossy
        codecs on those `judged`. The times of single operations are those of the server.
        """
        return lite_profile.profile(self, spec, batches, codecs, picture_codecs, judged)


def _finite(array: Array) -> bool:
    return array.dtype.kind not in "fc" or bool(np.isfinite(array).all())
