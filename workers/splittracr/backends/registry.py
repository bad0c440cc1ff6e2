"""Backends by name. A module is imported when its backend is asked for: an edge may lack torch."""

from importlib import import_module
from typing import cast

from splittracr.backends.protocol import Runtime

_MODULES = {"torch": "splittracr.backends.torch.build"}


def load(name: str = "torch") -> Runtime:
    """The backend `name`, which may take seconds to import."""
    return cast(Runtime, import_module(_MODULES[name]))
