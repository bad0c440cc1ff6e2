"""Post-processors by name: built-in ones, registered ones, and those of other packages.

A module is imported only if its post-processor is used, so that optional packages stay optional.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from splittracr.data.containment import contained
from splittracr.data.contracts import PostProcessor
from splittracr.data.importing import import_object
from splittracr.experiment.errors import InvalidInput, nearest, reason
from splittracr.experiment.spec import PostprocessSpec

Factory = Callable[[PostprocessSpec, tuple[str, ...]], PostProcessor]
"""Makes a post-processor from its settings and the network's class names."""

FIELD = "spec.postprocess.name"
GROUP = "splittracr.postprocessors"
"""Entry-point group in which another package names its factories."""

_HERE = "splittracr.data.postprocess"
_BUILT_IN = {
    "classification": f"{_HERE}.classification:Classification",
    "raw": f"{_HERE}.raw:Raw",
    "semantic-segmentation": f"{_HERE}.semantic:SemanticSegmentation",
    "torchvision-detection": f"{_HERE}.detection:TorchvisionDetection",
    "ultralytics-classify": f"{_HERE}.classification:UltralyticsClassification",
    "ultralytics-detect": f"{_HERE}.yolo:Detect",
    "ultralytics-obb": f"{_HERE}.yolo:OrientedBoxes",
    "ultralytics-pose": f"{_HERE}.yolo:Pose",
    "ultralytics-segment": f"{_HERE}.yolo:Segment",
}
_registered: dict[str, Factory] = {}

F = TypeVar("F", bound=Factory)


def register(name: str) -> Callable[[F], F]:
    """Register a factory as `name`; a decorator.

    Raises ValueError if `name` is built in or has a colon.
    """
    if name in _BUILT_IN or ":" in name:
        raise ValueError(f"{name!r} cannot be registered: it is built in, or has a colon")

    def remember(factory: F) -> F:
        _registered[name] = factory
        return factory

    return remember


def names() -> list[str]:
    """Return all names that `create` knows, sorted."""
    return sorted({*_BUILT_IN, *_registered, *entry_points(group=GROUP).names})


def create(name: str, spec: PostprocessSpec, classes: tuple[str, ...]) -> PostProcessor:
    """Create the post-processor `name`, which may be written `package.module:Class`.

    Raises InvalidInput if there is none, or if it cannot be imported or created.
    """
    factory = _find(name)
    try:
        with contained():
            made = factory(spec, classes)
    except Exception as error:  # the user's class may raise anything
        expected = f"a post-processor that can be created ({reason(error)})"
        raise InvalidInput(FIELD, name, expected) from error
    missing = [m for m in ("reduce", "describe", "draw", "ranking") if not hasattr(made, m)]
    if missing:
        raise InvalidInput(FIELD, name, f"a post-processor that has {', '.join(missing)}")
    return made


def check_reduced(name: str, made: Any, pictures: int) -> None:
    """Raise InvalidInput if `made` is not what `reduce` of `name` has to return for `pictures`."""
    if not isinstance(made, list | tuple):
        got = f"a {type(made).__name__}"
    elif len(made) != pictures:
        got = f"a {type(made).__name__} of {len(made)} for a batch of {pictures}"
    else:
        wrong = next((one for one in made if not isinstance(one, Mapping)), None)
        if wrong is None:
            return
        got = f"a {type(made).__name__} with a {type(wrong).__name__}"
    expected = f"a post-processor (reduce: got {got}, expected a list with one mapping a picture)"
    raise InvalidInput(FIELD, name, expected)


def _find(name: str) -> Factory:
    if name in _registered:
        return _registered[name]
    if name in _BUILT_IN:
        return _built_in(name)
    if ":" in name:
        factory: Factory = import_object(name, FIELD)
        return factory
    for entry in entry_points(group=GROUP, name=name):
        return _load(entry)
    raise InvalidInput(FIELD, name, f"{nearest(name, names())} or package.module:Class")


def _built_in(name: str) -> Factory:
    module, _, attribute = _BUILT_IN[name].partition(":")
    factory: Factory = getattr(import_module(module), attribute)
    return factory


def _load(entry: EntryPoint) -> Factory:
    try:
        with contained():
            factory: Factory = entry.load()
    except Exception as error:  # another package's code may raise anything
        where = f"{entry.name} = {entry.value}"
        expected = f"an entry point that can be imported ({where} failed: {reason(error)})"
        raise InvalidInput(FIELD, entry.name, expected) from error
    return factory
