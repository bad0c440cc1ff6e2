"""A configuration of tracr as a study."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from splittracr.convert import devices as devices_file
from splittracr.convert.devices import Devices
from splittracr.convert.notes import Fate, Note, Outcome
from splittracr.convert.rules import (
    HAVE_IMAGENET_V1,
    IMAGENET_V1,
    SECTIONS,
    Context,
    codec,
    every_cut,
    pictures_folder,
)
from splittracr.experiment import manifest
from splittracr.experiment.errors import InvalidInput, nearest
from splittracr.experiment.explain import short
from splittracr.experiment.spec import API_VERSION, KIND, LONGEST_NAME

_ENOUGH = ("default", "logging", "dataset", "dataloader", "compression", "experiment")
"""Sections of tracr that say whose configuration it is."""


@dataclass(frozen=True)
class Places:
    """Locations as the manifest names them.

    `path` converts a path of the configuration to one of the manifest. `names_file` is the file for
    class names that the configuration lists itself.
    """

    path: Callable[[str], str]
    names_file: str


@dataclass(frozen=True)
class Converted:
    """A manifest, the outcome for every key, and the class names for a file, if any."""

    manifest: Mapping[str, Any]
    notes: tuple[Note, ...]
    class_names: tuple[str, ...] = ()
    devices: Devices | None = None


def is_configuration(data: Any) -> bool:
    """Whether `data` looks like a configuration of tracr."""
    model = data.get("model") if isinstance(data, dict) else None
    if not isinstance(model, dict) or data.keys() & {"apiVersion", "kind", "spec"}:
        return False
    return bool(model.keys() & {"model_name", "split_layer"} or data.keys() & set(_ENOUGH))


def is_devices(data: Any) -> bool:
    """Whether `data` looks like a devices file of tracr."""
    listed = data.get("devices") if isinstance(data, dict) else None
    return isinstance(listed, list) and any(
        isinstance(one, dict) and "device_type" in one for one in listed
    )


def convert(
    data: Any,
    origin: str,
    name: str,
    places: Places,
    devices: tuple[Any, str] | None = None,
) -> Converted:
    """The study in a configuration of tracr, read from `origin`.

    `name` becomes the study's name as far as Kubernetes takes it. `devices` is a devices file and
    its origin. Raises InvalidInput naming file, key, value and what was expected.
    """
    sections = _sections(data, origin)
    ends = None if devices is None else devices_file.read(*devices)
    context = Context(sections, places.path, places.names_file)
    notes = (*_notes(context), *(ends.notes() if ends else ()), *_added(context))
    made = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": study_name(name)},
        "spec": _spec(notes),
    }
    manifest.from_object(made)
    return Converted(made, notes, _listed_names(context, notes), ends)


def study_name(name: str) -> str:
    """`name` changed to a valid name in Kubernetes."""
    parts = re.sub(r"[^a-z0-9.]+", "-", name.lower())[:LONGEST_NAME].split(".")
    return ".".join(filter(None, (part.strip("-") for part in parts))) or "study"


def _sections(data: Any, origin: str) -> dict[str, dict[str, Any]]:
    """The sections with checked values; one that is null is empty."""
    if not isinstance(data, dict):
        raise InvalidInput(origin, short(data), f"a mapping with {', '.join(SECTIONS)}")
    found = {}
    for section, values in data.items():
        if section not in SECTIONS:
            expected = f"a known section, {nearest(section, SECTIONS)}"
            raise InvalidInput(f"{origin}: {section}", short(values), expected)
        if not isinstance(values, dict | None):
            keys = ", ".join(SECTIONS[section])
            raise InvalidInput(f"{origin}: {section}", short(values), f"a mapping with {keys}")
        found[section] = values or {}
        for key, value in found[section].items():
            _check(section, key, value, origin)
    _require_name(found.get("model", {}), origin)
    return found


def _check(section: str, key: str, value: Any, origin: str) -> None:
    where, keys = f"{origin}: {section}.{key}", SECTIONS[section]
    if key not in keys:
        raise InvalidInput(where, short(value), f"a known key, {nearest(key, keys)}")
    expected = None if value is None else keys[key].check(value)
    if expected is not None:
        raise InvalidInput(where, short(value), expected)


def _require_name(model: Mapping[str, Any], origin: str) -> None:
    names = [model[key] for key in ("model_name", "name") if model.get(key) is not None]
    if not names:
        raise InvalidInput(f"{origin}: model.model_name", None, "a value, it is required")
    if len({name.lower() for name in names}) > 1:
        raise InvalidInput(f"{origin}: model.name", names[1], f"model.model_name, {names[0]}")


def _notes(context: Context) -> Iterator[Note]:
    for section, values in context.sections.items():
        for key, value in values.items():
            outcome = Outcome(Fate.CARRIED, reason="null is a key left out")
            if value is not None:
                outcome = SECTIONS[section][key].becomes(value, context)
            yield Note(f"{section}.{key}", value, outcome)


def _added(context: Context) -> Iterator[Note]:
    """Behaviour of tracr for missing keys whose defaults differ from the manifest's."""

    def added(key: str, reason: str, **sets: Any) -> Note:
        paths = {path.replace("__", "."): value for path, value in sets.items()}
        return Note(key, None, Outcome(Fate.ADDED, paths, reason))

    if context.get("model.split_layer") is None:
        yield Note("model.split_layer", None, Outcome(Fate.ADDED, every_cut(), "every cut"))
    weights = (context.get("model.pretrained"), context.get("model.weight_path"))
    if weights == (None, None) and HAVE_IMAGENET_V1.fullmatch(context.model):
        yield added("model.pretrained", "the set that tracr loads", model__weights=IMAGENET_V1)
    if not context.sections.get("compression"):
        yield added("compression", "tracr's default", transport__codec=codec(context))
    if context.get("dataset.class") is None and pictures_folder(context) is None:
        yield added("dataset.root", "the pictures shipped here", dataset__source="Samples")


def _spec(notes: tuple[Note, ...]) -> dict[str, Any]:
    """The fields that the notes set, in the manifest's order."""
    spec: dict[str, Any] = {
        "model": {},
        "dataset": {},
        "partition": {},
        "transport": {},
        "workload": {},
    }
    for note in notes:
        for path, value in note.outcome.sets.items():
            section, _, key = path.partition(".")
            if value is not None:
                spec.setdefault(section, {})[key] = value
    if "path" in spec["dataset"]:
        spec["dataset"] = {"source": "Folder", **spec["dataset"]}
    return {section: values for section, values in spec.items() if values}


def _listed_names(context: Context, notes: tuple[Note, ...]) -> tuple[str, ...]:
    used = any(note.outcome.sets.get("dataset.classNames") for note in notes)
    names = context.get("dataset.class_names")
    return tuple(names) if used and isinstance(names, list) else ()
