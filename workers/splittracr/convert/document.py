"""A converted study as text: the manifest, with comments on every key at the top."""

import json
from collections.abc import Iterator

from splittracr.convert.notes import Fate, Note
from splittracr.convert.study import Converted
from splittracr.experiment import document
from splittracr.experiment.explain import short


def text(converted: Converted, command: str, file: str) -> str:
    """The manifest, after comments on how it was made; `file` is its own name."""
    lines = [f"Made by `{command}`.", "", *report(converted, file)]
    comments = "".join(f"# {line}".rstrip() + "\n" for line in lines)
    return comments + document.dump(dict(converted.manifest))


def report(converted: Converted, file: str) -> list[str]:
    """The outcome for every key, and how to start both ends, in lines."""
    lines: list[str] = []
    for fate in Fate:
        found = [note for note in converted.notes if note.outcome.fate is fate]
        if found:
            lines += [f"{fate}:", *(f"  {line(note)}" for note in found)]
    if converted.devices is not None:
        lines += ["On two machines:", *(f"  {one}" for one in converted.devices.commands(file))]
    return lines


def line(note: Note) -> str:
    """`model.split_layer: 12 -> spec.partition.layer: 12 (the cut after layer 12)`."""
    fates = note.outcome
    sets = ", ".join(_sets(note))
    value = "missing" if fates.fate is Fate.ADDED else _line(note.value)
    arrow = f" -> {sets}" if sets else ""
    return f"{note.key}: {value}{arrow}" + (f" ({fates.reason})" if fates.reason else "")


def _sets(note: Note) -> Iterator[str]:
    for path, value in note.outcome.sets.items():
        yield f"spec.{path} left out" if value is None else f"spec.{path}: {_line(value)}"


def _line(value: object) -> str:
    """A value as JSON in one line, which text without odd characters is by itself."""
    plain = isinstance(value, str) and value.isascii() and value.isprintable()
    return str(short(str(value) if plain else json.dumps(value)))
