"""Bounded values of a manifest's fields, and their patterns in words."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, StringConstraints

from splittracr.experiment.codec import CODEC_PATTERN, PICTURE_PATTERN, Codec, PictureCodec
from splittracr.experiment.pods import PATTERNS as POD_PATTERNS
from splittracr.experiment.types import OBJECT_NAME, Name

# Everything has bounds: the API server charges a rule for the largest value its field allows.
FilePath = Annotated[str, StringConstraints(min_length=1, max_length=4096)]
_CLASS = r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$"
ClassPath = Annotated[str, StringConstraints(pattern=_CLASS, max_length=253)]
_DEVICE = r"^(auto|cpu|mps|cuda(:[0-9]{1,3})?)$"
_POLICY = (
    r"^(Adaptive|Deadline|Hedge|Bandit|"
    r"[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*)$"
)
PolicyName = Annotated[str, StringConstraints(pattern=_POLICY, max_length=253)]
Device = Annotated[str, StringConstraints(pattern=_DEVICE, max_length=16)]
CodecName = Annotated[str, StringConstraints(pattern=CODEC_PATTERN, max_length=64)]
PictureCodecName = Annotated[str, StringConstraints(pattern=PICTURE_PATTERN, max_length=16)]
Seconds = Annotated[int, Field(ge=1, le=2**31 - 1)]
Port = Annotated[int, Field(ge=0, le=65535)]
Pixels = Annotated[int, Field(ge=1, le=16384)]
Milliwatts = Annotated[int, Field(ge=0, le=10_000_000)]
CutRef = Annotated[int, Field(ge=0, le=1_000_000)] | Name
"""A cut by name, or by index: the number of operations that run on the edge."""


@dataclass(frozen=True)
class LayerRef:
    """A cut by layer: after layer `index`, counted from 0 over modules down to `depth`."""

    index: int
    depth: int


ALL = "All"
PictureCount = (
    Annotated[int, Field(ge=0, le=10_000)]
    | Annotated[str, StringConstraints(pattern=r"^All$", max_length=3)]
)
"""How many pictures to draw on, or `All` of them."""

StaticCut = CutRef | LayerRef
"""The ways in which a manifest names the cut of modes Static and Cascade."""

PATTERNS = {
    **POD_PATTERNS,
    _CLASS: "package.module:Class",
    _POLICY: "Adaptive, Deadline, Hedge, Bandit or package.module:Class",
    _DEVICE: "auto, cpu, mps, cuda or cuda:0",
    OBJECT_NAME: "lower-case letters and digits, with - and . between them",
    r"^All$": "All",
    CODEC_PATTERN: Codec.EXPECTED,
    PICTURE_PATTERN: PictureCodec.EXPECTED,
}
"""The patterns above in words."""
CUT_REF = "a cut by index, 0 or more, or by name"
UNIONS = {"cut": CUT_REF, "cuts": CUT_REF, "pictures": "0 to 10000 or All"}
"""Fields that take one of several types, in words."""
