"""`basis.json`: what defines a study's records, compared when the study continues.

Records are numbered by position in the data set, and one number means one picture, one network
and one way to compute. If any of these has changed, the study does not continue.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from splittracr.experiment.errors import InvalidInput
from splittracr.results.environment import End, read_environment
from splittracr.results.files import write_atomically
from splittracr.wire.identity import difference
from splittracr.wire.messages import Identity
from splittracr.wire.payload import Closed

FILE = "basis.json"
"""The file's name in a results folder."""

_MAX_NAMED = 3

_log = logging.getLogger(__name__)


class Pictures(Closed, frozen=True):
    """The samples that the study uses, by position: names and digests of their content and label.

    `length` is that of the data set, `samples` the manifest's number, None for all. A digest is
    empty if the content is unknown.
    """

    names: tuple[str, ...]
    digests: tuple[str, ...]
    length: int
    samples: int | None = None

    @property
    def needs_length(self) -> bool:
        """Whether another length of the data set changes which picture a position means."""
        return self.samples is None or self.samples > self.length


class Basis(Closed, frozen=True):
    """The definition of the records.

    `versions` are those of all that can change a result. `code` holds digests of the source files
    that make the network's inputs, which runs on the edge only. `trace` is a digest of the emulated
    link's trace; None without one. `small` is the small model of a cascade,
    `exits` the digest of its exits.
    """

    identity: Identity
    versions: dict[str, str]
    pictures: Pictures
    code: dict[str, str] = msgspec.field(default_factory=dict)
    trace: str | None = None
    small: Identity | None = None
    exits: str | None = None


def write_basis(out: Path, basis: Basis) -> None:
    """Write `basis.json` into the results folder `out`."""
    write_atomically(out / FILE, msgspec.json.format(msgspec.json.encode(basis), indent=1))


def read_basis(out: Path) -> Basis | None:
    """The basis of the results folder `out`; None without one, as in older versions.

    Raises InvalidInput if the file has other content.
    """
    path = out / FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Basis)
    except FileNotFoundError:
        return None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidInput(str(path), FILE, f"what defines a study ({error})") from error


def continued(basis: Basis, out: Path) -> Basis:
    """The basis of an edge that continues the study in `out`, which may now be longer.

    Raises InvalidInput that names the difference if records of both do not belong together.
    """
    before = read_basis(out)
    if before is None:
        _check_end(basis, read_environment(out).edge, out)
        _log.warning("%s has no %s: pictures and code are not compared", out, FILE)
        return basis
    _check_pictures(basis.pictures, before.pictures, out)
    _check_versions(basis.versions, before.versions, out)
    for name, digest in before.code.items():
        if basis.code.get(name) != digest:
            _refuse(f"source file {name}", basis.code.get(name), repr(digest), out)
    if before.trace is not None and basis.trace != before.trace:
        _refuse("content of spec.transport.link.trace", basis.trace, repr(before.trace), out)
    found = difference(basis.identity, before.identity, ("it", "that study"))
    if found is not None:
        _refuse("model", basis.identity.network, f"the one (it differs in {found})", out)
    if basis.small is not None and before.small is not None:
        found = difference(basis.small, before.small, ("it", "that study"))
        if found is not None:
            expected = f"the one (it differs in {found})"
            _refuse("small model", basis.small.network, expected, out)
    if before.exits is not None and basis.exits != before.exits:
        _refuse("exits", basis.exits, repr(before.exits), out)
    longer = max(basis, before, key=lambda one: len(one.pictures.names))
    return msgspec.structs.replace(basis, pictures=longer.pictures)


def _check_versions(now: Mapping[str, str], before: Mapping[str, str], out: Path) -> None:
    for name, version in before.items():
        if now.get(name) != version:
            _refuse(f"version of {name}", now.get(name), repr(version), out)


def _check_end(basis: Basis, before: End, out: Path) -> None:
    """Compare the fields of an environment, if there is no basis."""
    _check_versions(basis.versions, before.versions, out)
    identity = basis.identity
    if identity.weights != before.weights_digest:
        _refuse("weights", identity.weights, repr(before.weights_digest), out)
    if identity.fingerprint != before.graph_fingerprint:
        _refuse("graph", identity.fingerprint, repr(before.graph_fingerprint), out)


def _check_pictures(now: Pictures, before: Pictures, out: Path) -> None:
    common = min(len(now.names), len(before.names))
    used = slice(0, common)
    same = (now.names[used], now.digests[used]) == (before.names[used], before.digests[used])
    counted = now.needs_length or before.needs_length
    if same and (now.length == before.length or not counted):
        return
    if same and len(now.names) == len(before.names):  # no more of it is used
        shown = f"{now.length} pictures", f"{before.length} pictures"
    else:
        shown = _changes(now, before), f"the pictures of before, {before.length} in all"
    _refuse("spec.dataset", shown[0], shown[1], out)


def _changes(now: Pictures, before: Pictures) -> str:
    """Additions, removals and changes in words."""
    here = dict(zip(now.names, now.digests, strict=True))
    there = dict(zip(before.names, before.digests, strict=True))
    kinds = {
        "added": [name for name in here if name not in there],
        "removed": [name for name in there if name not in here],
        "changed": [name for name in here if name in there and here[name] != there[name]],
    }
    found = [f"{kind} {_named(names)}" for kind, names in kinds.items() if names]
    return "pictures " + ("; ".join(found) or "in another order")


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more


def _refuse(field: str, value: Any, expected: str, out: Path) -> NoReturn:
    raise InvalidInput(field, value, f"{expected}, with which the study in {out} began")
