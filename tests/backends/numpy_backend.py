"""A second implementation of `Backend`, in numpy: two operations on pictures of 8 x 8."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from splittracr.backends.protocol import Part
from splittracr.data.contracts import Dataset, Geometry, Sample
from splittracr.experiment.contracts import Runtime
from splittracr.experiment.errors import FrameFailed
from splittracr.experiment.profile import Profile
from splittracr.experiment.spec import ExperimentSpec, LayerRef, StaticCut
from splittracr.experiment.types import Cut, OperationTime, TensorSpec
from splittracr.splitting.proof import Proof
from splittracr.wire.messages import Identity
from splittracr.wire.payload import Payload, TensorRef

Array = NDArray[Any]

OPERATIONS: tuple[Callable[[Array], Array], ...] = (
    lambda x: x.astype(np.float32) / 255,
    lambda x: x.mean((2, 3)),
)


class Host:
    """The processor."""

    name, capability, uuid, threads = "processor", "none", None, 1

    def __str__(self) -> str:
        return "cpu"

    def synchronise(self) -> None:
        pass

    def finish(self) -> float:
        return 0.0

    def memory(self) -> Mapping[str, float]:
        return {}


class Means:
    """The mean of each channel."""

    def reduce(self, output: Any) -> list[Any]:
        return [{"means": row} for row in output]

    def describe(self, reduced: Any, geometry: Geometry) -> list[float]:
        del geometry
        return [float(mean) for mean in reduced["means"]]

    def draw(self, picture: Image.Image, reduced: Any, geometry: Geometry) -> Image.Image:
        del reduced, geometry
        return picture

    def ranking(self, reduced: Any) -> list[int] | None:
        return [int(i) for i in np.argsort(-reduced["means"])]


@dataclass(frozen=True)
class Means8x8:
    """What is known of the network."""

    name: str = "means"
    weights: str = "none"
    classes: tuple[str, ...] = ("red", "green", "blue")
    pictures: bool = True
    variable_shape: bool = False
    preparation: str | None = None
    keypoints: int | None = None


def cut(index: int, name: str, shape: tuple[int, ...], dtype: str) -> Cut:
    nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    live = TensorSpec(name=name, shape=shape, dtype=dtype, bytes=nbytes)
    return Cut(index=index, name=name, live=(live,), bytes=nbytes, work=index / 2)


IDENTITY = Identity("means", "sha256:a", "sha256:b", 1, "Reduced")
PROOF = Proof(
    cuts=(
        cut(0, "input", (1, 3, 8, 8), "uint8"),
        cut(1, "scale", (1, 3, 8, 8), "float32"),
        cut(2, "output", (1, 3), "float32"),
    ),
    refused={},
    op_ms=(0.1, 0.1),
)


@dataclass(frozen=True)
class NumpyBackend:
    """A `Backend` whose tensors are arrays, with all methods of that protocol."""

    network: Means8x8 = Means8x8()
    device: Host = field(default_factory=Host)
    runtime: Runtime = Runtime.TORCH  # a manifest has no name for this one
    postprocessor: Means = field(default_factory=Means)
    batchable: frozenset[int] = frozenset()
    outputs: int | None = 3
    identity: Identity = IDENTITY
    proof: Proof = PROOF

    def cut(self, reference: StaticCut, field: str = "spec.partition.cut") -> Cut:
        assert not isinstance(reference, LayerRef)
        return self.proof.cut(reference, field)

    def named(self, classes: Sequence[str]) -> Self:
        del classes
        return self

    def input_code(self, dataset: Dataset) -> Mapping[str, str]:
        del dataset
        return {}

    def prepare(self, sample: Sample) -> Array:
        assert sample.picture is not None
        return np.ascontiguousarray(np.asarray(sample.picture).transpose(2, 0, 1))

    def stack(self, inputs: Sequence[Array]) -> Array:
        return np.stack(inputs)

    def head(self, cut: int, batch: Array, *, timed: bool = False) -> list[Array]:
        del timed
        return [self._run(batch, 0, cut)]

    def tail(
        self,
        cut: int,
        live: Sequence[Array],
        abandon: threading.Event | None = None,
        *,
        timed: bool = False,
    ) -> Array:
        del abandon, timed
        return self._run(live[0], cut, 2)

    def ready(self, part: Part, cut: int) -> bool:
        return True

    def make_ready(self, part: Part, cut: int) -> None:
        """Nothing is missing."""

    def session_bytes(self, part: Part, cuts: Sequence[int]) -> int:
        return 0

    def times(self) -> tuple[OperationTime, ...]:
        return ()

    def _run(self, value: Array, start: int, stop: int) -> Array:
        for operation in OPERATIONS[start:stop]:
            value = operation(value)
        return value

    def reduce(self, output: Array) -> list[Any]:
        if not np.isfinite(output).all():
            raise FrameFailed("not finite")
        return self.postprocessor.reduce(output)

    def on_host(self, results: Sequence[Any]) -> Sequence[Any]:
        return results

    def pack(self, values: Sequence[Any]) -> Payload:
        arrays: list[Array] = []
        trees = tuple(_tree(value, arrays) for value in values)
        refs = tuple(
            TensorRef(i, str(one.dtype), one.shape, _strides(one), 0)
            for i, one in enumerate(arrays)
        )
        return Payload(trees, refs, tuple(memoryview(one.tobytes()) for one in arrays))

    def unpack(self, payload: Payload, *, take: bool = False) -> list[Any]:
        del take
        arrays = [
            np.frombuffer(payload.buffers[ref.buffer], ref.dtype).reshape(ref.shape)
            for ref in payload.tensors
        ]
        return [_value(tree, arrays) for tree in payload.values]

    def buffers(self, value: object) -> Iterator[memoryview]:
        if isinstance(value, np.ndarray):
            yield memoryview(value.tobytes())

    def join(self, lives: Sequence[Sequence[Array]]) -> list[Array] | None:
        return [np.concatenate([live[0] for live in lives])]

    def agree(self, together: Array, alone: Sequence[Array]) -> bool:
        return bool(np.allclose(together, np.concatenate(alone)))

    def example(self, seed: int) -> Array:
        return np.random.default_rng(seed).integers(0, 256, (1, 3, 8, 8), dtype=np.uint8)

    def difference(self, exact: Array, other: Array) -> tuple[float, float]:
        return float(abs(exact - other).max()), float(abs(exact).max())

    def profile(
        self,
        spec: ExperimentSpec,
        batches: Sequence[Array],
        codecs: Sequence[str],
        picture_codecs: Sequence[str],
        judged: Sequence[Array] = (),
    ) -> Profile:
        raise NotImplementedError


def _strides(array: Array) -> tuple[int, ...]:
    return tuple(np.cumprod((1, *array.shape[:0:-1]))[::-1].tolist())


def _tree(value: Any, arrays: list[Array]) -> dict[str, Any]:
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return {"t": len(arrays) - 1}
    if isinstance(value, dict):
        return {"dict": [[key, _tree(part, arrays)] for key, part in value.items()]}
    return {"list": [_tree(part, arrays) for part in value]}


def _value(tree: dict[str, Any], arrays: list[Array]) -> Any:
    ((kind, content),) = tree.items()
    if kind == "t":
        return arrays[content]
    if kind == "dict":
        return {key: _value(part, arrays) for key, part in content}
    return [_value(part, arrays) for part in content]
