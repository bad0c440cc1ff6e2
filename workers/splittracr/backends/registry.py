"""Backends by name. A module is imported when its backend is asked for: an edge may lack torch."""

from importlib import import_module
from typing import cast

from splittracr.backends.protocol import Runtime
from splittracr.experiment.spec import Runtime as Name

_MODULES = {
    Name.TORCH: "splittracr.backends.torch.build",
    Name.ONNX_RUNTIME: "splittracr.backends.onnx.build",
}


def load(name: Name = Name.TORCH) -> Runtime:
    """The backend of a runtime, which may take seconds to import."""
    return cast(Runtime, import_module(_MODULES[name]))
