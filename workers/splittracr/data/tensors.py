"""Tensors of torch in code that has to run without torch."""

import sys
from typing import TYPE_CHECKING, TypeGuard

if TYPE_CHECKING:
    from torch import Tensor


def is_tensor(value: object) -> "TypeGuard[Tensor]":
    """Whether a value is a tensor: never one if torch is not imported."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)
