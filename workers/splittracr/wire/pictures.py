"""Pictures for full offload: raw uint8 or a file, one message part a picture.

The bytes describe themselves: a part as long as the pixels is the pixels; a shorter one is a file
in PNG, JPEG, WebP or AVIF, perhaps of a smaller picture. A picture that a codec does not make
shorter travels raw.
"""

from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import AvifImagePlugin, Image, features
from PIL.AvifImagePlugin import AvifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from splittracr.experiment.codec import OPTIONAL_FORMATS, PictureCodec, PictureFormat
from splittracr.experiment.errors import ProtocolError
from splittracr.wire import avif

Picture = NDArray[np.uint8]

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNKS = {b"IHDR", b"IDAT", b"IEND"}  # others hold texts that unpack to megabytes

# A picture is one tile, for which more threads only cost time.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1


def is_available(format_: PictureFormat) -> bool:
    """Whether this build of Pillow reads and writes a format."""
    return format_ not in OPTIONAL_FORMATS or bool(features.check(format_.value))


def encode_picture(pictures: Picture, codec: PictureCodec) -> list[bytes]:
    """The pictures of a uint8 array [N, 3, H, W], red first, each on its own."""
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[1] != 3:
        raise TypeError(f"{pictures.dtype} {list(pictures.shape)}, expected uint8 [N, 3, H, W]")
    return [_encode(picture, codec) for picture in pictures]


def decode_picture(data: bytes, shape: tuple[int, int, int]) -> Picture:
    """The picture as a read-only array of `shape`, which is [3, H, W], in any order of strides.

    A smaller picture is enlarged. The size in a file's header is compared with `shape` before a
    pixel is decoded. Raises ProtocolError if it is larger, or if `encode_picture` could not have
    written the data.
    """
    _, height, width = shape
    pixels = 3 * height * width
    if len(data) == pixels:
        return np.frombuffer(data, np.uint8).reshape(3, height, width)
    if len(data) > pixels:
        raise ProtocolError(f"a picture of {len(data)} bytes, its pixels take {pixels}")
    image = _decode(data, (width, height))
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.moveaxis(np.asarray(image), 2, 0)


def _encode(picture: Picture, codec: PictureCodec) -> bytes:
    if codec.format is PictureFormat.UINT8 or not picture.size:
        return picture.tobytes()
    image = Image.fromarray(np.ascontiguousarray(np.moveaxis(picture, 0, 2)))
    if codec.scale < 100:
        width, height = (max(1, round(side * codec.scale / 100)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    file = BytesIO()
    image.save(file, codec.format.value, **_options(codec))
    return file.getvalue() if file.tell() < picture.size else picture.tobytes()


def _options(codec: PictureCodec) -> dict[str, Any]:
    """What Pillow's encoder gets. Lossless ones are fast: they matter on quick links only."""
    match codec.format:
        case PictureFormat.PNG:
            # On a photograph five times faster than the default level, and 3 % larger.
            return {"compress_level": 1}
        case PictureFormat.WEBP if codec.quality is None:
            # Ten times faster than the default method, and 15 % larger.
            return {"lossless": True, "method": 0}
        case PictureFormat.AVIF:
            # Three times faster than the default speed of 6, and up to 10 % larger.
            return {"quality": codec.quality, "speed": 8, "max_threads": 1}
        case _:
            return {"quality": codec.quality}


def _decode(data: bytes, size: tuple[int, int]) -> Image.Image:
    # Not Image.open: ultralytics replaces it by one that installs packages when a file is broken.
    found = next(((kind, check) for mark, kind, check in _READERS if mark(data)), None)
    if found is None:
        raise ProtocolError(f"{len(data)} bytes are no PNG, JPEG, WebP or AVIF, nor its pixels")
    reader, check = found
    check(data, size)
    try:
        image = reader(BytesIO(data))
        _check(image, size)
        image.load()
    except (OSError, RuntimeError, SyntaxError, ValueError) as error:  # all by Pillow
        raise ProtocolError(f"a picture is broken: {error}") from error
    return image


def _check_png(data: bytes, _: tuple[int, int]) -> None:
    if not _PNG_CHUNKS.issuperset(_chunks(data)):
        raise ProtocolError("a PNG holds more than pixels")


def _chunks(data: bytes) -> Iterator[bytes]:
    at = len(_PNG)
    while at < len(data):
        yield data[at + 4 : at + 8]
        at += int.from_bytes(data[at : at + 4], "big") + 12


def _check_webp(data: bytes, size: tuple[int, int]) -> None:
    """Check the size here: libwebp takes memory for the pixels when a file is opened."""
    length = int.from_bytes(data[16:20], "little")
    if 20 + length + length % 2 != len(data):
        raise ProtocolError("a WebP holds more or less than pixels")
    if data[12:16] == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        sides = [int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (26, 28)]
    elif data[12:16] == b"VP8L" and data[20:21] == b"\x2f":
        bits = int.from_bytes(data[21:25], "little")
        sides = [(bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1]
    else:
        raise ProtocolError("a WebP holds no picture without alpha, animation and metadata")
    _check_size("WebP", (sides[0], sides[1]), size)


def _check_avif(data: bytes, size: tuple[int, int]) -> None:
    """Check the size in the coded pixels: the decoder takes memory for it, not for the file's."""
    if not is_available(PictureFormat.AVIF):
        raise ProtocolError("a picture is an AVIF, and this Pillow was built without AVIF")
    _check_size("AVIF", avif.size(data), size)


def _check(image: ImageFile, size: tuple[int, int]) -> None:
    _check_size(image.mode, image.size, size)
    if image.mode != "RGB":
        raise ProtocolError(f"a picture is {image.mode}, expected RGB")
    if "progressive" in image.info:
        raise ProtocolError("a JPEG is progressive: it may paint its pixels thousands of times")
    if getattr(image, "n_frames", 1) != 1:
        raise ProtocolError("a picture has several frames, expected one")


def _check_size(kind: str, found: tuple[int, int], size: tuple[int, int]) -> None:
    if not (1 <= found[0] <= size[0] and 1 <= found[1] <= size[1]):
        got, most = ("{} x {}".format(*one) for one in (found, size))
        raise ProtocolError(f"a picture is {kind} {got}, expected at most {most}")


def _nothing(_data: bytes, _size: tuple[int, int]) -> None:
    """A JPEG is checked once it is opened, before a pixel is decoded."""


_Check = Callable[[bytes, tuple[int, int]], None]
_READERS: tuple[tuple[Callable[[bytes], bool], type[ImageFile], _Check], ...] = (
    (lambda data: data.startswith(_PNG), PngImageFile, _check_png),
    (lambda data: data.startswith(b"\xff\xd8\xff"), JpegImageFile, _nothing),
    (lambda data: data[:4] + data[8:12] == b"RIFFWEBP", WebPImageFile, _check_webp),
    (lambda data: data[4:12] == b"ftypavif", AvifImageFile, _check_avif),
)
