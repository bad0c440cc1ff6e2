"""A study on this machine: an edge and a server process, a progress bar, tables and a report.

The worker processes are the ones a cluster runs; this module only starts them, shows their events
and stops them.
"""

import asyncio
import json
import os
import secrets
import signal
import socket
import sys
import tempfile
import uuid
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from splittracr.experiment import manifest
from splittracr.experiment.spec import Mode, SplitExperiment
from splittracr.results import journal, report, terminal
from splittracr.server import listener as listeners

_GRACE_SECONDS = 10

# When the server ends first, an edge in the middle of a run finds out by itself, in its own words;
# one that still waits for the handshake would wait in vain.
_NOTICE_SECONDS = 2


@dataclass(frozen=True)
class _Failure:
    """Why a worker ended early, in its own words."""

    error: str
    exit_code: int


async def run(experiment: SplitExperiment, base: Path, out: Path) -> int:
    """Run the study and leave everything in `out`; returns the exit code."""
    console = Console()
    metadata = experiment.metadata.model_copy(update={"uid": str(uuid.uuid4())})
    experiment = experiment.model_copy(update={"metadata": metadata})
    with tempfile.TemporaryDirectory(prefix="splittracr-") as scratch:
        file = Path(scratch) / "manifest.yaml"
        file.write_text(manifest.dump(experiment))
        failure = await _Local(experiment, file, base, out, Path(scratch), console).run()
    if failure is None:
        conclude(out, console)
        return 0
    errors = Console(stderr=True)
    errors.print(f"[bold red]Error[/] {escape(failure.error)}", highlight=False)
    if (out / journal.FILE).exists():
        errors.print(
            f"The records so far are in {out / journal.FILE}; "
            f"`splittracr report {out}` makes a report of them.",
            highlight=False,
        )
    return failure.exit_code


def conclude(out: Path, console: Console) -> None:
    """Write tables, figures and report from the records in `out`, and print the tables."""
    summary = report.write_results(out)
    terminal.show(summary, out, console)


class _Local:
    """The two processes of one run."""

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
        self._environment = {**os.environ, "SPLITTRACR_TOKEN": secrets.token_urlsafe(32)}
        self._failures: dict[str, _Failure] = {}
        self._stopped = False

    async def run(self) -> _Failure | None:
        """Start both, follow the edge to its end, stop both. None when the study finished."""
        server: Process | None = None
        workers: list[Process] = []
        try:
            edge_args = ["edge", *self._common, "--out", str(self._out)]
            if self._experiment.spec.partition.mode is not Mode.EDGE_ONLY:
                server, url = await self._start_server()
                workers.append(server)
                edge_args += ["--server", url]
            edge = await self._start("edge", edge_args)
            workers.append(edge)
            await self._follow(edge, server)
            server_code = server.returncode if server else None  # before it is told to stop
        finally:
            await asyncio.gather(*(_terminate(process) for process in workers))
        return self._verdict(edge.returncode, server_code)

    async def _start_server(self) -> tuple[Process, str]:
        spec = self._experiment.spec.server
        with listeners.bind(spec.host, spec.port) as listener:
            arguments = ["server", *self._common, "--fd", str(listener.fileno())]
            return await self._start("server", arguments, listener), listeners.url(listener)

    async def _start(
        self, name: str, arguments: list[str], listener: socket.socket | None = None
    ) -> Process:
        with (self._scratch / f"{name}.log").open("wb") as log:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "splittracr",
                *arguments,
                stdin=PIPE,  # its end tells the worker that this process is gone
                stdout=PIPE,
                stderr=log,
                env=self._environment,
                pass_fds=[listener.fileno()] if listener else [],
            )

    async def _follow(self, edge: Process, server: Process | None) -> None:
        """Show the edge's events until it ends, or until it has to be told to."""
        with _progress(self._console) as bar:
            task = bar.add_task("proving the network at both ends", total=None)

            def show(event: dict[str, Any]) -> None:
                if event["event"] == "progress":
                    failed = f", {event['failed']} failed" if event["failed"] else ""
                    bar.update(
                        task,
                        total=event["total"],
                        completed=event["done"],
                        description=f"cut {event['cut']}{failed}"[:48],
                    )

            edge_done = asyncio.create_task(self._read("edge", edge, show))
            told = asyncio.create_task(_stop_signal())
            others = [told]
            if server is not None:
                others.append(asyncio.create_task(self._read("server", server, lambda _: None)))
            await asyncio.wait([edge_done, *others], return_when=asyncio.FIRST_COMPLETED)
            self._stopped = told.done()
            if not self._stopped and not edge_done.done():
                await asyncio.wait([edge_done], timeout=_NOTICE_SECONDS)
            if not edge_done.done():
                await _terminate(edge)
            await edge_done
            for other in others:
                other.cancel()
            await asyncio.wait(others)

    async def _read(
        self, role: str, process: Process, show: Callable[[dict[str, Any]], None]
    ) -> None:
        """Follow one worker's events to the end of its output, then wait for its exit."""
        assert process.stdout is not None
        async for line in process.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                continue  # a library wrote past Python's standard output
            if event["event"] == "failed":
                self._failures[role] = _Failure(event["error"], event["exit_code"])
            else:
                show(event)
        await process.wait()

    def _verdict(self, edge_code: int | None, server_code: int | None) -> _Failure | None:
        """What ended the study: a server that ended by itself is the cause, not the symptom."""
        if edge_code == 0:
            return None
        edge = self._failures.get("edge")
        if self._stopped:
            return edge or _Failure("stopped before the first frame", 1)
        if "server" in self._failures:
            return self._failures["server"]
        if server_code is not None:
            ended = f"the server process {_ending(server_code)}"
            waiting = edge is None or edge.error.startswith("stopped")
            words = "" if edge is None or waiting else f"{edge.error}; "
            return _Failure(f"{words}{ended}{self._log('server') if waiting else ''}", 1)
        return edge or _Failure(f"the edge process {_ending(edge_code)}{self._log('edge')}", 1)

    def _log(self, role: str) -> str:
        """The end of a worker's log, for one that ended without a word."""
        text = (self._scratch / f"{role}.log").read_text(errors="replace").strip()
        return f". The end of its log:\n{text[-2000:]}" if text else ""


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with status {code}"


async def _stop_signal() -> None:
    """Wait for SIGTERM or SIGINT."""
    told, loop = asyncio.Event(), asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, told.set)
    try:
        await told.wait()
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
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
