"""Whether an exported model is the one that a manifest asks for. Needs no torch.

With a server, the handshake compares the two ends. An edge alone has nothing else to compare with.
"""

import os
from pathlib import Path

import msgspec
import onnxruntime

from splittracr.backends import exported, settings
from splittracr.backends.exported import ExportedModel
from splittracr.experiment.contracts import Runtime
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.spec import ExperimentSpec
from splittracr.wire.identity import parsed_settings
from splittracr.wire.messages import Identity

_NAME, _POSTPROCESSOR = "spec.model.name", "spec.postprocess.name"
_SOURCE = "as in the exported model"
_APPLIED_HERE = ("spec.model.exactness", "spec.model.tolerancePerMillion", settings.CLASS_NAMES)
"""Settings that an export does not fix, beside the numbers of a post-processor."""


def check(model: ExportedModel, spec: ExperimentSpec, base: Path) -> None:
    """Raise InvalidInput if `model` is not the manifest's, or this machine cannot run it.

    The error names the field, its value, and that of the export.
    """
    _check_settings(model, spec)
    _check_weights(model, spec, base)
    _check_machine(model)


def _check_settings(model: ExportedModel, spec: ExperimentSpec) -> None:
    identity = msgspec.convert(model.identity, Identity)
    there = parsed_settings(identity.settings)
    here = parsed_settings(settings.text((), spec))
    # A setting that is new in this version is not in an older export.
    for name in sorted(filter(_is_fixed, there), key=lambda name: (name != _NAME, name)):
        _compare(name, here.get(name), there[name])
    _compare("spec.workload.batchSize", spec.workload.batch_size, identity.batch)
    _compare("spec.results.outputs", spec.results.outputs, identity.outputs)


def _is_fixed(name: str) -> bool:
    """Whether an export fixes a setting: another value needs another export."""
    applied = name.startswith("spec.postprocess.") and name != _POSTPROCESSOR
    return not applied and name not in _APPLIED_HERE


def _compare(field: str, here: object, there: object) -> None:
    if here != there:
        found = "no value" if there is None else repr(there)
        raise InvalidInput(field, here, f"{found}, {_SOURCE}")


def _check_weights(model: ExportedModel, spec: ExperimentSpec, base: Path) -> None:
    """Compare the weights file by name, and by content if it is on this machine."""
    field, given, there = "spec.model.weightsFile", spec.model.weights_file, model.weights_file
    if there is None:
        _compare(field, given, None)
        return
    if given is None or Path(given).name != there.name:
        raise InvalidInput(field, given, f"a file named {there.name!r}, {_SOURCE}")
    path = base / os.path.expanduser(given)  # noqa: PTH111 - without a home it is not here
    here = os.path.exists(path)  # noqa: PTH110 - False without permission, where Path's raises
    wrong = exported.difference(path, there) if here else None
    if wrong is not None:
        raise InvalidInput(field, given, f"the file of the exported model ({wrong})")


def _check_machine(model: ExportedModel) -> None:
    if model.runtime != onnxruntime.__version__:
        raise InvalidInput(
            "spec.edge.runtime",
            f"{Runtime.ONNX_RUNTIME.value} {onnxruntime.__version__}",
            f"version {model.runtime}, by which the server has proven the cuts",
        )
    if model.pictures and model.prepared is None:
        raise InvalidInput(
            _NAME,
            model.name,
            "a model whose pictures Pillow prepares: those of this one are resized by PyTorch or "
            "OpenCV, so its edge needs an image with PyTorch",
        )
