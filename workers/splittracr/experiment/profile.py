"""`Profile`: times and sizes of each part of a model on one device, measured once, kept as a file.

A profile has nothing about links or the other end. Two of them, one for the edge and one for
the server, and a link make a plan.
"""

from itertools import accumulate
from typing import Annotated, Self

from pydantic import Field, model_validator

from splittracr.experiment.contracts import Runtime
from splittracr.experiment.energy import MeasuredPower
from splittracr.experiment.identity import ModelIdentity
from splittracr.experiment.types import SHARE, Frozen, Versioned
from splittracr.experiment.versions import parse

Milliseconds = Annotated[float, Field(ge=0)]
Bytes = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class CodecProfile(Frozen):
    """One codec on this device: size and speed at every cut, in the order of cuts.

    Of a picture codec there is one entry, for the model's input.
    """

    codec: str = Field(description="Its name, such as `uint8+zstd1`.")
    bytes: tuple[Bytes, ...] = Field(
        description="Size of a frame's message, header included, as `bytes_up` of a record."
    )
    encode_ms: tuple[Milliseconds, ...] = Field(description="From live tensors to bytes.")
    decode_ms: tuple[Milliseconds, ...] = Field(description="From bytes to live tensors.")
    agreement: Share | None = Field(
        default=None,
        description="Share of pictures whose first class is that of the uncoded model, or of "
        "detections that are matched, or of pixels of the same class, the lowest of the cuts that "
        "were tried; 1 if nothing is lost, null if not measured.",
        json_schema_extra=SHARE,
    )
    accuracy: tuple[Share | None, ...] | None = Field(
        default=None,
        description="Share of the uncut, uncoded model's accuracy that is kept at each cut, as "
        "`splittracr rate` measured it, null at cuts where it did not; left out: `agreement`.",
    )

    def kept(self, cut: int) -> float | None:
        """The share of the accuracy that is kept at a cut; None if nothing was measured."""
        return self.agreement if self.accuracy is None else self.accuracy[cut]


class Profile(Versioned):
    """One model on one device. Times are milliseconds a frame, medians over several frames.

    They are CPU time, or that of the device, without waiting for a core; with several threads
    wall-clock time.
    """

    network: str = Field(description="Name of the model.")
    weights: str = Field(description="Begins with `none` if they are random.")
    input: tuple[int, ...] = Field(description="Shape of a frame, the batch first.")
    dtype: str = Field(description="Element type of the computation.")
    device: str = Field(description="Such as `cpu` or `cuda:0`.")
    threads: int = Field(description="Threads of one operation.")
    runtime: Runtime = Field(default=Runtime.TORCH, description="What computes the operations.")
    processor: str = Field(description="The processor's own name.")
    cores: int = Field(description="Logical cores that were there.")
    capability: str = Field(description="Instruction set, or the accelerator and its capability.")
    versions: dict[str, str] = Field(description="Version by name of the package.")
    frames: int = Field(ge=1, description="Frames that were measured.")
    cuts: tuple[str, ...] = Field(min_length=1, description="Name of every cut, by index.")
    refused: tuple[str, ...] = Field(
        default=(),
        description="Cuts that were refused: not proven exact, or below `spec.model.exactness`.",
    )
    live_bytes: tuple[Bytes, ...] = Field(description="Live tensors at every cut, uncoded.")
    memory_bytes: tuple[Bytes, ...] = Field(
        description="Weights that the head uses, and the most that is alive while it runs, by cut."
    )
    op_ms: tuple[Milliseconds, ...] = Field(description="Every operation, one after the other.")
    heads_ms: tuple[Milliseconds, ...] = Field(
        default=(),
        description="The head of every cut, measured as a whole, if the runtime is not PyTorch; "
        "`op_ms` are then PyTorch's.",
    )
    tails_ms: tuple[Milliseconds, ...] = Field(
        default=(), description="The tail of every cut, in the same way."
    )
    reduce_ms: Milliseconds = Field(description="Numeric post-processing after the last one.")
    reply_bytes: Bytes = Field(description="A reply's message, header included.")
    codecs: tuple[CodecProfile, ...] = Field(description="Codecs of live tensors.")
    picture_codecs: tuple[CodecProfile, ...] = Field(
        default=(), description="Codecs of the input if it is a picture."
    )
    identity: ModelIdentity | None = Field(
        default=None, description="The model; null in files of earlier versions."
    )
    power: MeasuredPower | None = Field(
        default=None, description="By the machine's energy sensors; null without them."
    )

    @model_validator(mode="after")
    def _columns(self) -> Self:
        columns = (len(self.live_bytes), len(self.memory_bytes), len(self.op_ms) + 1)
        if any(length != len(self.cuts) for length in columns):
            raise ValueError(
                f"live_bytes, memory_bytes and op_ms go with the {len(self.cuts)} cuts, and have "
                f"{columns[0]}, {columns[1]} and {len(self.op_ms)} entries (op_ms has one less)"
            )
        for name in ("heads_ms", "tails_ms"):
            if len(getattr(self, name)) not in (0, len(self.cuts)):
                raise ValueError(f"{name} has an entry for each of the {len(self.cuts)} cuts")
        for codecs, length in ((self.codecs, len(self.cuts)), (self.picture_codecs, 1)):
            for codec in codecs:
                found = [len(codec.bytes), len(codec.encode_ms), len(codec.decode_ms)]
                if codec.accuracy is not None:
                    found.append(len(codec.accuracy))
                if set(found) != {length}:
                    raise ValueError(
                        f"bytes, encode_ms, decode_ms and accuracy of codec {codec.codec} have "
                        f"{length} entries each, not {found}"
                    )
        return self

    @property
    def last(self) -> int:
        """The index of the cut `output`: everything on the edge."""
        return len(self.cuts) - 1

    def head_ms(self) -> tuple[float, ...]:
        """Time of the operations before each cut."""
        return self.heads_ms or tuple(accumulate(self.op_ms, initial=0.0))

    def tail_ms(self) -> tuple[float, ...]:
        """Time of the operations after each cut."""
        heads = self.head_ms()
        return self.tails_ms or tuple(heads[-1] - head for head in heads)

    def machine(self) -> str:
        """The device in words."""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        what = self.processor if self.device == "cpu" else self.capability
        runtime = "" if self.runtime is Runtime.TORCH else f", {self.runtime}"
        return f"{self.device}, {what}, {threads}{runtime}"


def parse_profile(text: str, origin: str) -> Profile:
    """The profile in a file's text (JSON). Raises InvalidInput naming the wrong key."""
    return parse(Profile, text, origin, "a profile")
