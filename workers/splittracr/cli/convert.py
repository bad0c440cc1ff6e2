"""`splittracr convert`: reads tracr's files, writes a manifest, prints the outcome for each key."""

import os
import shlex
import sys
from pathlib import Path, PurePosixPath

from splittracr.cli import inputs, output
from splittracr.convert import document, study
from splittracr.convert.study import Places
from splittracr.experiment import manifest
from splittracr.experiment.errors import InvalidInput, why

_STANDARD = Path("-")


def convert(config: Path, devices: Path | None, out: Path | None, base: Path | None) -> None:
    """Convert a configuration, with its devices file if there is one.

    Raises InvalidInput that names file, key, value and expectation, or the file to write.
    """
    text, origin = inputs.read(config, "CONFIG", "a readable configuration")
    data = _load(text, origin, "a configuration of SplitTracr (tracr)")
    if study.is_devices(data):
        expected = f"a configuration; this is a devices file: CONFIG --devices {origin}"
        raise InvalidInput("CONFIG", origin, expected)
    if isinstance(data, dict) and "kind" in data:
        expected = f"a configuration of SplitTracr (tracr), not a {data['kind']}"
        raise InvalidInput("CONFIG", origin, expected)
    name = study.study_name(config.stem)
    file = _target(out, name, [config, *([devices] if devices else [])])
    folder = Path() if file == _STANDARD else file.parent
    names_file = f"{file.stem}-classes.txt"
    places = Places(lambda path: _moved(path, base or _root(config), folder), names_file)
    found = study.convert(data, origin, name, places, _devices(devices))
    if found.class_names and file == _STANDARD:
        expected = "a file: the class names in dataset.class_names go into one beside it"
        raise InvalidInput("--out", "-", expected)
    command = shlex.join(["splittracr", "convert", origin, *_option("--devices", devices)])
    made = document.text(found, command, "study.yaml" if file == _STANDARD else file.name)
    if file == _STANDARD:
        sys.stdout.write(made)
        _report(document.report(found, "study.yaml"), stderr=True)
        return
    if found.class_names:
        _write(folder / names_file, "\n".join(found.class_names) + "\n")
    _write(file, made)
    _report([*document.report(found, file.name), f"wrote {file}"], stderr=False)


def _target(out: Path | None, name: str, sources: list[Path]) -> Path:
    """The file to write. Raises InvalidInput if it is one of those that are read."""
    file = out or Path(f"{name}-study.yaml")
    if out is None and file.exists():
        raise InvalidInput(
            "--out", str(file), "a file that does not exist; `-o` replaces one that does"
        )
    if any(file.exists() and source.exists() and file.samefile(source) for source in sources):
        raise InvalidInput("--out", str(file), "another file than the one that is converted")
    return file


def _devices(file: Path | None) -> tuple[object, str] | None:
    if file is None:
        return None
    text, origin = inputs.read(file, "--devices", "a readable devices file")
    return _load(text, origin, "a devices file of SplitTracr (tracr)"), origin


def _load(text: str, origin: str, expected: str) -> object:
    """The content of a file. Raises InvalidInput if it does not exist."""
    data = manifest.load(text, origin)
    if data is None:
        raise InvalidInput(origin, manifest.nothing(text), expected)
    return data


def _root(config: Path) -> Path:
    """The folder in which tracr was started: the one above `config/`, as in its README."""
    folder = Path() if config == _STANDARD else config.resolve().parent
    return folder.parent if folder.name == "config" else folder


def _moved(path: str, root: Path, folder: Path) -> str:
    """The path relative to `folder` of one that is relative to `root`; an absolute one stays."""
    if path.startswith(("/", "~")):
        return path
    return PurePosixPath(os.path.relpath(root / path, folder)).as_posix()


def _option(name: str, value: Path | None) -> list[str]:
    return [] if value is None else [name, str(value)]


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, "utf-8")
    except OSError as error:
        raise InvalidInput("--out", str(file), f"a file to write ({why(error)})") from error


def _report(lines: list[str], *, stderr: bool) -> None:
    console = output.console(stderr=stderr)
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
