"""The manifest's `spec.dataset.transform`: a callable of the user between data set and network."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from splittracr.data.containment import contained
from splittracr.data.contracts import Dataset, Sample
from splittracr.data.importing import import_with_module
from splittracr.data.rgb import UnreadablePicture, to_rgb
from splittracr.data.tensors import is_tensor
from splittracr.experiment.errors import InvalidInput, reason
from splittracr.experiment.spec import DatasetSpec

FIELD = "spec.dataset.transform"


class Transform:
    """The callable, and the module that the manifest names, whose file is the user's code."""

    def __init__(self, call: Callable[[Any], Any], module: str) -> None:
        self._call = call
        self.__module__ = module  # where `splitting.sources` looks for the file

    def __call__(self, value: Any) -> Any:
        return self._call(value)


@dataclass(frozen=True)
class Transformed:
    """A data set whose pictures or tensors go through `transform`; names and labels stay."""

    inner: Dataset
    transform: Transform

    def __len__(self) -> int:
        return len(self.inner)

    def name(self, index: int) -> str:
        """Return the name that the sample has without the transform."""
        return self.inner.name(index)

    def load(self, index: int) -> Sample:
        """Return the transformed sample. Raises the errors of data set and transform, and
        UnreadablePicture if there are boxes or a mask and the picture has another size now.
        """
        given = self.inner.load(index)
        value = given.data if given.picture is None else given.picture
        made = sample(self.transform(value), given.name, given.label)
        if given.boxes is None and given.mask is None:
            return made
        if made.picture is None or given.picture is None or made.picture.size != given.picture.size:
            expected = "a picture of the same size, or its labels do not fit"
            raise UnreadablePicture(f"{given.name}: expected {expected}, from {FIELD}")
        return replace(made, boxes=given.boxes, mask=given.mask)

    @property
    def classes(self) -> Sequence[str] | None:
        """The classes of the data set."""
        return self.inner.classes

    @property
    def left_out(self) -> str | None:
        """The data set's note on samples that are left out."""
        return getattr(self.inner, "left_out", None)


def applied(inner: Dataset, spec: DatasetSpec) -> Transformed:
    """The data set with the manifest's transform.

    Raises InvalidInput if there is no such callable, or if it cannot be created with its arguments.
    """
    assert spec.transform is not None
    module, found = import_with_module(spec.transform, FIELD)
    if isinstance(found, type):
        found = _made(found, spec.transform, spec.transform_args or {})
    elif spec.transform_args:
        found = partial(found, **spec.transform_args)
    if not callable(found):
        kind = type(found).__name__
        expected = f"something that can be called with a picture, not {kind}"
        raise InvalidInput(FIELD, spec.transform, expected)
    return Transformed(inner, Transform(found, module.__name__))


def _made(found: type, path: str, args: Mapping[str, Any]) -> Any:
    try:
        with contained():
            return found(**args)
    except TypeError as error:
        expected = f"arguments that {path} takes ({error})"
        raise InvalidInput("spec.dataset.transformArgs", dict(args), expected) from error
    except Exception as error:  # the user's class may raise anything
        expected = f"a class that can be made ({reason(error)})"
        raise InvalidInput(FIELD, path, expected) from error


def code(dataset: object) -> tuple[Any, ...]:
    """The objects whose classes and functions are the user's code that makes samples."""
    if isinstance(dataset, Transformed):
        return (*code(dataset.inner), dataset.transform)
    return (getattr(dataset, "inner", dataset),)


def sample(value: Any, name: str, label: int | None) -> Sample:
    """The sample of a picture, an array of one, or a tensor, which is passed on unchanged.

    Raises UnreadablePicture for another value.
    """
    if is_tensor(value):
        return Sample(name, data=value, label=label)
    if isinstance(value, Image.Image | np.ndarray):
        return Sample(name, picture=to_rgb(value, name), label=label)
    kind = type(value).__name__
    raise UnreadablePicture(f"{name}: expected a picture or a tensor, got {kind}")
