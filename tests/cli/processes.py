"""The command line as a user runs it: a process, its output, its exit code."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.cli.namespaces import Machine

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Finished:
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """Standard error without the lines about progress."""
        return re.sub(r"^(?:\d+ (?:h|min|s) ?)+: .*\n", "", self.err, flags=re.MULTILINE)


def environment(**extra: str) -> dict[str, str]:
    """The environment of a command: this checkout, a wide terminal without colours."""
    paths = os.pathsep.join((str(ROOT / "operator"), str(ROOT / "workers")))
    return {**os.environ, "PYTHONPATH": paths, "COLUMNS": "160", "NO_COLOR": "1", **extra}


def command(*arguments: str) -> list[str]:
    """The command `splittracr ARGUMENTS` of this checkout."""
    # -P as in the installed command, whose folder is not the current one; not for its children
    return [sys.executable, "-P", "-m", "splittracr", *arguments]


def start(*arguments: str, cwd: Path, **extra: str) -> subprocess.Popen[str]:
    """Start `splittracr ARGUMENTS` in `cwd`."""
    return start_on(None, *arguments, cwd=cwd, **extra)


def start_on(
    machine: Machine | None, *arguments: str, cwd: Path, **extra: str
) -> subprocess.Popen[str]:
    """As `start`, on another machine if one is given."""
    whole = command(*arguments)
    return subprocess.Popen(
        whole if machine is None else machine.command(whole),
        cwd=cwd,
        env=environment(**extra),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def event(lines: Iterable[str | bytes] | None, name: str) -> dict[str, Any]:
    """The first event `name` in what a worker writes to standard output."""
    assert lines is not None
    events: Iterator[dict[str, Any]] = map(json.loads, lines)
    return next(event for event in events if event["event"] == name)


def splittracr(*arguments: str, cwd: Path, timeout: float = 110, **extra: str) -> Finished:
    """Run `splittracr ARGUMENTS` in `cwd` to its end."""
    process = start(*arguments, cwd=cwd, **extra)
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return Finished(process.returncode, out, err)


def manifest(folder: Path, sections: Mapping[str, object], name: str = "study") -> Path:
    """Write a manifest of a small network with seeded random weights into `folder`."""
    spec: dict[str, object] = {
        "model": {"name": "mobilenet_v3_small", "weights": "none", "inputSize": [64, 64]},
        "partition": {"mode": "Static", "cut": 10},
        "workload": {"samples": 3},
        **sections,
    }
    document = {
        "apiVersion": "splittracr.io/v1alpha1",
        "kind": "SplitExperiment",
        "metadata": {"name": name},
        "spec": spec,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def files_below(folder: Path) -> Sequence[str]:
    """Names of all files below a folder, sorted; none where there is no folder."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
