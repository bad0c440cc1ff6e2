"""All networks by name. Each family is in a module of its own, which is imported when needed.

A family is a module with `names() -> list[str]` and `build(spec, base) -> Network`.
"""

import re
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from splittracr.experiment.errors import InvalidInput, nearest
from splittracr.experiment.spec import (
    TIMM_PREFIX,
    TRANSFORMERS_PREFIX,
    Letterbox,
    ModelSpec,
    Source,
)
from splittracr.models.custom import register as register  # for users: models.registry.register
from splittracr.models.network import Network

_HERE = "splittracr.models"
_FAMILIES = {  # in the order in which a name is looked up, the quickest first
    Source.CUSTOM: f"{_HERE}.custom",
    Source.EFFICIENTNET_LITE: f"{_HERE}.efficientnet_lite",
    Source.ULTRALYTICS: f"{_HERE}.ultralytics",
    Source.TORCHVISION: f"{_HERE}.torchvision",
    Source.TIMM: f"{_HERE}.timm",
    Source.TRANSFORMERS: f"{_HERE}.transformers",
}

_PREFIXES = {TIMM_PREFIX: Source.TIMM, TRANSFORMERS_PREFIX: Source.TRANSFORMERS}


class Family(Protocol):
    """The interface of a family's module."""

    def names(self) -> list[str]:
        """Return the names of the family's networks, without building any."""

    def build(self, spec: ModelSpec, base: Path) -> Network:
        """Build the network of `spec`."""


def names() -> dict[Source, list[str]]:
    """Return the names that `build` knows, by family; none of a family that is not installed."""
    return {source: _family(source).names() for source in Source}


def build(spec: ModelSpec, base: Path = Path()) -> Network:
    """Build the network of `spec` with its weights, in eval mode on the CPU.

    Relative paths start at `base`. Raises InvalidInput with the field and what was expected, and
    SplittracrError if an optional package or a download is missing.
    """
    source = spec.source or _source(spec.name)
    if spec.letterbox is not Letterbox.SQUARE and source is not Source.ULTRALYTICS:
        expected = f"Square, only networks of ultralytics have it and {spec.name} is not one"
        raise InvalidInput("spec.model.letterbox", spec.letterbox.value, expected)
    network = _family(source).build(spec, base)
    if spec.input is None:
        return network
    # Imported here, because registering must not need torchvision.
    from splittracr.models import inputs

    return inputs.taking(network, spec.input)


def _source(name: str) -> Source:
    """Return the family of `name`. InvalidInput lists the nearest names of all families."""
    for prefix, source in _PREFIXES.items():
        if name.startswith(prefix):
            return source
    if ":" in name:
        return Source.CUSTOM
    for source in _FAMILIES:
        if name in _family(source).names():
            return source
    if re.match(r"(yolo|rtdetr)", name) and not _family(Source.ULTRALYTICS).names():
        return Source.ULTRALYTICS  # its `build` raises an error that names the missing extra
    closest = nearest(name, [known for family in names().values() for known in family])
    families = "torchvision, ultralytics, efficientnet_lite, timm, transformers or custom"
    raise InvalidInput(
        "spec.model.name", name, f"a model of {families}, {closest}; `splittracr models` lists all"
    )


def _family(source: Source) -> Family:
    return cast(Family, import_module(_FAMILIES[source]))
