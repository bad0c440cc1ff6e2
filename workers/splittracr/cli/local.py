"""A study on this machine: an edge and a server process, a progress bar, tables and a report.

The worker processes are the ones a cluster runs; this module only starts them, shows their events
and stops them.
"""

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import time
import uuid
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import splittracr
from splittracr import security
from splittracr.cli import output
from splittracr.cli.interrupt import stopping
from splittracr.experiment import contracts, manifest
from splittracr.experiment.contracts import ExitCode
from splittracr.experiment.errors import SplittracrError, naming, of_system
from splittracr.experiment.spec import Mode, OnServerLoss, Security, SplitExperiment
from splittracr.results import edges, journal, report, terminal, words
from splittracr.server import listener as listeners

_GRACE_SECONDS = 10

_MAX_LINE = 1 << 26  # bytes, of events and of what libraries write

# When the server ends first, an edge in the middle of a run finds out by itself, in its own words;
# one that still waits for the handshake would wait in vain.
_NOTICE_SECONDS = 2

_LINE_SECONDS = 5.0
_SERVER_TASK = "server"


@dataclass(frozen=True)
class _Failure:
    """Why a worker ended early, in its own words."""

    error: str
    exit_code: int


async def run(experiment: SplitExperiment, base: Path, out: Path) -> int:
    """Run the study and leave everything in `out`; returns the exit code."""
    console = output.console()
    metadata = experiment.metadata.model_copy(update={"uid": str(uuid.uuid4())})
    experiment = experiment.model_copy(update={"metadata": metadata})
    with tempfile.TemporaryDirectory(prefix="splittracr-") as scratch:
        file = Path(scratch) / "manifest.yaml"
        with naming(file):
            file.write_text(manifest.dump(experiment), "utf-8")
        failure = await _Local(experiment, file, base, out, Path(scratch), console).run()
    if experiment.spec.edge.replicas > 1:
        edges.join(out)
    complete = failure is None or failure.exit_code == ExitCode.ALL_FAILED
    if complete:
        conclude(out, console)
    if failure is None:
        return ExitCode.OK
    output.complain(failure.error)
    if not complete and (out / journal.FILE).exists():
        output.console(stderr=True).print(
            f"The records so far are in {out / journal.FILE}; "
            f"`splittracr report {out}` makes a report of them.",
            highlight=False,
        )
    return failure.exit_code


def conclude(out: Path, console: Console) -> None:
    """Write tables, figures and report from the records in `out`, and print the tables.

    Raises SplittracrError if a file cannot be read or written.
    """
    with stopping(f"stopped in the middle of the report; `splittracr report {out}` makes it again"):
        try:
            summary = report.write_results(out)
        except OSError as error:
            raise SplittracrError(
                f"the report is not complete: {of_system(error)}. The records are safe in {out}; "
                f"`splittracr report {out}` makes the rest."
            ) from error
        terminal.show(summary, out, console)


class _Local:
    """The processes of one run."""

    def __init__(
        self,
        experiment: SplitExperiment,
        file: Path,
        base: Path,
        out: Path,
        scratch: Path,
        console: Console,
    ) -> None:
        self._experiment = experiment
        self._common = [str(file), "--base", str(base), "--with-parent"]
        self._out = out
        self._scratch = scratch
        self._console = console
        self._environment = {**_environment(), contracts.TOKEN: secrets.token_urlsafe(32)}
        self._processes: dict[str, Process] = {}
        self._failures: dict[str, _Failure] = {}
        self._finished: set[str] = set()  # edges that have measured everything
        self._stopped = False
        self._ending = False
        self._server_code: int | None = None  # of a server that ended by itself

    async def run(self) -> _Failure | None:
        """Start all, follow the edges to their end, stop all. None when the study finished."""
        tasks: list[asyncio.Task[None]] = []
        with ExitStack() as stack:
            try:
                arguments = []
                if self._experiment.spec.partition.mode is not Mode.EDGE_ONLY:
                    spec = self._experiment.spec.server
                    listener = stack.enter_context(listeners.bind(spec.host, spec.port))
                    arguments = self._server_arguments(listener)
                    keep = self._keep_server(listener)
                    tasks.append(asyncio.create_task(keep, name=_SERVER_TASK))
                with _progress(self._console) as bar:
                    shown = Shown(bar)
                    if not self._console.is_terminal:
                        tasks.append(asyncio.create_task(print_progress(shown, self._console)))
                    edges = self._run_edges(arguments, shown)
                    servers = [task for task in tasks if task.get_name() == _SERVER_TASK]
                    await self._until_over(asyncio.create_task(edges), servers)
                verdict = self._verdict()  # before the server is stopped, which changes it
            finally:
                self._ending = True
                await asyncio.gather(*(_terminate(p) for p in self._processes.values()))
                self._keep_logs()
                for task in tasks:
                    task.cancel()
                if tasks:
                    await asyncio.wait(tasks)
        return verdict

    def _server_arguments(self, listener: socket.socket) -> list[str]:
        """Where edges find the server; makes what both ends need for TLS."""
        tls = self._experiment.spec.transport.security is Security.TLS
        if tls:
            credentials = self._scratch / "tls"
            security.throw_away(credentials, [str(listener.getsockname()[0])])
            self._environment[contracts.TLS] = str(credentials)
        return ["--server", listeners.url(listener, tls=tls)]

    async def _until_over(
        self, edges: "asyncio.Task[None]", servers: Sequence["asyncio.Task[None]"]
    ) -> None:
        """Wait for the edges, or for a signal to stop them."""
        signalled = asyncio.create_task(_stop_signal())
        await asyncio.wait([edges, signalled, *servers], return_when=asyncio.FIRST_COMPLETED)
        self._stopped = signalled.done()
        if not self._stopped and not edges.done():
            await asyncio.wait([edges], timeout=_NOTICE_SECONDS)
        if not edges.done():
            started = [self._processes[n] for n in self._edges() if n in self._processes]
            await asyncio.gather(*map(_terminate, started))
        await edges
        signalled.cancel()
        await asyncio.wait([signalled])

    async def _run_edges(self, arguments: Sequence[str], shown: "Shown") -> None:
        """Every edge, to its end."""
        started = []
        for name in self._edges():
            edge = ["edge", *self._common, "--name", name, "--out", str(self._folder(name))]
            process = await self._start(name, [*edge, *arguments])
            started.append(self._read(name, process, partial(shown.event, name)))
        await asyncio.gather(*started)

    def _edges(self) -> list[str]:
        return contracts.edge_names(self._experiment.spec.edge.replicas)

    def _folder(self, edge: str) -> Path:
        return self._out if len(self._edges()) == 1 else self._out / edges.FOLDER / edge

    async def _keep_server(self, listener: socket.socket) -> None:
        """Run the server, again where it is lost and the study can wait for it.

        Returns if it cannot run again: it gave a reason, never served, or `onServerLoss` is Fail.
        """
        arguments = ["server", *self._common, "--fd", str(listener.fileno())]
        served = True
        while served:
            served = False

            def note(event: Mapping[str, Any]) -> None:
                nonlocal served
                served = served or event["event"] == "serving"

            server = await self._start("server", arguments, listener)
            await self._read("server", server, note)
            waits = self._experiment.spec.partition.server_loss is not OnServerLoss.FAIL
            if self._ending or not waits or "server" in self._failures:
                break
            if served:
                self._console.print(f"The server {_ending(server.returncode)} and starts again.")
        self._server_code = self._processes["server"].returncode

    async def _start(
        self, name: str, arguments: list[str], listener: socket.socket | None = None
    ) -> Process:
        with (self._scratch / f"{name}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # or a queue.py in the current folder would take the library's place
                "-m",
                "splittracr",
                *arguments,
                stdin=PIPE,  # its end tells the worker that this process is gone
                stdout=PIPE,
                stderr=log,
                env=self._environment,
                pass_fds=[listener.fileno()] if listener else [],
                limit=_MAX_LINE,
            )
        self._processes[name] = process
        return process

    async def _read(
        self, name: str, process: Process, show: Callable[[dict[str, Any]], None]
    ) -> None:
        """Follow one worker's events to the end of its output, then wait for its exit."""
        assert process.stdout is not None
        async for line in process.stdout:
            event = _event(line)
            if event is None:
                continue
            if event["event"] == "failed":
                self._failures[name] = _Failure(event["error"], event["exit_code"])
            elif event["event"] == "finished":
                self._finished.add(name)
            else:
                show(event)
        await process.wait()

    def _verdict(self) -> _Failure | None:
        """What ended the study: a server that ended by itself is the cause, not the symptom."""
        ended = {name: self._processes[name].returncode for name in self._edges()}
        # Code of the user's may have ended a process with status 0.
        done = self._finished
        unfinished = [name for name, code in ended.items() if code != 0 or name not in done]
        if not unfinished:
            return None
        name = unfinished[0]
        edge = self._failures.get(name)
        if self._stopped:
            return edge or _Failure("stopped before the first frame", 1)
        if "server" in self._failures:
            return self._failures["server"]
        if self._server_code is not None:
            what = f"the server process {_ending(self._server_code)}"
            waiting = edge is None or edge.error.startswith("stopped")
            words = "" if edge is None or waiting else f"{edge.error}; "
            return _Failure(f"{words}{what}{self._log('server') if waiting else ''}", 1)
        early = " before its study was finished" if ended[name] == 0 else ""
        words = f"the edge process {_ending(ended[name])}{early}{self._log(name)}"
        return edge or _Failure(words, 1)

    def _keep_logs(self) -> None:
        """Copy what the workers said to the results, if there are any."""
        if not self._out.is_dir():
            return
        with contextlib.suppress(OSError):  # a full disk costs no result
            (self._out / contracts.LOGS).mkdir(exist_ok=True)
            for log in sorted(self._scratch.glob("*.log")):
                shutil.copy(log, self._out / contracts.LOGS / log.name)

    def _log(self, name: str) -> str:
        """The end of a worker's log, for one that ended without a word."""
        text = (self._scratch / f"{name}.log").read_text("utf-8", errors="replace").strip()
        return f". The end of its log:\n{text[-2000:]}" if text else ""


class Shown:
    """One bar for all edges. `words` says the same in a line."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self.words = "proving the model at both ends"
        self._task = bar.add_task(self.words, total=None)
        self._last: dict[str, dict[str, Any]] = {}

    def event(self, edge: str, event: dict[str, Any]) -> None:
        """Show an edge's progress."""
        if event["event"] != "progress":
            return
        self._last[edge] = event
        done, total, failed = (
            sum(last[key] for last in self._last.values()) for key in ("done", "total", "failed")
        )
        words = f"cut {event['cut']}" + (f", {failed} failed" if failed else "")
        self.words = f"{done:,} of {total:,} frames, {words}"
        self._bar.update(self._task, total=total, completed=done, description=words[:48])


async def print_progress(shown: Shown, console: Console, seconds: float = _LINE_SECONDS) -> None:
    """Print how far a study is every few seconds, for output that is no terminal."""
    started = time.monotonic()
    while True:
        passed = words.duration(time.monotonic() - started)
        console.print(f"{passed}: {shown.words}", highlight=False, soft_wrap=True)
        await asyncio.sleep(seconds)


def _event(line: bytes) -> dict[str, Any] | None:
    """One event of a worker; None for another line.

    A library that writes past Python's standard output may have left the beginning of a line.
    """
    try:
        event = json.loads(line[max(line.find(b'{"event": '), 0) :])
    except ValueError:
        return None
    return event if isinstance(event, dict) and isinstance(event.get("event"), str) else None


def _environment() -> dict[str, str]:
    """This process's, in which a worker finds this package even in the current folder."""
    root = str(Path(splittracr.__file__).resolve().parents[1])
    if root != str(Path.cwd()):
        return dict(os.environ)
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with status {code}"


async def _stop_signal() -> None:
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


async def _terminate(process: Process) -> None:
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), _GRACE_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
