"""The interface between a runtime and both workers: the protocol `Backend`.

The values between its methods are opaque. Only the backend that made them reads them; all other
code passes them on, to the next method or, packed, to the wire.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, Self, TypeAlias

from splittracr.data.contracts import Dataset, PostProcessor, Reduced, Sample
from splittracr.experiment.contracts import ExitTargets
from splittracr.experiment.contracts import Runtime as RuntimeName
from splittracr.experiment.exits import ExitsFile
from splittracr.experiment.profile import Profile
from splittracr.experiment.spec import ExperimentSpec, ModelSpec, StaticCut
from splittracr.experiment.types import Cut, OperationTime
from splittracr.measure.device import Device
from splittracr.splitting.proof import Proof
from splittracr.wire.messages import Identity
from splittracr.wire.payload import Payload

Input: TypeAlias = Any
"""The network's input, of one sample or of a batch. Its `shape` ends with height and width if the
samples are pictures; nothing else of it is known."""

Live: TypeAlias = Sequence[Any]
"""The live values at a cut."""

Output: TypeAlias = Any
"""The network's raw output."""

Part = Literal["head", "tail"]


class Description(Protocol):
    """Facts about a network that is not run.

    `weights` names what was loaded and begins with `none` if they are random. `pictures` is true if
    the input is pictures, which a picture codec can carry, and `variable_shape` if they keep their
    own size. `preparation` describes how a picture becomes an input. `keypoints` is how many an
    object of the results has; None if none, or unknown.
    """

    @property
    def name(self) -> str: ...

    @property
    def weights(self) -> str: ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def pictures(self) -> bool: ...

    @property
    def variable_shape(self) -> bool: ...

    @property
    def preparation(self) -> str | None: ...

    @property
    def keypoints(self) -> int | None: ...


class Backend(Protocol):
    """A network on a device whose cuts are proven exact there.

    Its methods may be called from any thread. They are one protocol: edge and server need most of
    them, and an implementation is one object on one device.
    """

    # ---------------------------------------------------------------------------------- facts

    @property
    def network(self) -> Description:
        """The network."""

    @property
    def proof(self) -> Proof:
        """Its cuts, and which of them are refused."""

    @property
    def identity(self) -> Identity:
        """What both ends must have in common."""

    @property
    def device(self) -> Device:
        """The device that computes."""

    @property
    def runtime(self) -> RuntimeName:
        """The runtime that computes its operations."""

    @property
    def postprocessor(self) -> PostProcessor:
        """From results to labelled predictions."""

    @property
    def batchable(self) -> frozenset[int]:
        """The cuts at which requests may be computed together."""

    @property
    def outputs(self) -> int | None:
        """The number of classes that a classifier scores; None if unknown."""

    def cut(self, reference: StaticCut, field: str = "spec.partition.cut") -> Cut:
        """The cut by name, index or layer.

        Raises InvalidInput for an unknown cut, CutRefused if it is not exact.
        """

    def named(self, classes: Sequence[str]) -> Self:
        """This network with class names for its predictions; what it computes is the same."""

    def input_code(self, dataset: Dataset) -> Mapping[str, str]:
        """SHA-256 by name of the user's source files that make inputs from samples."""

    # -------------------------------------------------------------------------------- a frame

    def prepare(self, sample: Sample) -> Input:
        """The network's input for one sample.

        Raises SplittracrError if the sample has another type or shape than the network takes.
        """

    def stack(self, inputs: Sequence[Input]) -> Input:
        """The batch of several inputs, in the order of the samples."""

    def head(self, cut: int, batch: Input, *, timed: bool = False) -> Live:
        """Run the operations before a cut. If `timed`, note the time of each, which takes time
        itself.
        """

    def tail(
        self,
        cut: int,
        live: Live,
        abandon: threading.Event | None = None,
        *,
        timed: bool = False,
    ) -> Output:
        """Run the operations after a cut. They may write into `live`. `timed` as for a head.

        Raises Abandoned soon after `abandon` is set.
        """

    def ready(self, part: Part, cut: int) -> bool:
        """Whether the head or tail at a cut runs at once, with nothing to be made before."""

    def make_ready(self, part: Part, cut: int) -> None:
        """Make what the head or tail at a cut needs, which takes time. Frames run meanwhile."""

    def session_bytes(self, part: Part, cuts: Sequence[int]) -> int:
        """Max memory of the sessions without which the heads or tails at these cuts cannot run."""

    def reduce(self, output: Output) -> Sequence[Reduced]:
        """The numeric post-processing, one result a sample, on the device.

        Raises FrameFailed if the output is not finite.
        """

    def on_host(self, results: Sequence[Reduced]) -> Sequence[Reduced]:
        """Results in the host's memory, for the post-processor."""

    def pack(self, values: Sequence[Any]) -> Payload:
        """Live values, or a result, as buffers in the host's memory, often without a copy."""

    def unpack(self, payload: Payload, *, take: bool = False) -> Live:
        """The values on the device, in their own memory.

        With `take` they may use the payload's memory: writing to them spoils it. Raises
        ProtocolError if the payload contradicts itself.
        """

    def buffers(self, value: object) -> Iterable[memoryview]:
        """The memory of each tensor in a value, with its elements in order of indices."""

    # -------------------------------------------------------------------- requests in one batch

    def join(self, lives: Sequence[Live]) -> Live | None:
        """The live values of several requests as those of one batch; None if they do not fit."""

    def agree(self, together: Output, alone: Sequence[Output]) -> bool:
        """Whether the output of a batch is that of each of its requests, except for rounding."""

    # ------------------------------------------------------------------------------ measuring

    def example(self, seed: int) -> Input:
        """A random batch, the same on every machine."""

    def times(self) -> tuple[OperationTime, ...]:
        """How long each operation took in the proof and in timed passes; empty if unknown."""

    def difference(self, exact: Output, other: Output) -> tuple[float, float]:
        """The largest difference between two outputs, and the largest size in the first."""

    def profile(
        self,
        spec: ExperimentSpec,
        batches: Sequence[Input],
        codecs: Sequence[str],
        picture_codecs: Sequence[str],
        judged: Sequence[Input] = (),
    ) -> Profile:
        """Time every operation and codec on `batches`, and judge lossy codecs on those `judged`."""


class Exits(Protocol):
    """The exits of a network on its device: classifiers of the live values at some cuts.

    Its methods may be called from any thread.
    """

    @property
    def backend(self) -> Backend:
        """The network, with a post-processor for the outputs of exits."""

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """The cuts at which the exits are, in order."""

    @property
    def digest(self) -> str:
        """A digest of the cuts and of all parameters and buffers of the exits."""

    @property
    def memory_bytes(self) -> int:
        """The bytes of these parameters and buffers."""

    def classify(self, number: int, live: Live) -> Output:
        """The output of exit `number` for the live values at its cut, which stay unchanged."""

    def between(self, start: int, live: Live, stop: int) -> Live:
        """The live values at cut `stop` from those at cut `start`, which it consumes."""

    def has_learnt(self, sample: Input) -> bool:
        """Whether the exits have learnt from this input; false if that is unknown."""


@dataclass(frozen=True)
class ExitTraining:
    """How exits are trained.

    If `targets` is None, exits learn labels if there are any, else answers. `held_out` is the share
    of the samples that only judge the exits, and `seed` chooses these.
    """

    targets: ExitTargets | None
    held_out: float
    seed: int


class ExitMaker(Protocol):
    """The module that makes exits."""

    def opened(self, own: Backend, spec: ExperimentSpec, exits: str, base: Path) -> Exits:
        """The exits of a file, or those that the network declares; see `CascadeSpec.exits`.

        Raises InvalidInput that names `spec.partition.cascade.exits` if they are not of this
        network.
        """

    def trained(
        self,
        own: Backend,
        cuts: Sequence[Cut],
        samples: Iterable[tuple[Input, int | None] | None],
        wanted: ExitTraining,
    ) -> tuple[ExitsFile, bytes]:
        """Exits at these cuts that have learnt from inputs with labels, and the bytes of their
        file. None is a sample that cannot be used.

        Raises InvalidInput if the network is no classifier, or there are too few samples.
        """


class Builder(Protocol):
    """The module of a backend, on an edge that may lack PyTorch."""

    def build(self, spec: ExperimentSpec, side: str, base: Path) -> Backend:
        """The network of a manifest for `side`, "edge" or "server".

        Sets the threads of this process. Relative paths of the manifest start at `base`.
        """


class Runtime(Builder, Protocol):
    """The module of a backend, with PyTorch."""

    def prove_cuts(self, spec: ModelSpec, batch: int) -> tuple[str, Proof]:
        """The name and the cuts of a network, on the processor and on one thread."""
