"""Input batches that are the same on every machine."""

import math

import numpy as np
import torch
from torch import Tensor

from splittracr.models.network import Network


def example_batch(network: Network, batch: int, seed: int = 0) -> Tensor:
    """A seeded random input batch, the same on every machine.

    Bytes for pictures; otherwise values in [-1, 1) made from 24 random bits each.
    """
    shape = (batch, *network.shape)
    draw = np.random.Generator(np.random.Philox(seed))
    if network.input_dtype is torch.uint8:
        return torch.from_numpy(draw.integers(0, 256, shape, dtype=np.uint8))
    bits = draw.integers(-(2**23), 2**23, shape, dtype=np.int32)
    return (torch.from_numpy(bits).to(torch.float32) / 2**23).to(network.input_dtype)


def second_batch(network: Network, batch: int) -> Tensor:
    """Another input batch that is the same on every machine, unlike the random one.

    For pictures a ramp from dark to bright, which starts elsewhere in each channel; otherwise
    random values whose sizes lie between 2**-8 and 2**4.
    """
    shape = (batch, *network.shape)
    if network.input_dtype is torch.uint8:
        rows = max(math.prod(shape[:-2]), 1)
        pixels = np.arange(math.prod(shape[-2:]), dtype=np.int64) * 256 // math.prod(shape[-2:])
        starts = np.arange(rows, dtype=np.int64)[:, None] * 85
        ramp = ((pixels[None] + starts) % 256).astype(np.uint8)
        return torch.from_numpy(ramp.reshape(shape))
    values = example_batch(network, batch, seed=1)
    if not values.is_floating_point():
        return values
    exponents = np.arange(values.numel(), dtype=np.int32).reshape(shape) % 13 - 8
    scaled = np.ldexp(values.to(torch.float32).numpy(), exponents)  # exact
    return torch.from_numpy(scaled).to(network.input_dtype)
