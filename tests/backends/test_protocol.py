"""The edge, the link and the server run with any backend, and without torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

WITHOUT_TORCH = """
import asyncio, sys
sys.modules["torch"] = None  # importing it fails from here on
from tests.backends import without_torch
asyncio.run(without_torch.main())
"""


def test_a_backend_in_numpy_runs_frames_where_torch_cannot_be_imported() -> None:
    root = Path(__file__).parents[2]
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH],
        cwd=root,
        env={"PYTHONPATH": f"{root}/workers:{root}"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    expected = [
        [i, True, pytest.approx([10 * i / 255, 0.2, (255 - i) / 255], rel=1e-6)] for i in range(3)
    ]
    assert list(found["cuts"]) == ["input", "scale", "output"]
    for cut, frames in found["cuts"].items():
        place = "edge" if cut == "output" else "server"
        assert [[sample, right, means] for sample, _, right, means in frames] == expected
        assert {finished_on for _, finished_on, *_ in frames} == {place}
    assert found["cuts"]["input"][0][3] == found["cuts"]["output"][0][3]
    assert (found["device"], found["top1"]) == ("cpu", 1.0)
