"""A study whose edges run on this machine: a progress bar, tables and a report.

The server runs here as well, or elsewhere.
"""

import asyncio
import secrets
import socket
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from splittracr import security
from splittracr.cli import output
from splittracr.cli.guard import to_install
from splittracr.cli.interrupt import stopping
from splittracr.cli.workers import Event, Failure, Workers, ending, stop_signal
from splittracr.experiment import contracts, manifest
from splittracr.experiment.contracts import EDGE, SERVER, ExitCode
from splittracr.experiment.errors import SplittracrError, naming, of_system
from splittracr.experiment.spec import Mode, Security, SplitExperiment
from splittracr.results import edges, journal, terminal, words
from splittracr.results.summary import Summary
from splittracr.server import listener as listeners

# When the server ends first, an edge in the middle of a run finds out by itself, in its own words;
# one that still waits for the handshake would wait in vain.
_NOTICE_SECONDS = 2

_LINE_SECONDS = 5.0

Arguments = Callable[[str], Sequence[str]]
"""The arguments of an edge by its name, besides name and folder."""


async def run(experiment: SplitExperiment, base: Path, out: Path) -> int:
    """Run the study and write all results to `out`; return the exit code."""
    console = output.console()
    experiment = with_uid(experiment)
    with scratch_folder() as scratch:
        file = write_manifest(experiment, scratch)
        common = [str(file), "--base", str(base), "--with-parent"]
        workers = Workers(scratch, console)
        workers.environment[contracts.TOKEN] = secrets.token_urlsafe(32)
        names = contracts.edge_names(experiment.spec.edge.count)
        folders = {name: edge_folder(experiment, out, name) for name in names}
        with ExitStack() as stack:
            servers = []
            if experiment.spec.partition.mode is not Mode.EDGE_ONLY:
                spec = experiment.spec.server
                listener = stack.enter_context(listeners.bind(spec.host, spec.port))
                url = _prepared(experiment, listener, scratch, workers)
                servers.append(
                    asyncio.create_task(workers.keep_server(experiment, common, listener))
                )
                common = [*common, "--server", url]
            failure = await Edges(workers, folders, console).run(lambda _: common, servers)
        workers.keep_logs(out)
    if len(names) > 1:
        edges.join(out)
    return conclude_run(failure, out, console)


def with_uid(experiment: SplitExperiment) -> SplitExperiment:
    """The study with a new uid, which identifies this run."""
    metadata = experiment.metadata.model_copy(update={"uid": str(uuid.uuid4())})
    return experiment.model_copy(update={"metadata": metadata})


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for the files of one run."""
    with tempfile.TemporaryDirectory(prefix="splittracr-") as scratch:
        yield Path(scratch)


def write_manifest(experiment: SplitExperiment, folder: Path) -> Path:
    """Write the manifest for workers into `folder`."""
    file = folder / "manifest.yaml"
    with naming(file):
        file.write_text(manifest.dump(experiment), "utf-8")
    return file


def is_complete(failure: Failure | None) -> bool:
    """Whether edges with these exit codes have recorded everything."""
    return failure is None or failure.exit_code == ExitCode.ALL_FAILED


def conclude_run(failure: Failure | None, out: Path, console: Console) -> int:
    """Show the results, or why there are none; return the exit code."""
    if is_complete(failure):
        try:
            conclude(out, console)
        except ModuleNotFoundError as error:  # an edge without PyTorch makes no figures either
            missing = to_install(error)
            console.print(
                f"The records are in {out}. For the tables and the report: {missing}, then "
                f"`splittracr report {out}`.",
                highlight=False,
            )
    if failure is None:
        return ExitCode.OK
    output.complain(failure.error)
    if not is_complete(failure) and journal.has_records(out):
        output.console(stderr=True).print(
            f"The records so far are in {out / journal.FILE}; "
            f"`splittracr report {out}` makes a report of them.",
            highlight=False,
        )
    return failure.exit_code


def conclude(out: Path, console: Console) -> Summary:
    """Write tables, figures and report from the records in `out`, and print the tables.

    Raises SplittracrError if a file cannot be read or written, and ModuleNotFoundError if the
    packages for it are not installed.
    """
    from splittracr.results import report

    with stopping(f"stopped in the middle of the report; `splittracr report {out}` makes it again"):
        try:
            summary = report.write_results(out)
        except OSError as error:
            raise SplittracrError(
                f"the report is not complete: {of_system(error)}. The records are safe in {out}; "
                f"`splittracr report {out}` makes the rest."
            ) from error
        terminal.show(summary, out, console)
    return summary


def _prepared(
    experiment: SplitExperiment, listener: socket.socket, scratch: Path, workers: Workers
) -> str:
    """The server's address for edges; makes what both ends need for TLS."""
    tls = experiment.spec.transport.security is Security.TLS
    if tls:
        credentials = scratch / "tls"
        security.throw_away(credentials, [str(listener.getsockname()[0])])
        workers.environment[contracts.TLS] = str(credentials)
    return listeners.url(listener, tls=tls)


def edge_folder(experiment: SplitExperiment, out: Path, edge: str) -> Path:
    """Where an edge's own results are, below the folder `out` of the study."""
    return out if experiment.spec.edge.count == 1 else out / edges.FOLDER / edge


class Edges:
    """The edges of one run, all on this machine. `folders` has the results folder of each."""

    def __init__(self, workers: Workers, folders: Mapping[str, Path], console: Console) -> None:
        self._workers, self._folders, self._console = workers, folders, console
        self._stopped = False

    async def run(
        self, arguments: Arguments, servers: Sequence["asyncio.Task[None]"] = ()
    ) -> Failure | None:
        """Start all edges, follow them to their end, and stop all workers.

        `servers` ends when the server has ended. Returns None if the study has finished.
        """
        beside = list(servers)
        try:
            with _progress(self._console) as bar:
                shown = Shown(bar)
                if not self._console.is_terminal:
                    lines = print_progress(shown, output.console(stderr=True))
                    beside.append(asyncio.create_task(lines))
                running = asyncio.create_task(self._run(arguments, shown))
                await self._until_over(running, servers)
            verdict = self._verdict()  # before the server is stopped, which changes it
        finally:
            await self._workers.stop()
            for task in beside:
                task.cancel()
            if beside:
                await asyncio.wait(beside)
        return verdict

    async def _until_over(
        self, edges: "asyncio.Task[None]", servers: Sequence["asyncio.Task[None]"]
    ) -> None:
        """Wait for the edges, or for a signal to stop them."""
        signalled = asyncio.create_task(stop_signal())
        await asyncio.wait([edges, signalled, *servers], return_when=asyncio.FIRST_COMPLETED)
        self._stopped = signalled.done()
        if not self._stopped and not edges.done():
            await asyncio.wait([edges], timeout=_NOTICE_SECONDS)
        if not edges.done():
            await self._workers.stop(list(self._folders))
        await edges
        signalled.cancel()
        await asyncio.wait([signalled])

    async def _run(self, arguments: Arguments, shown: "Shown") -> None:
        """Every edge, to its end."""
        started = []
        for name, folder in self._folders.items():
            edge = [EDGE, *arguments(name), "--name", name, "--out", str(folder)]
            started.append(self._workers.run(name, edge, partial(shown.event, name)))
        await asyncio.gather(*started)

    def _verdict(self) -> Failure | None:
        """The cause of the study's end. A server that ended by itself is the cause, not the
        symptom.
        """
        workers = self._workers
        ended = {name: workers.code(name) for name in self._folders}
        # Code of the user's may have ended a process with status 0.
        done = workers.finished
        unfinished = [name for name, code in ended.items() if code != 0 or name not in done]
        if not unfinished:
            return None
        name = unfinished[0]
        edge = workers.failures.get(name)
        if self._stopped:
            return edge or Failure("stopped before the first frame", 1)
        if SERVER in workers.failures:
            return workers.failures[SERVER]
        if workers.server_code is not None:
            what = f"the server process {ending(workers.server_code)}"
            waiting = edge is None or edge.error.startswith("stopped")
            words = "" if edge is None or waiting else f"{edge.error}; "
            return Failure(f"{words}{what}{workers.log(SERVER) if waiting else ''}", 1)
        early = " before its study was finished" if ended[name] == 0 else ""
        words = f"the edge process {ending(ended[name])}{early}{workers.log(name)}"
        return edge or Failure(words, 1)


class Shown:
    """One bar for all edges. `words` is the same as a line of text."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self.words = "proving the model at both ends"
        self._task = bar.add_task(self.words, total=None)
        self._last: dict[str, Event] = {}

    def event(self, edge: str, event: Event) -> None:
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


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
