"""The post-processors that work on arrays of numpy as on tensors, for edges without PyTorch."""

from collections.abc import Callable
from typing import Protocol

from splittracr.data.contracts import PostProcessor
from splittracr.data.postprocess.classification import Classification, UltralyticsClassification
from splittracr.data.postprocess.raw import Layout, Raw
from splittracr.data.postprocess.semantic import SemanticSegmentation
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.spec import PostprocessSpec

_KNOWN: dict[str, Callable[[PostprocessSpec, tuple[str, ...]], PostProcessor]] = {
    "classification": Classification,
    "semantic-segmentation": SemanticSegmentation,
    "ultralytics-classify": UltralyticsClassification,
}


class Places(Protocol):
    """Places in an output, by which the parts of a picture are found."""

    @property
    def lists(self) -> tuple[str, ...]: ...

    @property
    def common(self) -> tuple[str, ...]: ...


def factory(
    name: str, spec: PostprocessSpec, layout: Places | None
) -> Callable[[tuple[str, ...]], PostProcessor]:
    """The function that makes the post-processor `name` for class names.

    Raises InvalidInput if it needs PyTorch.
    """
    if name == "raw":
        found = None
        if layout is not None:
            found = Layout(frozenset(layout.lists), frozenset(layout.common))
        return lambda classes: Raw(spec, classes, found)
    made = _KNOWN.get(name)
    if made is None:
        expected = f"one of {', '.join(sorted([*_KNOWN, 'raw']))} on an edge without PyTorch"
        raise InvalidInput("spec.postprocess.name", name, expected)
    return lambda classes: made(spec, classes)
