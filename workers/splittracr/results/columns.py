"""Flat models as data frames: one column a field, in order."""

import types
from collections.abc import Iterable
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin

import polars as pl
from pydantic import BaseModel


def table(model: type[BaseModel], rows: Iterable[BaseModel]) -> pl.DataFrame:
    """The rows with the columns of `model`; null if a value is missing."""
    schema = {
        field.alias or name: _column(field.annotation) for name, field in model.model_fields.items()
    }
    content = [row.model_dump(mode="json", by_alias=True) for row in rows]
    return pl.DataFrame(content, schema=schema, orient="row")


def _column(annotation: Any) -> type[pl.DataType]:
    if get_origin(annotation) in (Union, types.UnionType):
        (annotation,) = (part for part in get_args(annotation) if part is not type(None))
    if isinstance(annotation, type) and issubclass(annotation, Enum | str):
        return pl.String
    return pl.Int64 if get_origin(annotation) is Literal else _COLUMNS[annotation]


_COLUMNS: dict[Any, type[pl.DataType]] = {
    int: pl.Int64,
    float: pl.Float64,
    bool: pl.Boolean,
}
