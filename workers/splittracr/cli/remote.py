"""A study whose server runs on another machine, started by the system's ssh.

ssh runs `splittracr serve` there, and its output has the addresses to join. Its standard input
stays open: the server stops when it closes, also if this process is killed.
"""

import asyncio
import contextlib
import shlex
import shutil
import socket
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from rich.console import Console

from splittracr.cli import output
from splittracr.cli.inputs import END
from splittracr.cli.join import bring, check, edge_arguments, join, listen_on
from splittracr.cli.local import (
    Edges,
    conclude_run,
    edge_folder,
    is_complete,
    scratch_folder,
    write_manifest,
)
from splittracr.cli.workers import GRACE_SECONDS, Failure, Workers, terminate
from splittracr.edge import joining
from splittracr.edge.joining import Joined
from splittracr.experiment import manifest
from splittracr.experiment.contracts import SERVER, ExitCode, edge_name
from splittracr.experiment.errors import InvalidInput, ServerLost, SplittracrError
from splittracr.experiment.joining import Invitation
from splittracr.experiment.spec import SplitExperiment
from splittracr.results import edges

_LINE = "splittracr edge "
_LOOPBACK = "127.0.0.1"
_REPORT_SECONDS = 120.0


@dataclass(frozen=True)
class Remote:
    """A machine that ssh reaches, and how to run this program there.

    With `forward` edges connect through ssh, else to the machine itself.
    """

    target: str
    port: int | None
    command: str
    forward: bool

    @classmethod
    def parse(cls, text: str, command: str, *, forward: bool) -> Self:
        """Read `ssh://[USER@]HOST[:PORT]`. Raises InvalidInput."""
        expected = "a machine such as ssh://user@192.0.2.7 or ssh://tower:2222"
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise InvalidInput("--on", text, f"{expected} ({error})") from error
        odd = parts.password is not None or parts.path not in ("", "/") or parts.query
        if parts.scheme != "ssh" or not host or odd or parts.fragment:
            raise InvalidInput("--on", text, expected)
        name = host if parts.username is None else f"{parts.username}@{host}"
        if name.startswith("-"):  # ssh would take it for an option
            raise InvalidInput("--on", text, expected)
        return cls(name, port, command, forward)

    def ssh(self, *options: str) -> list[str]:
        """The ssh command with `options`, up to the machine's name."""
        port = [] if self.port is None else ["-p", str(self.port)]
        return ["ssh", "-T", "-o", "BatchMode=yes", *port, *options, "--", self.target]


class _Server:
    """The server there, from its start to its end. `scratch` gets the output of ssh."""

    def __init__(self, remote: Remote, scratch: Path) -> None:
        self._remote, self._scratch = remote, scratch
        self._process: Process | None = None

    @contextlib.asynccontextmanager
    async def serving(self, experiment: SplitExperiment) -> AsyncIterator[list[Invitation]]:
        """Start it, and yield an invitation for each edge. At the end it is stopped.

        Raises SplittracrError if it cannot be started.
        """
        command = await self._command(experiment)
        master = ["-M", "-S", str(self._scratch / "ssh")] if self._remote.forward else []
        alive = ["-o", "ServerAliveInterval=15"]
        with (self._scratch / "ssh.log").open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._remote.ssh(*master, *alive),
                command,
                stdin=PIPE,
                stdout=PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for this process: it ends ssh in order
            )
        try:
            yield await self._invitations(self._process, experiment)
        finally:
            await self._stop(self._process)

    async def ended(self) -> int:
        """Wait until the server has ended, and return the exit status of ssh."""
        assert self._process is not None
        assert self._process.stdout is not None
        while await self._process.stdout.read(2**16):  # its tables, which are the same as here
            pass
        return await self._process.wait()

    def failure(self, code: int) -> Failure:
        """Why it ended early with exit status `code`."""
        said = (self._scratch / "ssh.log").read_text("utf-8", errors="replace").strip()[-2000:]
        where, target = f":\n{said}" if said else "", self._remote.target
        match code:
            case 255:  # of ssh itself
                return Failure(f"ssh to {target} failed{where}", ExitCode.FAILED)
            case 127:  # of the shell there
                hint = f"--remote-command names it, now {self._remote.command!r}"
                return Failure(f"{target} has no such command ({hint}){where}", ExitCode.FAILED)
        return Failure(f"the server on {target} ended with status {code}{where}", ExitCode.FAILED)

    async def _command(self, experiment: SplitExperiment) -> str:
        """The command line there."""
        forward = self._remote.forward
        host = _LOOPBACK if forward else await self._host()
        listen = _LOOPBACK if forward else listen_on(experiment.spec.server)
        options = ["serve", "-", "--with-parent", "--host", host, "--listen", listen]
        return f"{self._remote.command} {shlex.join(options)}"

    async def _host(self) -> str:
        """The name or address for the name in --on, which may be an alias in ssh's settings."""
        asked = await asyncio.create_subprocess_exec(
            *self._remote.ssh("-G"), stdout=PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        out, _ = await asked.communicate()
        found = dict(line.split(" ", 1) for line in out.decode().splitlines() if " " in line)
        return found.get("hostname", self._remote.target.rpartition("@")[2])

    async def _invitations(self, process: Process, experiment: SplitExperiment) -> list[Invitation]:
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(ConnectionError):  # it has ended, and says why below
            process.stdin.write(manifest.dump(experiment).encode() + END)
            await process.stdin.drain()
        found: list[Invitation] = []
        while len(found) < experiment.spec.edge.count:
            line = (await process.stdout.readline()).decode(errors="replace")
            if not line:
                raise SplittracrError(self.failure(await process.wait()).error)
            if line.startswith(_LINE):
                found.append(Invitation.parse(line.removeprefix(_LINE).strip().strip("'")))
        if not self._remote.forward:
            return found
        port = await self._forwarded(found[0].port)
        return [replace(one, host=_LOOPBACK, port=port) for one in found]

    async def _forwarded(self, port: int) -> int:
        """A port of this machine that ssh connects with the server's `port`."""
        with socket.create_server((_LOOPBACK, 0)) as free:
            local = free.getsockname()[1]
        forward = f"{_LOOPBACK}:{local}:{_LOOPBACK}:{port}"
        options = ["-S", str(self._scratch / "ssh"), "-O", "forward", "-L", forward]
        asked = await asyncio.create_subprocess_exec(*self._remote.ssh(*options), stderr=PIPE)
        _, said = await asked.communicate()
        if asked.returncode != 0:
            text = said.decode(errors="replace").strip()
            raise SplittracrError(f"ssh forwards no port of {self._remote.target}: {text}")
        return int(local)

    async def _stop(self, process: Process) -> None:
        """Close its standard input, which stops the server; end ssh if that takes too long."""
        if process.stdin is not None:
            process.stdin.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.ended(), GRACE_SECONDS)
        await terminate(process)


async def run(experiment: SplitExperiment, base: Path, out: Path, remote: Remote) -> int:
    """Run the edges here and the server there; both get the results. Returns the exit code."""
    check(experiment)
    if shutil.which("ssh") is None:
        raise SplittracrError("--on needs the command ssh, which is not installed")
    console = output.console()
    with scratch_folder() as scratch:
        server = _Server(remote, scratch)
        with console.status(f"starting the server on {remote.target}"):
            stack = contextlib.AsyncExitStack()
            invitations = await stack.enter_async_context(server.serving(experiment))
        async with stack:
            joined = [await _join(one, scratch / edge_name(i)) for i, one in enumerate(invitations)]
            failure = await _run_edges(joined, server, base, out, scratch, console)
            trouble = None
            if is_complete(failure):
                trouble = await _bring(joined, server, out)
    if len(joined) > 1:
        edges.join(out)
    code = conclude_run(failure, out, console)
    if remote.forward:
        console.print("The link's share contains the way through ssh.", highlight=False)
    if trouble is not None:
        output.complain(trouble)
    return code or (ExitCode.OK if trouble is None else ExitCode.FAILED)


async def _join(invitation: Invitation, folder: Path) -> Joined:
    try:
        return await asyncio.to_thread(join, invitation, folder)
    except ServerLost as error:
        hint = "if its port is closed to this machine, --forward connects through ssh"
        raise ServerLost(f"{error}; {hint}") from error


async def _run_edges(
    joined: Sequence[Joined],
    server: _Server,
    base: Path,
    out: Path,
    scratch: Path,
    console: Console,
) -> Failure | None:
    """Run all edges until they end or the server does."""
    experiment = joining.study(joined[0])
    file, by_name = write_manifest(experiment, scratch), {one.edge: one for one in joined}
    workers = Workers(scratch, console)

    async def watch() -> None:
        workers.failures[SERVER] = server.failure(await server.ended())

    folders = {name: edge_folder(experiment, out, name) for name in by_name}
    failure = await Edges(workers, folders, console).run(
        lambda name: edge_arguments(by_name[name], file, base), [asyncio.create_task(watch())]
    )
    workers.keep_logs(out)
    return failure


async def _bring(joined: Sequence[Joined], server: _Server, out: Path) -> str | None:
    """Send the results, and wait for the report there. Return the reason if that fails."""
    experiment = joining.study(joined[0])
    for one in joined:
        trouble = await bring(one, experiment, edge_folder(experiment, out, one.edge))
        if trouble is not None:
            return trouble
    try:
        code = await asyncio.wait_for(server.ended(), _REPORT_SECONDS)
    except TimeoutError:
        return f"the server made no report within {_REPORT_SECONDS:g} s"
    return None if code == 0 else server.failure(code).error
