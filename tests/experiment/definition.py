"""The CRD's schema for tests, and a study that the models and the API server both read."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from splittracr.experiment import crd, manifest
from splittracr.experiment.crd import Schema
from splittracr.experiment.explain import models_in
from splittracr.experiment.spec import SplitExperiment
from tests.experiment.apiserver import admit

VERSION = crd.definition()["spec"]["versions"][0]
SCHEMA: Schema = VERSION["schema"]["openAPIV3Schema"]
SPEC: Schema = SCHEMA["properties"]["spec"]
STATUS: Schema = SCHEMA["properties"]["status"]


def nodes(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    yield path, schema
    for name, field in schema.get("properties", {}).items():
        yield from nodes(field, f"{path}.{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        yield from nodes(schema["additionalProperties"], f"{path}.*")


ALL = dict(nodes(SCHEMA))


def models(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        for inner in models_in(field.annotation):
            yield from models(inner)


def same_study(data: dict[str, Any]) -> SplitExperiment:
    """The API server's defaults change nothing: what it stores is the study that was written."""
    stored = admit(data, SCHEMA)
    assert manifest.from_object(stored) == manifest.from_object(data)
    return manifest.from_object(data)
