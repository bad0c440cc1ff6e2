"""What several commands read: manifests, folders for results, credentials."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile
from typing import TypeVar

from splittracr.cli import output
from splittracr.experiment import manifest
from splittracr.experiment.contracts import TOKEN
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.spec import SplitExperiment

T = TypeVar("T")


def load(file: Path, overrides: list[str] | None, weights: str | None) -> SplitExperiment:
    """The manifest in `file` after overrides; `-` is standard input.

    Raises InvalidInput that names the field, the value and what was expected.
    """
    origin = "standard input" if str(file) == "-" else str(file)
    try:
        text = _standard_input() if str(file) == "-" else file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise InvalidInput("FILE", origin, f"a readable manifest ({reason})") from error
    extra = [f"spec.model.weights={weights}"] if weights is not None else []
    found, others = manifest.parse_all(text, [*(overrides or []), *extra], origin)
    for other in others:
        output.console(stderr=True).print(f"Left alone: {other} in {origin}", highlight=False)
    return found


def _standard_input() -> str:
    return "" if sys.stdin is None else sys.stdin.buffer.read().decode()


def base_folder(file: Path, base: Path | None) -> Path:
    """Where relative paths start. From then on modules in that folder can be imported."""
    from splittracr.data import importing

    folder = (base or file.parent).resolve()
    importing.look_in(folder)
    return folder


def new_folder(out: Path) -> Path:
    """A folder for results that holds none yet and can be written to."""
    try:
        used = (out / "records.jsonl").exists()
        _try_to_write(out)
    except OSError as error:
        expected = f"a folder that can be made and written to ({error.strerror})"
        raise InvalidInput("--out", str(out), expected) from error
    if used:
        raise InvalidInput("--out", str(out), "a new folder, or one without records.jsonl")
    return out


def _try_to_write(folder: Path) -> None:
    """Write a temporary file to `folder`, or to the folder in which it would be made.

    Nothing else is made or removed: two edges may begin in one folder at the same time.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    with TemporaryFile(dir=there):
        pass


def token(tls: Path | None) -> str | None:
    """The secret of both ends, from the environment or the folder of credentials, stripped."""
    from splittracr import security

    return os.environ.get(TOKEN, "").strip() or security.token_in(tls)


def with_clock(make: Callable[[], T], experiment: SplitExperiment) -> T:
    """Return `make()`; wait first until this machine's clock reaches the certificates' start."""
    from splittracr import security

    log = output.console(stderr=True).print
    return security.when_valid(make, experiment.spec.transport.connect_timeout_seconds, log)
