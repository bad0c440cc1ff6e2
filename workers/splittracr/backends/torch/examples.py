"""Input batches that are the same on every machine."""

import torch
from torch import Tensor

from splittracr.backends import seeded
from splittracr.models.network import Network


def example_batch(network: Network, batch: int, seed: int = 0) -> Tensor:
    """A seeded random input batch, the same on every machine.

    Bytes for pictures; otherwise values in [-1, 1) made from 24 random bits each.
    """
    made = seeded.random((batch, *network.shape), _dtype(network), seed)
    return torch.from_numpy(made).to(network.input_dtype)


def second_batch(network: Network, batch: int) -> Tensor:
    """Another input batch that is the same on every machine, unlike the random one.

    For pictures a ramp from dark to bright, which starts elsewhere in each channel; otherwise
    random values whose sizes lie between 2**-8 and 2**4.
    """
    shape = (batch, *network.shape)
    if network.input_dtype is torch.uint8:
        return torch.from_numpy(seeded.ramp(shape))
    values = example_batch(network, batch, seed=1)
    if not values.is_floating_point():
        return values
    return torch.from_numpy(seeded.scaled(values.float().numpy())).to(network.input_dtype)


def _dtype(network: Network) -> str:
    return str(network.input_dtype).removeprefix("torch.")
