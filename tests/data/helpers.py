"""What tests of several post-processors do."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


def travelled(reduced: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same after a trip as bytes, shape and dtype, which is all that the wire carries."""
    arrived = {}
    for name, tensor in reduced.items():
        sent = tensor.numpy()
        assert sent.flags["C_CONTIGUOUS"]
        assert tensor.untyped_storage().nbytes() == sent.nbytes, f"{name} holds more than itself"
        array = np.frombuffer(bytearray(sent.tobytes()), sent.dtype).reshape(sent.shape)
        arrived[name] = torch.from_numpy(array)
    return arrived


def size_of(reduced: Mapping[str, Tensor]) -> int:
    """Bytes of all tensors."""
    return sum(t.numel() * t.element_size() for t in reduced.values())
