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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from splittracr.experiment import manifest
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.spec import Mode, SplitExperiment
from splittracr.results import journal, report, terminal

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
    if (out / journal.FILE).exists() or (out.exists() and not out.is_dir()):
        raise InvalidInput("--out", str(out), "a new folder, or one without records.jsonl")
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
        errors.print(f"The records so far are in {out / journal.FILE}.", highlight=False)
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
        self._failures: list[_Failure] = []

    async def run(self) -> _Failure | None:
        """Start both, follow the edge to its end, stop both. None when the study finished."""
        processes: list[Process] = []
        try:
            edge_args = ["edge", *self._common, "--out", str(self._out)]
            if self._experiment.spec.partition.mode is not Mode.EDGE_ONLY:
                server, url = await self._start_server()
                processes.append(server)
                edge_args += ["--server", url]
            edge = await self._start("edge", edge_args)
            processes.append(edge)
            await self._follow(edge, processes[:-1])
        finally:
            await asyncio.gather(*(_terminate(process) for process in processes))
        if edge.returncode == 0:
            return None
        return self._failures[0] if self._failures else self._crash()

    async def _start_server(self) -> tuple[Process, str]:
        from splittracr.server.listener import bind

        spec = self._experiment.spec.server
        with bind(spec.host, spec.port) as listener:
            host, port = listener.getsockname()[:2]
            server = await self._start(
                "server", ["server", *self._common, "--fd", str(listener.fileno())], listener
            )
        return server, f"ws://{host}:{port}/v1/session"

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

    async def _follow(self, edge: Process, servers: list[Process]) -> None:
        """Show the edge's events until it ends, or until a server ends that it waits for."""
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

            edge_done = asyncio.create_task(self._read(edge, show))
            servers_done = [asyncio.create_task(self._read(s, lambda _: None)) for s in servers]
            stopped = asyncio.create_task(_stop_signal())
            others = [*servers_done, stopped]
            await asyncio.wait([edge_done, *others], return_when=asyncio.FIRST_COMPLETED)
            if not stopped.done() and not edge_done.done():
                await asyncio.wait([edge_done], timeout=_NOTICE_SECONDS)
            if not edge_done.done():
                await _terminate(edge)
            await edge_done
            for other in others:
                other.cancel()

    async def _read(self, process: Process, show: Any) -> None:
        """Follow one worker's events to the end of its output, then wait for its exit."""
        assert process.stdout is not None
        async for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "failed":
                self._failures.append(_Failure(event["error"], event["exit_code"]))
            else:
                show(event)
        await process.wait()

    def _crash(self) -> _Failure:
        """A worker ended without a word: the end of its log is the best there is."""
        logs = "\n".join(
            path.read_text(errors="replace")[-2000:] for path in sorted(self._scratch.glob("*.log"))
        )
        return _Failure(f"a worker ended unexpectedly.\n{logs}", 1)


async def _stop_signal() -> None:
    """Wait for SIGTERM or SIGINT."""
    told, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    await told.wait()


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
