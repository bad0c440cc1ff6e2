"""Converts values to RGB pictures of 8 bits a channel, or raises an error with advice.

Every picture of every data set passes through here. No value is clipped or reordered without an
error.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from splittracr.data.tensors import is_tensor
from splittracr.experiment.errors import SplittracrError

if TYPE_CHECKING:
    from torch import Tensor

MAX_PIXELS = 89_478_485
"""The maximum of pixels of a picture: 256 MiB of RGB, Pillow's own default."""

_CHANNELS = (1, 3, 4)
_DEEP = ("I", "F")
"""First letter of Pillow's modes with more than 8 bits a channel: I, I;16, I;16B, F and so on."""

_PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}

_ADVICE = (
    "scale the values to 0 to 255 and convert them to uint8, for example "
    "Image.fromarray((values / values_max * 255).round().astype('uint8'))"
)


class UnreadablePicture(SplittracrError):
    """One sample cannot be decoded. The study records it as failed and continues."""


def to_rgb(value: Any, name: str) -> Image.Image:
    """Return the picture in Pillow's mode RGB.

    `value` is a Pillow picture with at most 8 bits a channel, or an array or dense tensor of uint8
    or bool. Its shape is `[H, W]`, `[H, W, C]` or `[C, H, W]` with 1, 3 or 4 channels (with alpha).
    If both orders fit, an array has its channels last and a tensor first, as is usual in numpy and
    torch. Alpha is dropped, as by `Image.convert`. True is 255.

    Raises UnreadablePicture for other values, with `name`, the value and what was expected.
    """
    if isinstance(value, Image.Image):
        return _from_pillow(value, name)
    if is_tensor(value):
        return _from_array(_tensor_values(value, name), name, channels_first=True)
    if isinstance(value, np.ndarray):
        return _from_array(value, name, channels_first=False)
    raise UnreadablePicture(f"{name}: expected a picture, got {type(value).__name__}")


def check_size(width: int, height: int, name: str) -> None:
    """Raise UnreadablePicture for a picture with no pixels, or more than MAX_PIXELS."""
    if not width or not height:
        raise UnreadablePicture(f"{name}: {width} x {height} pixels, expected at least one")
    if width * height > MAX_PIXELS:
        size = f"{width} x {height} pixels"
        raise UnreadablePicture(f"{name}: {size}, the limit is {MAX_PIXELS} pixels in all")


def _from_pillow(image: Image.Image, name: str) -> Image.Image:
    check_size(image.width, image.height, name)
    if image.mode.startswith(_DEEP):  # Pillow would clip these
        raise UnreadablePicture(
            f"{name}: more than 8 bits a channel (Pillow mode {image.mode}); {_ADVICE}"
        )
    if image.mode == "RGB":
        return image
    if image.mode in _PREMULTIPLIED:
        image = image.convert(_PREMULTIPLIED[image.mode])
    elif "transparency" in image.info:  # from P to RGB directly, Pillow warns
        image = image.convert("RGBA")
    return image.convert("RGB")


def _tensor_values(tensor: "Tensor", name: str) -> npt.NDArray[Any]:
    layout, dtype = str(tensor.layout), str(tensor.dtype).removeprefix("torch.")
    if layout != "torch.strided" or tensor.is_quantized:
        kind = "quantized" if tensor.is_quantized else layout
        raise UnreadablePicture(f"{name}: a {kind} tensor; return a dense tensor of uint8")
    if dtype not in ("uint8", "bool"):
        raise _bad_dtype(dtype, name)
    return tensor.detach().cpu().numpy()


def _from_array(values: npt.NDArray[Any], name: str, *, channels_first: bool) -> Image.Image:
    if values.dtype not in (np.uint8, np.bool_):
        raise _bad_dtype(str(values.dtype), name)
    if isinstance(values, np.ma.MaskedArray):
        raise UnreadablePicture(f"{name}: a masked array; fill it with .filled(value)")
    planes = _channels_last(values, name, channels_first=channels_first)
    check_size(planes.shape[1], planes.shape[0], name)
    if planes.dtype == np.bool_:
        planes = planes.astype(np.uint8) * 255
    if planes.shape[2] == 1:
        planes = planes.repeat(3, axis=2)
    return Image.fromarray(np.ascontiguousarray(planes[:, :, :3]))


def _channels_last(
    values: npt.NDArray[Any], name: str, *, channels_first: bool
) -> npt.NDArray[Any]:
    """Return the values as `[H, W, C]`."""
    if values.ndim == 2:
        return values[:, :, None]
    if values.ndim == 3:
        first, last = values.shape[0] in _CHANNELS, values.shape[2] in _CHANNELS
        if first and (channels_first or not last):
            return values.transpose(1, 2, 0)
        if last:
            return values
    batch = ", without a batch dimension" if values.ndim == 4 else ""
    raise UnreadablePicture(
        f"{name}: values of shape {list(values.shape)}; return one picture of shape [H, W], "
        f"[H, W, C] or [C, H, W] with C = 1, 3 or 4{batch}"
    )


def _bad_dtype(dtype: str, name: str) -> UnreadablePicture:
    return UnreadablePicture(
        f"{name}: values of type {dtype}, expected uint8 from 0 to 255; {_ADVICE}; leave out "
        "transforms such as ToTensor and Normalize, the model has its own"
    )
