"""Marks on the fields of a manifest: which may change after the start, and which define records.

A mark is in the field's annotation, `Annotated[CutRef | None, LIVE]`. A mark on an object holds for
all of its fields. A field without a mark is fixed once the study has started.
"""

from collections.abc import Iterator
from enum import Enum
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo


class Mark(Enum):
    """A property of a field."""

    LIVE = "may change while the study runs"
    UNTIL_REPORT = "may change until an edge has reported"
    DEFINES = "defines the records; a study that continues must have the same value"


LIVE, UNTIL_REPORT, DEFINES = Mark.LIVE, Mark.UNTIL_REPORT, Mark.DEFINES

Path = tuple[str, ...]
"""Keys from `spec` down, as the manifest spells them."""


def marked(model: type[BaseModel], mark: Mark) -> list[Path]:
    """Return the paths of the fields of `model` with this mark, in order."""
    return list(_marked(model, mark, ()))


def fixed(model: type[BaseModel]) -> list[tuple[Path, bool]]:
    """Return the paths that may not change once the study has started.

    Each comes with whether its key may be missing. An object without fields that may change is one
    path.
    """
    return list(_fixed(model, ()))


def _marked(model: type[BaseModel], mark: Mark, path: Path) -> Iterator[Path]:
    for key, field in _fields(model):
        if mark in field.metadata:
            yield (*path, key)
        elif (inner := _model(field.annotation)) is not None:
            yield from _marked(inner, mark, (*path, key))


def _fixed(model: type[BaseModel], path: Path) -> Iterator[tuple[Path, bool]]:
    for key, field in _fields(model):
        if LIVE in field.metadata or UNTIL_REPORT in field.metadata:
            continue
        inner = _model(field.annotation)
        if inner is not None and (marked(inner, LIVE) or marked(inner, UNTIL_REPORT)):
            yield from _fixed(inner, (*path, key))
        else:
            # The schema has no default for these: the key is missing if the manifest omits it.
            yield (*path, key), field.default in (None, ())


def _fields(model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        yield field.alias or name, field


def _model(annotation: Any) -> type[BaseModel] | None:
    """The model of a field that holds one, or one or None."""
    options = [part for part in (get_args(annotation) or (annotation,)) if part is not type(None)]
    if len(options) == 1 and isinstance(options[0], type) and issubclass(options[0], BaseModel):
        return options[0]
    return None
