"""Backends by name. A module is imported when its backend is asked for: an edge may lack torch."""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import cast

from splittracr.backends.protocol import Runtime
from splittracr.experiment.spec import ExperimentSpec
from splittracr.experiment.spec import Runtime as Name

_MODULES = {
    Name.TORCH: "splittracr.backends.torch.build",
    Name.ONNX_RUNTIME: "splittracr.backends.onnx.build",
}


_WITHOUT_TORCH = "splittracr.backends.onnx.lite"


def load(name: Name = Name.TORCH) -> Runtime:
    """The backend of a runtime, which may take seconds to import."""
    module = _WITHOUT_TORCH if needs_export(name) else _MODULES[name]
    return cast(Runtime, import_module(module))


def needs_export(name: Name) -> bool:
    """Whether this machine can run a model in this runtime only after another one exported it."""
    return name is Name.ONNX_RUNTIME and not _has_torch()


def exporter() -> Callable[[ExperimentSpec, Path, Path], None]:
    """Writes the model of a study, whose paths start at a folder, to another folder."""
    found = import_module(_MODULES[Name.ONNX_RUNTIME]).export
    return cast(Callable[[ExperimentSpec, Path, Path], None], found)


def _has_torch() -> bool:
    try:
        return find_spec("torch") is not None
    except ModuleNotFoundError:
        return False
