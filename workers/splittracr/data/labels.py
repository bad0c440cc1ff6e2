"""Matches the labels of a data set with the network's classes.

The rule is the same for all data sets whose labels have names. Each name is resolved separately, in
this order: as a class name of the network, as an ImageNet id (`n01440764`) if the network's classes
are those of ImageNet, as a class index (`134`). If no name can be resolved, the order of the names
may be used instead, under the conditions of `match`.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from splittracr.experiment.errors import InvalidInput, similar

BY_NAME, BY_ID, BY_INDEX = "by class name", "by ImageNet id", "by class index"

_INDEX = re.compile(r"[0-9]{1,9}")
_SHARED = {"crane": (134, 517), "maillot": (638, 639)}
"""Names that two synsets of ImageNet share. Some lists of its classes rename one of them."""

_ENDS = ("tench", "toilet")  # how the first and the last of ImageNet's 1,000 classes begin


@dataclass(frozen=True)
class Matching:
    """The class of the network for each label; None if a label is the class itself.

    `rule` describes in a sentence how they were matched; None for a data set without class names.
    """

    classes: tuple[int, ...] | None = None
    rule: str | None = None


def match(
    names: Sequence[str] | None,
    known: Sequence[str],
    outputs: int | None = None,
    *,
    folders: bool,
    field: str | None = None,
    ordered: bool = True,
) -> Matching:
    """Match the `names` of a data set's labels with the classes of a network.

    `known` are the network's class names, empty if it has none. `outputs` is the number of its
    classes if known. The order of the names is used only if there are as many names as classes.
    With `folders` the names are those of folders, in alphabetical order, which is used only for a
    network without class names. Errors name `field`; None is the one of folders or of a class.
    Names that are not `ordered` are never matched by position.

    Raises InvalidInput for a name that several classes have, several names of one class, an index
    out of range, and a name that cannot be resolved.
    """
    if not names:
        return Matching()
    if list(names) == list(known):
        return Matching(None, "Labels: the data set's classes are the model's.")
    outputs = len(known) or outputs
    field = field or ("spec.dataset.path" if folders else "spec.dataset.class")
    found = {name: _resolve(name, names, known, outputs, field) for name in names}
    resolved = {name: one for name, one in found.items() if one is not None}
    if ordered and not resolved and _order_counts(names, known, outputs, folders=folders):
        return Matching(None, _by_position(names, known, folders=folders))
    for name, one in found.items():
        if one is None:
            raise InvalidInput(field, name, _expected(name, names, known, outputs))
    _refuse_twice(names, resolved, field)
    kinds = Counter(resolved[name][1] for name in names)
    how = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    return Matching(
        tuple(resolved[name][0] for name in names),
        f"Labels: {_count(len(names), 'class', 'classes')} matched with the model's, {how}.",
    )


def left_out(folders: Sequence[str], files: int) -> str | None:
    """Describe in a sentence what was left out of a labelled folder; None for nothing.

    `folders` are the names of folders without pictures. `files` is the number of pictures beside
    the folders.
    """
    parts = []
    if folders:
        some = ", ".join(folders[:3]) + (", …" if len(folders) > 3 else "")
        parts.append(f"{_count(len(folders), 'folder', 'folders')} without pictures ({some})")
    if files:
        parts.append(f"{_count(files, 'picture', 'pictures')} in no class folder")
    return f"Left out: {' and '.join(parts)}." if parts else None


def _resolve(
    name: str, names: Sequence[str], known: Sequence[str], outputs: int | None, field: str
) -> tuple[int, str] | None:
    """Return the class of `name`, and how it was resolved."""
    places = [i for i, one in enumerate(known) if _composed(one) == _composed(name)]
    shared = _SHARED.get(name, ()) if _is_imagenet(known) else ()
    if not all(known[i] in names for i in shared):
        places = list(shared)
    if len(places) > 1:
        expected = (
            f"one class: classes {_listed(places)} have this name; name it by class index, "
            f"such as {places[0]}"
        )
        raise InvalidInput(field, name, expected)
    if places:
        return places[0], BY_NAME
    if _is_imagenet(known) and name in _wnids():
        return _wnids()[name], BY_ID
    if not _INDEX.fullmatch(name):
        return None
    if outputs is not None and int(name) >= outputs:
        raise InvalidInput(field, name, f"a class index from 0 to {outputs - 1}")
    return int(name), BY_INDEX


def _composed(name: str) -> str:
    """Return the name with each accented letter as one character; macOS uses two for folders."""
    return unicodedata.normalize("NFC", name)


def _order_counts(
    names: Sequence[str], known: Sequence[str], outputs: int | None, *, folders: bool
) -> bool:
    return not (folders and known) and outputs in (None, len(names))


def _by_position(names: Sequence[str], known: Sequence[str], *, folders: bool) -> str:
    last = len(names) - 1
    order = "in alphabetical order" if folders else "in the order of the data set"
    ends = [f"{names[i]!r} is class {i}" + (f" {known[i]!r}" if known else "") for i in (0, last)]
    why = "none is a class name of the model" if known else "the model has no class names"
    return f"Labels: matched by position {order}, since {why}: {' … '.join(dict.fromkeys(ends))}."


def _expected(name: str, names: Sequence[str], known: Sequence[str], outputs: int | None) -> str:
    highest = "" if outputs is None else f" from 0 to {outputs - 1}"
    forms = [f"a class index{highest}"]
    if _is_imagenet(known):
        forms.insert(0, "an ImageNet id such as n01440764")
    if known:
        close = similar(name, known)
        forms.insert(0, "a class name of the model" + (f" ({', '.join(close)})" if close else ""))
        return " or ".join([", ".join(forms[:-1]), forms[-1]])
    if outputs in (None, len(names)):  # names without an order
        return forms[0]
    return f"{forms[0]}, or {outputs} names, one for each output of the model, not {len(names)}"


def _refuse_twice(
    names: Sequence[str], resolved: Mapping[str, tuple[int, str]], field: str
) -> None:
    first: dict[int, str] = {}
    for name in names:
        place = resolved[name][0]
        if place in first:
            expected = f"one name a class: {first[place]!r} is class {place} too"
            raise InvalidInput(field, name, expected)
        first[place] = name


def _is_imagenet(known: Sequence[str]) -> bool:
    return len(known) == len(_wnids()) and all(
        name.startswith(begin) for name, begin in zip((known[0], known[-1]), _ENDS, strict=True)
    )


@cache
def _wnids() -> Mapping[str, int]:
    """Return the class of each id of ILSVRC 2012, whose classes are in the order of their ids."""
    text = resources.files(__package__).joinpath("wnids.txt").read_text("ascii")
    return {wnid: place for place, wnid in enumerate(text.split())}


def _listed(numbers: Iterable[int]) -> str:
    *others, last = map(str, numbers)
    return f"{', '.join(others)} and {last}"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
