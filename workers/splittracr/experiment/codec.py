"""Names of codecs: `uint8+zstd1`, `raw`, `float16+blosc2-lz4-5-shuffle`.

A built-in codec of live tensors first maps values (the only lossy step), then compresses the bytes.
A codec of another package has a dot in its name: `acme.topk`. A picture codec, such as `jpeg90` or
`webp75@50`, serves full offload. Nothing here uses a tensor.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from splittracr.experiment.types import Frozen

_NAMED = r"[a-z][a-z0-9_-]*(\.[a-z0-9][a-z0-9_-]*)+"
CODEC_PATTERN = (
    r"^((raw|float16|uint8|uint4)(\+(zstd([1-9]|1[0-9])|lz4-([1-9]|1[0-2])|"
    r"blosc2-(blosclz|lz4|lz4hc|zlib|zstd)-[1-9]-(noshuffle|shuffle|bitshuffle)))?|"
    rf"{_NAMED})$"
)
PICTURE_PATTERN = r"^(uint8|(png|webp|(jpeg|webp|avif)([1-9][0-9]?|100))(@[1-9][0-9]?)?)$"


class ValueCodec(StrEnum):
    """How floating-point values are written; other tensors are never changed."""

    RAW = "raw"
    FLOAT16 = "float16"
    UINT8 = "uint8"
    UINT4 = "uint4"

    @property
    def error(self) -> str:
        """The largest error of a value, as a phrase for people; `error_bounds` has the numbers."""
        return _ERRORS[self]


_STEPS = (
    "half a step, a step being the range of the values' channel / {} (of the whole tensor if "
    "it has no channels with at least 16 values); tensors with NaN or infinity travel exactly"
)
_ERRORS = {
    ValueCodec.RAW: "none",
    ValueCodec.FLOAT16: (
        "1 part in 2,048, or 2^-25 if that is more; values beyond 65,504 become 65,504; "
        "NaN and infinity stay"
    ),
    ValueCodec.UINT8: _STEPS.format(255),
    ValueCodec.UINT4: _STEPS.format(15),
}


class Zstd(Frozen):
    """Zstandard. Higher levels are slower and compress better."""

    level: Annotated[int, Field(ge=1, le=19)] = 1

    def __str__(self) -> str:
        return f"zstd{self.level}"


class Lz4(Frozen):
    """LZ4 blocks. As in the lz4 command, levels 1 and 2 are the fast mode, 3 to 12 LZ4-HC."""

    level: Annotated[int, Field(ge=1, le=12)] = 1

    def __str__(self) -> str:
        return f"lz4-{self.level}"


class Blosc2(Frozen):
    """Blosc2: a filter that sorts the bytes or bits of the elements by place, then a compressor."""

    inner: Literal["blosclz", "lz4", "lz4hc", "zlib", "zstd"] = "zstd"
    level: Annotated[int, Field(ge=1, le=9)] = 1
    filter: Literal["noshuffle", "shuffle", "bitshuffle"] = "shuffle"

    def __str__(self) -> str:
        return f"blosc2-{self.inner}-{self.level}-{self.filter}"


Lossless = Zstd | Lz4 | Blosc2


@dataclass(frozen=True)
class Codec:
    """A value codec and the lossless stage after it, if any. `str` is its name.

    With `named` it is a codec of another package instead, which `wire/registry.py` finds.
    """

    values: ValueCodec = ValueCodec.RAW
    lossless: Lossless | None = None
    named: str | None = None

    def __str__(self) -> str:
        if self.named is not None:
            return self.named
        return f"{self.values}+{self.lossless}" if self.lossless else str(self.values)

    EXPECTED: ClassVar[str] = (
        "raw, float16, uint8 or uint4, alone or followed by +zstd<1-19>, +lz4-<1-12> or "
        "+blosc2-<blosclz|lz4|lz4hc|zlib|zstd>-<1-9>-<noshuffle|shuffle|bitshuffle>; or the "
        "name of another package's codec, such as acme.topk"
    )

    @classmethod
    def parse(cls, name: str) -> "Codec":
        """The codec called `name`. Raises ValueError that names the expectation."""
        if re.fullmatch(CODEC_PATTERN, name) is None:
            raise ValueError(f"{name!r} is no codec; expected {cls.EXPECTED}")
        if is_named(name):
            return cls(named=name)
        values, _, stage = name.partition("+")
        return cls(ValueCodec(values), _lossless(stage) if stage else None)

    @property
    def lossy(self) -> bool:
        """Whether a value may change. A codec of another package counts as lossy."""
        return self.values is not ValueCodec.RAW or self.named is not None


def is_named(name: str) -> bool:
    """Whether a name is that of a codec of another package."""
    return re.fullmatch(_NAMED, name) is not None


RAW = Codec()
"""Every tensor as it is."""


def _lossless(stage: str) -> Lossless:
    match stage.split("-"):
        case ["lz4", level]:
            return Lz4(level=int(level))
        case ["blosc2", inner, level, order]:
            return Blosc2.model_validate({"inner": inner, "level": int(level), "filter": order})
        case [word]:
            return Zstd(level=int(word.removeprefix("zstd")))
        case _:
            raise AssertionError(stage)


class PictureFormat(StrEnum):
    """How pixels are written."""

    UINT8 = "uint8"
    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"
    AVIF = "avif"


_LOSSLESS = (PictureFormat.UINT8, PictureFormat.PNG, PictureFormat.WEBP)
_WITH_QUALITY = (PictureFormat.JPEG, PictureFormat.WEBP, PictureFormat.AVIF)
OPTIONAL_FORMATS = (PictureFormat.WEBP, PictureFormat.AVIF)
"""Those that some builds of Pillow lack."""


@dataclass(frozen=True)
class PictureCodec:
    """A format, its quality from 1 to 100, and a scale. `str` is its name: `png`, `jpeg90@50`.

    WebP without a quality is lossless. `scale` is the size in which a picture travels, in per cent
    of both sides; the other end makes it as large as it was.
    """

    format: PictureFormat = PictureFormat.UINT8
    quality: int | None = None
    scale: int = 100

    EXPECTED: ClassVar[str] = (
        "uint8, png, webp, jpeg<1-100>, webp<1-100> or avif<1-100>; all but uint8 may be followed "
        "by @<1-99>, the per cent of both sides that is sent"
    )

    def __post_init__(self) -> None:
        allowed = _LOSSLESS if self.quality is None else _WITH_QUALITY
        if self.format not in allowed:
            formats = ", ".join(allowed)
            raise ValueError(
                f"{self.format} with quality {self.quality}, expected one of {formats}"
            )
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise ValueError(f"a {self.format} quality of {self.quality}, expected 1 to 100")
        smallest = 100 if self.format is PictureFormat.UINT8 else 1
        if not smallest <= self.scale <= 100:
            raise ValueError(f"a {self.format} scale of {self.scale}, expected {smallest} to 100")

    def __str__(self) -> str:
        quality = "" if self.quality is None else str(self.quality)
        return f"{self.format}{quality}" + (f"@{self.scale}" if self.scale < 100 else "")

    @classmethod
    def parse(cls, name: str) -> "PictureCodec":
        """The codec called `name`. Raises ValueError that names the expectation."""
        if re.fullmatch(PICTURE_PATTERN, name) is None:
            raise ValueError(f"{name!r} is no picture codec, expected {cls.EXPECTED}")
        if name == PictureFormat.UINT8:
            return cls()
        file, _, scale = name.partition("@")
        quality = file.lstrip("abcdefghijklmnopqrstuvwxyz")
        return cls(
            PictureFormat(file.removesuffix(quality)),
            int(quality) if quality else None,
            int(scale) if scale else 100,
        )

    @property
    def lossy(self) -> bool:
        """Whether a pixel may change."""
        return self.quality is not None or self.scale < 100


def optional_part(name: str) -> str | None:
    """What both ends need beside this package to use the codec `name`; None if nothing.

    That is the name of another package's codec, or a format that some builds of Pillow lack.
    """
    if is_named(name):
        return name
    if re.fullmatch(PICTURE_PATTERN, name) is None:
        return None
    format_ = PictureCodec.parse(name).format
    return format_.value if format_ in OPTIONAL_FORMATS else None
