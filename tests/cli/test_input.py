"""Manifests as files with other objects, and from standard input."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.processes import environment, manifest

CLAIM = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: data}\n---\n"


@pytest.mark.parametrize("broken", [False, True])
def test_a_manifest_from_standard_input(tmp_path: Path, broken: bool) -> None:
    file = manifest(tmp_path, {"workload": {"samples": 0 if broken else 1}})
    text = CLAIM + file.read_text("utf-8") + "---\n"
    done = subprocess.run(
        [sys.executable, "-P", "-m", "splittracr", "run", "-", "--out", "out"],
        input=text,
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    if broken:
        assert (done.returncode, "spec.workload.samples" in done.stderr) == (2, True)
    else:
        assert done.returncode == 0, done.stderr
        assert "Left alone: PersistentVolumeClaim data in standard input" in done.stderr
        assert len((tmp_path / "out/records.jsonl").read_text().splitlines()) == 1
