"""Tensors of torch in code that has to run without torch."""

import sys
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


def is_tensor(value: object) -> "TypeGuard[Tensor]":
    """Whether a value is a tensor: never one if torch is not imported."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def is_array(value: object) -> "TypeGuard[Any]":
    """Whether a value is a tensor of torch or an array of numpy."""
    return isinstance(value, np.ndarray) or is_tensor(value)
