"""Seeded random weights that are the same on every processor.

torch's own generators give different numbers on different instruction sets. Here the bits come from
numpy's Philox, a counter of integers. One exact conversion and one rounded multiplication make them
float32; IEEE 754 defines both to the last bit.
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_LEVELS = 1 << 15  # each weight is one of 2**16 equidistant values
_BLOCK = 1 << 16  # weights at a time, so that they fit the cache and are not held twice
_RANDOM_FILLS = {"normal_", "trunc_normal_", "uniform_"}
_RANDOM_FILLS |= {f"{family}_{kind}" for family in ("kaiming", "xavier") for kind in _RANDOM_FILLS}

HE_GAIN = 2.0

Keep = Callable[[str], bool]


def keep_none(_name: str) -> bool:
    """Select no parameter, so that all are replaced."""
    return False


@torch.no_grad()
def randomise(module: nn.Module, seed: int, keep: Keep = keep_none, gain: float = HE_GAIN) -> None:
    """Replace the parameters of `module` in place, except those whose name `keep` selects.

    A parameter's values depend only on `seed`, its own dotted name and its shape. Buffers, such as
    running statistics, are unchanged. Weights that sum over inputs are uniform within
    sqrt(3 gain / fan_in), which multiplies the variance by `gain`. The gain 2 (He et al. 2015)
    suits layers with a ReLU between them. Biases are small, scales are near 1 and those of residual
    branches near 0.1.
    """
    for name, parameter in module.named_parameters():
        if not keep(name):
            centre, bound = _range(name, parameter, gain)
            flat, start = parameter.view(-1), 0
            for values in _uniform(seed, name, parameter.numel(), bound):
                values += np.float32(centre)
                flat[start : start + len(values)] = torch.from_numpy(values)
                start += len(values)


class WithoutRandomInit(TorchFunctionMode):
    """Context that sets weights to zero instead of drawing them, because they are replaced later.

    Drawing them takes the largest part of the time to build a large network.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") not in _RANDOM_FILLS:
            return func(*args, **kwargs)
        tensor = args[0] if args else kwargs["tensor"]
        tensor.detach().zero_()
        return tensor


def _range(name: str, parameter: Tensor, gain: float) -> tuple[float, float]:
    """Return the centre of the values and their maximum distance from it."""
    fan_in = parameter[0].numel() if parameter.dim() > 1 else 1
    if fan_in > 1:
        return 0.0, math.sqrt(3 * gain / fan_in)
    if name.endswith("bias"):
        return 0.0, 0.01
    if name.endswith(("gamma", "layer_scale")):
        return 0.1, 0.01
    return 1.0, 0.1


def _uniform(seed: int, name: str, count: int, bound: float) -> Iterator[npt.NDArray[np.float32]]:
    """Yield `count` multiples of bound / 2**15 within [-bound, bound), in blocks."""
    key = hashlib.sha256(f"{seed}\0{name}".encode()).digest()[:16]
    bits: Any = np.random.Philox(key=int.from_bytes(key, "little"))
    unit = np.float32(bound / _LEVELS)
    for start in range(0, count, _BLOCK):
        size = min(_BLOCK, count - start)
        words = bits.random_raw(-(-size // 4)).astype("<u8", copy=False)
        yield words.view("<i2")[:size] * unit
