"""The manifest's `spec.model.input`: a network that takes the data set's tensors as they are."""

import dataclasses

import torch

from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.spec import InputSpec, Source
from splittracr.models.network import Network
from splittracr.models.pictures import FromPixels, Pixels, Scale, Values

FIELD = "spec.model.input"


def taking(network: Network, spec: InputSpec) -> Network:
    """The network for inputs of that shape and type, without normalisation if they are no bytes.

    Raises InvalidInput if it has an input stage of another kind, or another number of dimensions.
    """
    if network.source is Source.CUSTOM:
        return network  # built for them, since its lazy modules run once
    if not isinstance(network.module, FromPixels):
        expected = f"nothing, since {network.name} makes its own values of pictures"
        raise InvalidInput(FIELD, spec.model_dump(mode="json"), expected)
    if len(spec.shape) != len(network.shape):
        expected = f"{len(network.shape)} dimensions for {network.name}, as {list(network.shape)}"
        raise InvalidInput(f"{FIELD}.shape", list(spec.shape), expected)
    dtype: torch.dtype = getattr(torch, spec.dtype.value)
    shaped = dataclasses.replace(network, shape=spec.shape, input_dtype=dtype)
    if dtype is torch.uint8:
        return shaped
    pixels = network.module.pixels
    assert isinstance(pixels, Pixels | Scale)
    return dataclasses.replace(
        shaped,
        module=FromPixels(pixels.values(), network.module.net).eval(),
        leaves=(*network.leaves, Values),
    )
