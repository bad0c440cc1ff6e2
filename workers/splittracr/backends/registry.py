"""Backends by name. A module is imported when its backend is asked for: an edge may lack torch."""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import cast

from splittracr.backends.protocol import Builder, ExitMaker, Runtime
from splittracr.experiment.contracts import Runtime as Name
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.spec import ExperimentSpec

_MODULES = {
    Name.TORCH: "splittracr.backends.torch.build",
    Name.ONNX_RUNTIME: "splittracr.backends.onnx.build",
    Name.CUDA_GRAPHS: "splittracr.backends.torch.cuda_graphs",
}


_WITHOUT_TORCH = "splittracr.backends.onnx.lite"


def load(name: Name = Name.TORCH) -> Runtime:
    """The backend of a runtime, which may take seconds to import.

    Raises ModuleNotFoundError without PyTorch.
    """
    return cast(Runtime, import_module(_MODULES[name]))


def load_edge(name: Name) -> Builder:
    """The backend of an edge: without PyTorch, one that takes an exported model.

    Raises InvalidInput if its packages are not installed on an edge without PyTorch.
    """
    if not needs_export(name):
        return load(name)
    try:
        return cast(Builder, import_module(_WITHOUT_TORCH))
    except ModuleNotFoundError as error:
        expected = (
            f"a runtime that is installed: there is no {error.name} "
            "(pip install 'splittracr[edge-lite]')"
        )
        raise InvalidInput("spec.edge.runtime", name.value, expected) from error


def needs_export(name: Name) -> bool:
    """Whether this machine can run a model in this runtime only after another one exported it."""
    return name is Name.ONNX_RUNTIME and not has_torch()


def exporter() -> Callable[[ExperimentSpec, Path, Path], None]:
    """Writes the model of a study, whose paths start at a folder, to another folder."""
    found = import_module(_MODULES[Name.ONNX_RUNTIME]).export
    return cast(Callable[[ExperimentSpec, Path, Path], None], found)


def exit_maker() -> ExitMaker:
    """Makes exits of networks of PyTorch."""
    return cast(ExitMaker, import_module("splittracr.backends.torch.exits"))


def has_torch() -> bool:
    """Whether PyTorch is installed."""
    try:
        return find_spec("torch") is not None
    except ModuleNotFoundError:
        return False
