"""Imports torchvision without torch's compiler, which takes a quarter of a worker's start.

torchvision imports one function of `torch._dynamo`, which ROI align calls on a GPU in deterministic
mode. Stand-ins take the place of the compiler while torchvision is imported. If anything else in
them is accessed, they import the compiler.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

_PACKAGE, _UTILS = "torch._dynamo", "torch._dynamo.utils"


class _StandIn(ModuleType):
    """A module that is replaced by the real one when an attribute is missing."""

    def __getattr__(self, attribute: str) -> Any:
        for_submodule = (self.__name__, attribute) == (_PACKAGE, "__path__")
        if (
            attribute.startswith("__") and not for_submodule
        ):  # asked for by the import system itself
            raise AttributeError(attribute)
        _remove()
        return getattr(import_module(self.__name__), attribute)


def import_torchvision() -> None:
    """Import torchvision. If the compiler is imported already, there is nothing to save."""
    import_module("torch")  # which must not see the stand-ins
    if _PACKAGE not in sys.modules:
        sys.modules |= {_PACKAGE: _StandIn(_PACKAGE), _UTILS: _StandIn(_UTILS)}
        vars(sys.modules[_UTILS])["is_compile_supported"] = _is_compile_supported
    try:
        import_module("torchvision")
    finally:
        _remove()


def _is_compile_supported(device: Any) -> Any:
    return import_module(_UTILS).is_compile_supported(device)


def _remove() -> None:
    for name in (_PACKAGE, _UTILS):
        if isinstance(sys.modules.get(name), _StandIn):
            del sys.modules[name]
