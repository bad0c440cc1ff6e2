"""Labels of a data set in terms of the network's classes.

One rule for every data set whose labels have names. Each name is resolved by itself: as a class
name of the network, as an ImageNet id (`n01440764`) if the network's classes are those of ImageNet,
or as a class index (`134`), tried in this order. If no name is resolved, the order of the names may
count instead; `match` says when.
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
"""Names that two synsets of ImageNet have; lists of its classes tell them apart, or do not."""

_ENDS = ("tench", "toilet")  # how the first and the last of ImageNet's 1,000 classes begin


@dataclass(frozen=True)
class Matching:
    """How labels become classes of the network.

    `classes` has the class of each label; None if a label is the class itself. `rule` says in a
    sentence how that was found; None for a data set that has no class names.
    """

    classes: tuple[int, ...] | None = None
    rule: str | None = None


def match(
    names: Sequence[str] | None,
    known: Sequence[str],
    outputs: int | None = None,
    *,
    folders: bool,
) -> Matching:
    """Match the `names` of a data set's labels with the classes of a network.

    `known` are the network's class names, none if it has no names, and `outputs` is the number of
    its classes if that is known. `folders` says that the names are those of folders: their order is
    then the alphabet's, and only counts for a network without class names. In both cases there
    have to be as many names as classes.

    Raises InvalidInput for a name that several classes have, several names of one class, an index
    out of range, and names that nothing resolves.
    """
    if not names:
        return Matching()
    if list(names) == list(known):
        return Matching(None, "Labels: the data set's classes are the network's.")
    outputs = len(known) or outputs
    field = "spec.dataset.path" if folders else "spec.dataset.class"
    found = {name: _resolve(name, names, known, outputs, field) for name in names}
    resolved = {name: one for name, one in found.items() if one is not None}
    if not resolved and _order_counts(names, known, outputs, folders=folders):
        return Matching(None, _by_position(names, known, folders=folders))
    for name, one in found.items():
        if one is None:
            raise InvalidInput(field, name, _expected(name, names, known, outputs))
    _refuse_twice(names, resolved, field)
    kinds = Counter(resolved[name][1] for name in names)
    how = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    return Matching(
        tuple(resolved[name][0] for name in names),
        f"Labels: {_count(len(names), 'class', 'classes')} matched with the network's, {how}.",
    )


def left_out(folders: Sequence[str], files: int) -> str | None:
    """A sentence on what lies in a labelled folder and was left out; None for nothing.

    `folders` are the names of folders without pictures, `files` pictures beside the folders.
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
    """The class that `name` names, and how it does."""
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
    """The name with each accented letter as one character: macOS writes folders with two."""
    return unicodedata.normalize("NFC", name)


def _order_counts(
    names: Sequence[str], known: Sequence[str], outputs: int | None, *, folders: bool
) -> bool:
    return not (folders and known) and outputs in (None, len(names))


def _by_position(names: Sequence[str], known: Sequence[str], *, folders: bool) -> str:
    last = len(names) - 1
    order = "in alphabetical order" if folders else "in the order of the data set"
    ends = [f"{names[i]!r} is class {i}" + (f" {known[i]!r}" if known else "") for i in (0, last)]
    why = "none is a name that the network has" if known else "the network has no class names"
    return f"Labels: matched by position {order}, since {why}: {' … '.join(dict.fromkeys(ends))}."


def _expected(name: str, names: Sequence[str], known: Sequence[str], outputs: int | None) -> str:
    highest = "" if outputs is None else f" from 0 to {outputs - 1}"
    ways = [f"a class index{highest}"]
    if _is_imagenet(known):
        ways.insert(0, "an ImageNet id such as n01440764")
    if known:
        close = similar(name, known)
        ways.insert(0, "a class name of the network" + (f" ({', '.join(close)})" if close else ""))
        return " or ".join([", ".join(ways[:-1]), ways[-1]])
    return f"{ways[0]}, or as many names as the network has outputs, {outputs}, not {len(names)}"


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
    """The class of each id of ILSVRC 2012, whose classes are in the order of their ids."""
    text = resources.files(__package__).joinpath("wnids.txt").read_text("ascii")
    return {wnid: place for place, wnid in enumerate(text.split())}


def _listed(numbers: Iterable[int]) -> str:
    *most, last = map(str, numbers)
    return f"{', '.join(most)} and {last}"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
