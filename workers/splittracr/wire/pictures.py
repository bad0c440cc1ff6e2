"""Pictures for full offload: raw uint8, PNG or JPEG, one message part a picture.

The bytes describe themselves: a part as long as the pixels is the pixels; a shorter one is a PNG or
JPEG file. A picture that a codec does not make shorter travels raw.
"""

from collections.abc import Iterator
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from splittracr.experiment.codec import PictureCodec, PictureFormat
from splittracr.experiment.errors import ProtocolError

Picture = NDArray[np.uint8]

_PNG = b"\x89PNG\r\n\x1a\n"
_SIGNATURES: dict[bytes, type[ImageFile]] = {_PNG: PngImageFile, b"\xff\xd8\xff": JpegImageFile}
_PNG_CHUNKS = {b"IHDR", b"IDAT", b"IEND"}  # others hold texts that unpack to megabytes


def encode_picture(pictures: Picture, codec: PictureCodec) -> list[bytes]:
    """The pictures of a uint8 array [N, 3, H, W], red first, each on its own."""
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[1] != 3:
        raise TypeError(f"{pictures.dtype} {list(pictures.shape)}, expected uint8 [N, 3, H, W]")
    return [_encode(picture, codec) for picture in pictures]


def decode_picture(data: bytes, shape: tuple[int, int, int]) -> Picture:
    """The picture as a read-only array of `shape`, which is [3, H, W], in any order of strides.

    The size in a file's header is compared with `shape` before a pixel is decoded. Raises
    ProtocolError if it differs, or if `encode_picture` could not have written the data.
    """
    _, height, width = shape
    pixels = 3 * height * width
    if len(data) == pixels:
        return np.frombuffer(data, np.uint8).reshape(3, height, width)
    if len(data) > pixels:
        raise ProtocolError(f"a picture of {len(data)} bytes, its pixels take {pixels}")
    image = _decode(data, (width, height))
    return np.moveaxis(np.asarray(image), 2, 0)


def _encode(picture: Picture, codec: PictureCodec) -> bytes:
    if codec.format is PictureFormat.UINT8 or not picture.size:
        return picture.tobytes()
    image = Image.fromarray(np.ascontiguousarray(np.moveaxis(picture, 0, 2)))
    file = BytesIO()
    match codec.format:
        case PictureFormat.PNG:
            # On a photograph five times faster than the default level, and 3 % larger.
            image.save(file, "PNG", compress_level=1)
        case PictureFormat.JPEG:
            image.save(file, "JPEG", quality=codec.quality)
    return file.getvalue() if file.tell() < picture.size else picture.tobytes()


def _decode(data: bytes, size: tuple[int, int]) -> Image.Image:
    # Not Image.open: ultralytics replaces it by one that installs packages when a file is broken.
    reader = next((kind for mark, kind in _SIGNATURES.items() if data.startswith(mark)), None)
    if reader is None:
        raise ProtocolError(f"{len(data)} bytes are neither a PNG nor a JPEG nor its pixels")
    if reader is PngImageFile and not _PNG_CHUNKS.issuperset(_chunks(data)):
        raise ProtocolError("a PNG holds more than pixels")
    try:
        image = reader(BytesIO(data))
        _check(image, size)
        image.load()
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's words for a broken file
        raise ProtocolError(f"a picture is broken: {error}") from error
    return image


def _chunks(data: bytes) -> Iterator[bytes]:
    at = len(_PNG)
    while at < len(data):
        yield data[at + 4 : at + 8]
        at += int.from_bytes(data[at : at + 4], "big") + 12


def _check(image: ImageFile, size: tuple[int, int]) -> None:
    if image.size != size or image.mode != "RGB":
        found = f"{image.mode} {image.width} x {image.height}"
        raise ProtocolError(f"a picture is {found}, expected RGB {size[0]} x {size[1]}")
    if "progressive" in image.info:
        raise ProtocolError("a JPEG is progressive: it may paint its pixels thousands of times")
