"""A worker as a process: events on standard output, words on standard error, clean stops."""

import asyncio
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from splittracr import process as workers
from tests.cli.processes import environment

WORKER = """
import asyncio, sys, time
from splittracr import process
from splittracr.experiment.errors import InvalidInput

async def main(stop):
    process.emit("started", value=1)
    if sys.argv[1] == "fail":
        raise InvalidInput("spec.x", 1, "2")
    if sys.argv[1] == "busy":
        await process.unless(stop, process.in_thread(time.sleep, 100))
    if sys.argv[1] == "noisy":
        print("a user's own words")
        process.emit("loud")
        raise PermissionError(13, "Permission denied", "/somewhere")
    await stop.wait()

if sys.argv[1] == "parent":
    process.stop_with_parent()
sys.exit(process.run_worker("test", main))
"""


def worker(tmp_path: Path, how: str) -> subprocess.Popen[str]:
    file = tmp_path / "worker.py"
    file.write_text(WORKER)
    return subprocess.Popen(
        [sys.executable, str(file), how],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def first_event(process: subprocess.Popen[str]) -> dict[str, object]:
    assert process.stdout is not None
    event = json.loads(process.stdout.readline())
    assert isinstance(event, dict)
    return event


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    process = worker(tmp_path, "wait")
    assert first_event(process)["event"] == "started"
    process.send_signal(number)
    process.communicate(timeout=100)
    assert process.returncode == 0


def test_an_expected_error_is_an_event_and_a_paragraph(tmp_path: Path) -> None:
    out, err = worker(tmp_path, "fail").communicate(timeout=100)
    failed = json.loads(out.splitlines()[-1])
    assert (failed["event"], failed["exit_code"]) == ("failed", 2)
    assert failed["error"] == "spec.x: got 1, expected 2"
    assert failed["error"] in err
    assert "Traceback" not in err


def test_on_a_terminal_an_error_is_told_once(tmp_path: Path) -> None:
    file, (here, terminal) = tmp_path / "worker.py", os.openpty()
    file.write_text(WORKER)
    command = [sys.executable, str(file), "fail"]
    done = subprocess.run(
        command, env=environment(), stdout=terminal, stderr=terminal, check=False, timeout=100
    )
    os.close(terminal)
    shown = os.read(here, 65536).decode()
    os.close(here)
    assert done.returncode == 2
    assert shown.count("spec.x: got 1, expected 2") == 1


def test_what_the_users_code_prints_is_no_event(tmp_path: Path) -> None:
    out, err = worker(tmp_path, "noisy").communicate(timeout=100)
    assert [json.loads(line)["event"] for line in out.splitlines()] == ["started", "loud", "failed"]
    assert "a user's own words" in err
    assert json.loads(out.splitlines()[-1])["error"] == "test: Permission denied (/somewhere)"


def test_a_worker_that_has_ended_keeps_no_hold_of_standard_output() -> None:
    async def main(stop: asyncio.Event) -> None:
        workers.emit("inside")

    first, second = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(first):
        assert workers.run_worker("test", main) == 0
    first.close()
    with contextlib.redirect_stdout(second):
        workers.emit("after")
    assert json.loads(second.getvalue())["event"] == "after"


def test_a_signal_interrupts_preparations(tmp_path: Path) -> None:
    process = worker(tmp_path, "busy")
    first_event(process)
    process.terminate()
    out, _ = process.communicate(timeout=100)
    assert "stopped before the first frame" in out
    assert process.returncode == 1


def test_it_stops_when_its_parent_is_gone(tmp_path: Path) -> None:
    process = worker(tmp_path, "parent")
    first_event(process)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(timeout=100) == 0
    for pipe in (process.stdout, process.stderr):
        assert pipe is not None
        pipe.close()
