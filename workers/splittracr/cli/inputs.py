"""Inputs that several commands read: manifests, folders for results, credentials.

What brings pydantic is imported in functions: `splittracr --help` needs none of it.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, TypeVar

from splittracr.cli import output
from splittracr.experiment.contracts import DECLARED, TOKEN
from splittracr.experiment.contracts import Runtime as Name
from splittracr.experiment.errors import InvalidInput, why

if TYPE_CHECKING:
    from splittracr.backends.protocol import Builder
    from splittracr.experiment.spec import ModelSpec, SplitExperiment

T = TypeVar("T")

END = b"...\n"
"""The line that marks the end of a YAML document."""


def load(
    file: Path,
    overrides: list[str] | None,
    weights: str | None,
    *,
    verbose: bool = False,
    marked: bool = False,
) -> "SplitExperiment":
    """The manifest in `file` after overrides; `-` is standard input.

    With `marked` standard input is read up to a line `...`, YAML's mark of an end, and stays open.

    Raises InvalidInput that names the field, the value and what was expected.
    """
    from splittracr.experiment import manifest

    if marked and str(file) == "-":
        text, origin = _up_to_mark(), "standard input"
    else:
        text, origin = read(file, "FILE", "a readable manifest")
    changes = [*(overrides or []), *of_weights(weights)]
    changes += ["spec.logging.level=Debug"] if verbose else []
    try:
        found, others = manifest.parse_all(text, changes, origin)
    except InvalidInput:
        refuse_tracr_file(text, "FILE", origin)
        raise
    for other in others:
        output.console(stderr=True).print(f"Left alone: {other} in {origin}", highlight=False)
    return found


def of_weights(weights: str | None) -> list[str]:
    """The overrides that the option --weights stands for."""
    found = [f"spec.model.weights={weights}"] if weights is not None else []
    return found + (["spec.model.weightsFile="] if weights == "none" else [])


def read(file: Path, field: str, expected: str) -> tuple[str, str]:
    """The text of `file` and its name for errors; `-` is standard input.

    Raises InvalidInput that names `field` if it cannot be read.
    """
    origin = "standard input" if str(file) == "-" else str(file)
    try:
        return _standard_input() if str(file) == "-" else file.read_text("utf-8"), origin
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise InvalidInput(field, origin, f"{expected} ({reason})") from error


def refuse_tracr_file(text: str, field: str, origin: str) -> None:
    """Raise InvalidInput if `text` is a file of SplitTracr (tracr)."""
    from splittracr.convert import study
    from splittracr.experiment import manifest
    from splittracr.experiment.spec import KIND

    try:
        data = manifest.load(text, origin)
    except InvalidInput:
        return
    if study.is_configuration(data):
        kind, hint = "configuration", f"`splittracr convert {origin}` makes one of it"
    elif study.is_devices(data):
        kind = "devices file"
        hint = f"`splittracr convert CONFIG --devices {origin}` makes one of it and of CONFIG"
    else:
        return
    expected = f"a {KIND} manifest; this is a {kind} of SplitTracr (tracr), and {hint}"
    raise InvalidInput(field, origin, expected)


def network(name: str) -> str:
    """The argument MODEL. Raises InvalidInput if it is a file of SplitTracr (tracr)."""
    file = Path(name)
    if file.suffix in (".yaml", ".yml") and file.is_file():
        refuse_tracr_file(read(file, "MODEL", "a model's name")[0], "MODEL", name)
    return name


def mapping(text: str) -> dict[str, object]:
    """The option --args, as YAML. Raises InvalidInput if it is no mapping."""
    from splittracr.experiment import manifest

    found = manifest.load(text, "--args")
    if not isinstance(found, dict):
        raise InvalidInput("--args", text, "a mapping in YAML, such as {width: 16}")
    return found


def class_names(text: str) -> dict[str, object]:
    """The option --classes, as YAML. Raises InvalidInput if it is no mapping."""
    from splittracr.experiment import manifest

    found = manifest.load(text, "--classes")
    if not isinstance(found, dict):
        raise InvalidInput("--classes", text, "a mapping in YAML, such as {kitten: cat}")
    return found


def small_model(text: str) -> "ModelSpec":
    """The option --small: a model's name, or the keys of `spec.model` as YAML."""
    from splittracr.experiment import manifest
    from splittracr.experiment.explain import validate
    from splittracr.experiment.spec import ModelSpec

    found = manifest.load(text, "--small")
    data = {"name": found} if isinstance(found, str) else found
    if not isinstance(data, dict):
        expected = "a model's name, or a mapping as spec.model, such as {name: alexnet}"
        raise InvalidInput("--small", text, expected)
    return validate(ModelSpec, data, "--small", {"": ("--small", text)})


def first_in_cascade(
    small: "ModelSpec | None", exits: str | None, classes: Mapping[str, object] | None
) -> "ModelSpec | str":
    """The small model of --small, or the exits of --exits.

    A relative path of --exits starts at the current folder.

    Raises InvalidInput unless there is exactly one of them, and for --classes with --exits.
    """
    if small is not None and exits is not None:
        raise InvalidInput("--exits", exits, "nothing, or no --small: a cascade has one of them")
    if not (small or exits):
        raise InvalidInput("--small", None, "a model, or --exits")
    if classes is not None and exits is not None:
        expected = "nothing with --exits, whose classes are the model's"
        raise InvalidInput("--classes", dict(classes), expected)
    if exits is None or exits == DECLARED:
        return small or DECLARED
    return str(Path(exits).expanduser().absolute())


def _standard_input() -> str:
    return "" if sys.stdin is None else sys.stdin.buffer.read().decode()


def _up_to_mark() -> str:
    lines: list[bytes] = []
    while (line := sys.stdin.buffer.readline()) not in (b"", END):
        lines.append(line)
    return b"".join(lines).decode()


def base_folder(file: Path, base: Path | None) -> Path:
    """Where relative paths start. From then on modules in that folder can be imported."""
    from splittracr.data import importing

    folder = (base or file.parent).resolve()
    importing.look_in(folder)
    return folder


def results_folder(out: Path | None, name: str) -> Path:
    """The folder `out` or, without it, one named after the study and the time; checked by
    `new_folder`.
    """
    return new_folder(out or _named(name))


def rate_folder(out: Path | None, name: str) -> Path:
    """The same for files that go beside the records of a study, whose report then uses them."""
    return _writable(out or _named(f"{name}-rate"))


def _named(name: str) -> Path:
    stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S-%f")[:-3]  # milliseconds
    return Path("runs") / f"{name}-{stamp}"


def new_folder(out: Path) -> Path:
    """A folder for results that holds none yet and can be written to."""
    from splittracr.results import journal

    try:
        used = journal.has_records(out)
    except OSError as error:
        expected = f"a folder that can be made and written to ({why(error)})"
        raise InvalidInput("--out", str(out), expected) from error
    _writable(out)
    if used:
        raise InvalidInput("--out", str(out), "a new folder, or one without records")
    return out


def _writable(out: Path) -> Path:
    try:
        _try_to_write(out)
    except OSError as error:
        expected = f"a folder that can be made and written to ({why(error)})"
        raise InvalidInput("--out", str(out), expected) from error
    return out


def _try_to_write(folder: Path) -> None:
    """Write a temporary file to `folder`, or to the folder in which it would be made.

    Nothing else is made or removed: two edges may start in one folder at the same time.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    with TemporaryFile(dir=there):
        pass


def token(tls: Path | None) -> str | None:
    """The secret of both ends, from the environment or the folder of credentials, stripped."""
    from splittracr import security

    return os.environ.get(TOKEN, "").strip() or security.token_in(tls)


def with_clock(make: Callable[[], T], experiment: "SplitExperiment") -> T:
    """Return `make()`; wait first until the clock of this machine reaches the certificates'
    start.
    """
    from splittracr import security

    log = output.console(stderr=True).print
    return security.when_valid(make, experiment.spec.transport.connect_timeout_seconds, log)


def edge_runtime(experiment: "SplitExperiment") -> "Builder":
    """The backend of the edge. Raises InvalidInput if it does not run on this machine."""
    from splittracr.backends import probe

    name, field = experiment.spec.edge.runtime, "spec.edge.runtime"
    probe.check(name, field)
    from splittracr.backends import registry

    if name is not Name.ONNX_RUNTIME and not registry.has_torch():
        expected = (
            "OnnxRuntime, or an edge with PyTorch (pip install 'splittracr[workers]'; in a cluster "
            "spec.edge.pod.image)"
        )
        raise InvalidInput(field, name.value, expected)
    if experiment.spec.partition.cascade is not None and registry.needs_export(name):
        expected = "an edge with PyTorch: a cascade needs a second model there"
        raise InvalidInput(field, name.value, expected)
    return registry.load_edge(name)


@contextlib.contextmanager
def runtime_option() -> Iterator[None]:
    """Name the option --runtime in errors about the runtime of the edge."""
    try:
        yield
    except InvalidInput as error:
        if error.field != "spec.edge.runtime":
            raise
        raise InvalidInput("--runtime", error.value, error.expected) from error
