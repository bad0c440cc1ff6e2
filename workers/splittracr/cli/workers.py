"""Worker processes of one command: starts them, follows their events, stops them.

The processes are the ones a cluster runs.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

import splittracr
from splittracr.experiment.contracts import LOGS, SERVER
from splittracr.experiment.spec import OnServerLoss, SplitExperiment
from splittracr.results import journal

GRACE_SECONDS = 10
"""Time that a process has to end after SIGTERM."""

_MAX_LINE = 1 << 26  # bytes, of events and of output of libraries

Event = dict[str, Any]
Show = Callable[[Event], None]
"""Takes an event of a worker."""


@dataclass(frozen=True)
class Failure:
    """Why a worker ended early: its own message."""

    error: str
    exit_code: int


class Workers:
    """The processes, by name. Their logs are in the folder `scratch`.

    `failures` has the message of each worker that gave a reason for its end, and `finished` the
    edges that have measured everything. `server_code` is the exit status of a server that ended by
    itself and is not started again.
    """

    def __init__(self, scratch: Path, console: Console) -> None:
        self._scratch, self._console = scratch, console
        self._processes: dict[str, Process] = {}
        self._ending = False
        self._unwanted: set[str] = set()
        self.environment = environment()
        self.failures: dict[str, Failure] = {}
        self.finished: set[str] = set()
        self.server_code: int | None = None

    async def run(
        self, name: str, arguments: Sequence[str], show: Show, listener: socket.socket | None = None
    ) -> None:
        """Run `splittracr ARGUMENTS` to its end, and pass its events to `show`."""
        with (self._scratch / f"{name}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # or a queue.py in the current folder would take the library's place
                "-m",
                "splittracr",
                *arguments,
                stdin=PIPE,  # it closes when this process ends, which stops the worker
                stdout=PIPE,
                stderr=log,
                env=self.environment,
                pass_fds=[listener.fileno()] if listener else [],
                limit=_MAX_LINE,
            )
        self._processes[name] = process
        if self._ending or name in self._unwanted:  # stopped while it was being started
            await terminate(process)
        await self._follow(name, process, show)

    async def keep_server(
        self,
        experiment: SplitExperiment,
        arguments: Sequence[str],
        listener: socket.socket,
        show: Show = lambda _: None,
    ) -> None:
        """Run the server, again if it is lost and the study can wait for it.

        Returns if it cannot run again: it gave a reason, never served, or `onServerLoss` is Fail.
        """
        arguments = [SERVER, *arguments, "--fd", str(listener.fileno())]
        waits = experiment.spec.partition.server_loss is not OnServerLoss.FAIL
        served = True
        while served:
            served = False

            def note(event: Event) -> None:
                nonlocal served
                served = served or event["event"] == "serving"
                show(event)

            await self.run(SERVER, arguments, note, listener)
            if self._ending or not waits or SERVER in self.failures:
                break
            if served:
                end = ending(self.code(SERVER))
                self._console.print(f"The server {end} and starts again.")
        self.server_code = self.code(SERVER)

    async def stop(self, names: Sequence[str] | None = None) -> None:
        """Stop the processes with these names; without names all of them, and start none again."""
        if names is None:
            self._ending = True
        self._unwanted |= set(names or ())
        chosen = list(self._processes) if names is None else names
        started = [self._processes[name] for name in chosen if name in self._processes]
        await asyncio.gather(*map(terminate, started))

    def code(self, name: str) -> int | None:
        """The exit status of a process, None if it runs or was never started."""
        process = self._processes.get(name)
        return None if process is None else process.returncode

    def log(self, name: str) -> str:
        """The end of a worker's log, for a worker that gave no reason."""
        path = self._scratch / f"{name}.log"
        text = path.read_text("utf-8", errors="replace").strip() if path.exists() else ""
        return f". The end of its log:\n{text[-2000:]}" if text else ""

    def keep_logs(self, out: Path) -> None:
        """Copy the logs to the results in `out`, if there are records."""
        if not any(out.rglob(journal.FILE)):
            return
        with contextlib.suppress(OSError):  # a full disk costs no result
            (out / LOGS).mkdir(exist_ok=True)
            for log in sorted(self._scratch.glob("*.log")):
                shutil.copy(log, out / LOGS / log.name)

    async def _follow(self, name: str, process: Process, show: Show) -> None:
        """Follow one worker's events to the end of its output, then wait for its exit."""
        assert process.stdout is not None
        async for line in process.stdout:
            event = _event(line)
            if event is None:
                continue
            if event["event"] == "failed":
                self.failures[name] = Failure(event["error"], event["exit_code"])
            elif event["event"] == "finished":
                self.finished.add(name)
            else:
                show(event)
        await process.wait()


def ending(code: int | None) -> str:
    """How a process ended, in words."""
    if code is not None and code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with status {code}"


async def stop_signal() -> None:
    """Wait for SIGTERM or SIGINT."""
    received, loop = asyncio.Event(), asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, received.set)
    try:
        await received.wait()
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def terminate(process: Process) -> None:
    """End a process: SIGTERM, and SIGKILL when it takes too long."""
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), GRACE_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()


def _event(line: bytes) -> Event | None:
    """One event of a worker; None for another line.

    A library that bypasses Python's standard output may have left the beginning of a line.
    """
    try:
        event = json.loads(line[max(line.find(b'{"event": '), 0) :])
    except ValueError:
        return None
    return event if isinstance(event, dict) and isinstance(event.get("event"), str) else None


def environment() -> dict[str, str]:
    """This process's environment, with which a worker finds this package from any folder."""
    root = str(Path(splittracr.__file__).resolve().parents[1])
    paths = [str(Path(one).absolute()) for one in _python_path()]
    if root == str(Path.cwd()):
        paths.insert(0, root)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)} if paths else dict(os.environ)


def _python_path() -> list[str]:
    return [one for one in os.environ.get("PYTHONPATH", "").split(os.pathsep) if one]
