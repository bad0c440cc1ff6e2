"""Classes of cuts that an earlier start has measured, in a file for each set of facts.

Measuring them makes two sessions a cut, which takes longer than all else at a start. A file is
found by a digest of all that the classes depend on. Among these facts are the outputs of the uncut
model in both runtimes, which each start computes itself. If the digest is new, the start measures.
PyTorch's own proof is not cached: it takes little time, and exactness depends on it.
"""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import msgspec
import onnx
import onnxruntime
import torch
from pydantic import AwareDatetime

import splittracr
from splittracr.backends.onnx.classes import Ends, Outputs
from splittracr.backends.onnx.halves import Halves
from splittracr.backends.torch.proven import ProvenNetwork
from splittracr.data import home
from splittracr.experiment.contracts import NO_CLASS_CACHE
from splittracr.experiment.errors import reason
from splittracr.experiment.types import Exactness, Frozen
from splittracr.measure import machine
from splittracr.results.files import write_atomically
from splittracr.splitting.behaviour import opaque
from splittracr.splitting.canonical import canonical
from splittracr.splitting.proof import Proof

log = logging.getLogger(__name__)

MAX_FILES = 200


class CutClass(Frozen):
    """The class of one cut, as in `Cut`."""

    name: str
    exactness: Exactness
    largest_error: float | None
    top1_agreement: float | None


class Entry(Frozen):
    """The content of a file, behind a line with its SHA-256."""

    key: str
    measured_at: AwareDatetime
    cuts: tuple[CutClass, ...]


def folder() -> Path | None:
    """The folder of the files; None if the variable `SPLITTRACR_NO_CLASS_CACHE` is set."""
    return None if os.environ.get(NO_CLASS_CACHE) else home.cache() / "classes"


def key(own: ProvenNetwork, halves: Halves, ends: Ends, known: Sequence[Outputs]) -> str | None:
    """The digest of all that the classes depend on; None if a part of it is not known.

    That is the case for code of the user and for a processor that does not name its instructions.
    """
    if own.identity.code or any(opaque(op) for op in own.tape.ops):
        return None
    if not machine.is_identified():
        return None
    try:
        outputs = canonical([(one.batch, one.torch, one.onnx, one.first) for one in known])
    except (NotImplementedError, RuntimeError):  # such as a quantized tensor
        return None
    facts = {
        "identity": msgspec.to_builtins(own.identity),  # graph, weights, processor, threads
        "versions": machine.versions(),
        "builds": [torch.__config__.show(), onnx.__version__, onnxruntime.get_build_info()],
        "onnxruntime": onnxruntime.__version__,
        "code": _own_code(),
        "graph": hashlib.sha256(halves.whole.model).hexdigest(),
        "ends": [ends.edge.value, ends.server.value],
        "cuts": [[cut.name, own.proof.refused.get(cut.name)] for cut in own.proof.cuts],
        "outputs": outputs,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def load(place: Path, key: str, proof: Proof) -> Proof | None:
    """`proof` with the classes in the file of `key`; None if there is none that can be used."""
    path = place / f"{key}.json"
    try:
        checksum, _, text = path.read_bytes().partition(b"\n")
        if hashlib.sha256(text).hexdigest().encode() != checksum:
            raise ValueError("its content is not that of its checksum")
        entry = Entry.model_validate_json(text)
        if entry.key != key or [one.name for one in entry.cuts] != list(_names(proof)):
            raise ValueError("it is of another model")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("the classes of cuts are measured again: %s is damaged (%s)", path, error)
        return None
    found = {one.name: one.model_dump(exclude={"name"}) for one in entry.cuts}
    cuts = tuple(cut.model_copy(update=found.get(cut.name, {})) for cut in proof.cuts)
    log.info("classes of the cuts: from %s, measured at %s", path, entry.measured_at.isoformat(" "))
    return replace(proof, cuts=cuts, classes_cached_at=entry.measured_at)


def store(place: Path, key: str, before: Proof, proof: Proof) -> None:
    """Keep the classes of `proof`, which were measured now; `before` is PyTorch's proof.

    Not if a cut failed: the reason may be gone at the next start, such as a lack of memory.
    """
    if proof.refused != before.refused:
        return
    cuts = tuple(
        CutClass(
            name=cut.name,
            exactness=cut.exactness,
            largest_error=cut.largest_error,
            top1_agreement=cut.top1_agreement,
        )
        for cut in proof.offered().values()
    )
    try:
        entry = Entry(key=key, measured_at=datetime.now(UTC), cuts=cuts)
        text = entry.model_dump_json().encode()
        checksum = hashlib.sha256(text).hexdigest().encode()
        write_atomically(place / f"{key}.json", checksum + b"\n" + text)
        files = sorted(place.glob("*.json"), key=lambda path: path.stat().st_mtime)
        for old in files[:-MAX_FILES]:
            old.unlink(missing_ok=True)
    except (OSError, ValueError) as error:  # a full or read-only disk; an error that is infinite
        log.info("the classes of cuts are not kept for the next start: %s", reason(error))


def _names(proof: Proof) -> Sequence[str]:
    """The names of the cuts that have a class."""
    return [cut.name for cut in proof.offered().values()]


@cache
def _own_code() -> str:
    """A digest of this package's source: its version stays the same while it is developed."""
    root, digest = Path(splittracr.__file__).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root)}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()
