"""What a codec is and what it is called: `uint8+zstd1`, `raw`, `float16+blosc2-lz4-5-shuffle`.

A codec first maps values (the only place where anything may be lost), then packs the bytes that
this leaves. Nothing here touches a tensor.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from splittracr.experiment.types import Frozen


class ValueCodec(StrEnum):
    """How floating-point values are written; other tensors always travel as they are."""

    RAW = "raw"
    FLOAT16 = "float16"
    UINT8 = "uint8"
    UINT4 = "uint4"

    @property
    def error(self) -> str:
        """The largest error of a value, as a phrase for people; `error_bounds` has the numbers."""
        return _ERRORS[self]


_STEPS = (
    "half a step, a step being the range of the values' channel / {} (of the whole tensor where "
    "it has no channels with at least 16 values); tensors with NaN or infinity travel exactly"
)
_ERRORS = {
    ValueCodec.RAW: "none",
    ValueCodec.FLOAT16: (
        "1 part in 2,048, or 2^-25 where that is more; values beyond 65,504 become 65,504; "
        "NaN and infinity stay"
    ),
    ValueCodec.UINT8: _STEPS.format(255),
    ValueCodec.UINT4: _STEPS.format(15),
}


class Zstd(Frozen):
    """Zstandard. Higher levels are slower and pack better."""

    level: Annotated[int, Field(ge=1, le=19)] = 1

    def __str__(self) -> str:
        return f"zstd{self.level}"


class Lz4(Frozen):
    """LZ4 blocks. As in the lz4 command, levels 1 and 2 are the fast mode, 3 to 12 LZ4-HC."""

    level: Annotated[int, Field(ge=1, le=12)] = 1

    def __str__(self) -> str:
        return f"lz4-{self.level}"


class Blosc2(Frozen):
    """Blosc2: a filter that sorts the bytes or bits of the elements by place, then a packer."""

    inner: Literal["blosclz", "lz4", "lz4hc", "zlib", "zstd"] = "zstd"
    level: Annotated[int, Field(ge=1, le=9)] = 1
    filter: Literal["noshuffle", "shuffle", "bitshuffle"] = "shuffle"

    def __str__(self) -> str:
        return f"blosc2-{self.inner}-{self.level}-{self.filter}"


Lossless = Zstd | Lz4 | Blosc2


@dataclass(frozen=True)
class Codec:
    """A value codec and the lossless stage after it, if any. `str` is its name."""

    values: ValueCodec = ValueCodec.RAW
    lossless: Lossless | None = None

    def __str__(self) -> str:
        return f"{self.values}+{self.lossless}" if self.lossless else str(self.values)

    @classmethod
    def parse(cls, name: str) -> "Codec":
        """The codec called `name`. Raises ValueError that says what was expected."""
        values, _, stage = name.partition("+")
        try:
            codec = cls(ValueCodec(values), _lossless(stage) if stage else None)
        except ValueError as error:  # pydantic's ValidationError is one
            raise ValueError(_unknown(name)) from error
        if str(codec) != name:  # zstd01, a trailing plus: one codec has one name
            raise ValueError(_unknown(name))
        return codec


def _lossless(stage: str) -> Lossless:
    match stage.split("-"):
        case ["lz4", level]:
            return Lz4(level=int(level))
        case ["blosc2", inner, level, order]:
            return Blosc2.model_validate({"inner": inner, "level": int(level), "filter": order})
        case [word] if word.startswith("zstd"):
            return Zstd(level=int(word.removeprefix("zstd")))
        case _:
            raise ValueError(stage)


def _unknown(name: str) -> str:
    return (
        f"{name!r} is no codec; expected {', '.join(ValueCodec)}, alone or followed by "
        "+zstd<1-19>, +lz4-<1-12> or "
        "+blosc2-<blosclz|lz4|lz4hc|zlib|zstd>-<1-9>-<noshuffle|shuffle|bitshuffle>"
    )
