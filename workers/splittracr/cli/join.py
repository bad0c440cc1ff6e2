"""A study on two machines: `serve` on one, and an edge that joins on the other."""

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil

from splittracr import security
from splittracr.cli import output
from splittracr.cli.local import (
    Edges,
    conclude,
    conclude_run,
    edge_folder,
    is_complete,
    scratch_folder,
    with_uid,
    write_manifest,
)
from splittracr.cli.workers import Event, Failure, Workers, ending, stop_signal
from splittracr.edge import handover, joining
from splittracr.edge.joining import Joined
from splittracr.experiment import contracts
from splittracr.experiment.contracts import SERVER, ExitCode
from splittracr.experiment.errors import InvalidInput, SplittracrError
from splittracr.experiment.joining import Invitation, Pass, Passes
from splittracr.experiment.spec import Mode, Security, ServerSpec, SplitExperiment
from splittracr.measure.listening import ANY
from splittracr.results import archive, edges
from splittracr.results.files import write_atomically
from splittracr.server import listener as listeners
from splittracr.server.reception import PASSES

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_HAND_OVER_SECONDS = 60.0
_ELSEWHERE = "192.0.2.1", 9  # an address that is never used (RFC 5737): no packet is sent


@dataclass(frozen=True)
class Served:
    """How a study is served.

    `hosts` are names under which edges reach this machine, `listen` is the address to listen on,
    and `seconds` is how long edges may join.
    """

    hosts: tuple[str, ...] = ()
    listen: str | None = None
    seconds: float = 3600.0


# --------------------------------------------------------------------------------------- server


async def serve(experiment: SplitExperiment, base: Path, out: Path, options: Served) -> int:
    """Run the server until every edge has sent its results; return the exit code.

    Prints one line for each edge on standard output: the command that joins.
    """
    console, experiment = output.console(), with_uid(experiment)
    check(experiment)
    spec = experiment.spec.server
    listen = options.listen or listen_on(spec)
    hosts = options.hosts or addresses(listen)
    with scratch_folder() as scratch, listeners.bind(listen, spec.port) as listener:
        now = datetime.now(UTC)
        credentials = security.mint([*dict.fromkeys((*hosts, *_LOOPBACK))], now)
        security.write(credentials, scratch / "tls")
        digest = security.authority_digest(credentials.authority.certificate)
        names = contracts.edge_names(experiment.spec.edge.count)
        port = listener.getsockname()[1]
        invitations = {n: Invitation(hosts[0], port, digest, security.new_secret()) for n in names}
        expires = now + timedelta(seconds=options.seconds)
        _write_passes(scratch, invitations, expires)
        workers = Workers(scratch, console)
        follower = _Follower(experiment, out, [str(one) for one in invitations.values()], expires)
        arguments = [str(write_manifest(experiment, scratch)), "--base", str(base)]
        arguments += ["--with-parent", "--tls", str(scratch / "tls"), "--reception", str(scratch)]
        server = workers.keep_server(experiment, arguments, listener, follower.event)
        lost = await _until_complete(workers, asyncio.create_task(server), follower)
        workers.keep_logs(out)
        if follower.waiting:
            failure = _failure(workers, follower.waiting, lost)
            output.complain(failure.error)
            return failure.exit_code
    if len(names) > 1:
        edges.join(out)
    finished = conclude(out, console).study.finished
    return ExitCode.OK if finished else ExitCode.FAILED


def check(experiment: SplitExperiment) -> None:
    """Raise InvalidInput for a study that no edge can join."""
    if experiment.spec.transport.security is not Security.TLS:
        expected = (
            "TLS, which protects the secret with which an edge joins: leave the field out, or add "
            "`--set spec.transport.security=TLS`. A study without encryption needs "
            "`splittracr server` and `splittracr edge FILE --server ws://HOST:PORT/v1/session`"
        )
        raise InvalidInput("spec.transport.security", "Plain", expected)
    if experiment.spec.partition.mode is Mode.EDGE_ONLY:
        expected = "a mode that has a server; `splittracr run` runs this one on the edge"
        raise InvalidInput("spec.partition.mode", "EdgeOnly", expected)


def listen_on(spec: ServerSpec) -> str:
    """The address to listen on: that of the manifest, else all of this machine."""
    return spec.host if "host" in spec.model_fields_set else ANY


def addresses(listen: str) -> tuple[str, ...]:
    """Addresses under which others reach this machine, the most likely one first."""
    if listen not in (ANY, "0.0.0.0"):
        return (listen,)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        outgoing = []
        with contextlib.suppress(OSError):  # there is no route
            probe.connect(_ELSEWHERE)
            outgoing.append(str(probe.getsockname()[0]))
    interfaces = psutil.net_if_addrs().values()
    found = [one.address for interface in interfaces for one in interface]
    usable = [address for address in found if _is_usable(address)]
    return tuple(dict.fromkeys([*outgoing, *usable])) or ("127.0.0.1",)


def _is_usable(text: str) -> bool:
    """Whether an edge may reach an address of an interface, which may be a hardware address."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_link_local)


def _write_passes(folder: Path, invitations: dict[str, Invitation], expires: datetime) -> None:
    passes = Passes(
        passes=tuple(
            Pass(edge=edge, digest=security.secret_digest(one.secret), expires=expires)
            for edge, one in invitations.items()
        )
    )
    write_atomically(folder / PASSES, passes.model_dump_json().encode())


class _Follower:
    """Handles the server's events: prints how to join, and stores the edges' archives.

    `complete` is set when all edges have sent theirs.
    """

    def __init__(
        self, experiment: SplitExperiment, out: Path, lines: Sequence[str], expires: datetime
    ) -> None:
        self._experiment, self._out = experiment, out
        self._lines, self._expires = lines, expires
        self._say = output.console(stderr=True).print
        self.waiting = set(contracts.edge_names(experiment.spec.edge.count))
        self.complete = asyncio.Event()

    def event(self, event: Event) -> None:
        """Handle an event of the server."""
        match event["event"]:
            case "serving" if self._lines:
                self._invite()
            case "joined":
                address = event["address"].removeprefix("::ffff:")  # IPv4 at a socket of both
                self._say(f"{event['edge']} joined from {address}.", highlight=False)
            case "results":
                self._take(event["edge"], Path(event["archive"]))

    def _invite(self) -> None:
        edges = "the edge" if len(self._lines) == 1 else "the edges, one line each"
        until = f"{self._expires.astimezone():%H:%M on %Y-%m-%d}"
        self._say(f"Run this on {edges}, until {until}:", highlight=False)
        for line in self._lines:
            # Shells take the brackets of an IPv6 address for a pattern.
            address = f"'{line}'" if "[" in line else line
            print(f"splittracr edge {address}", flush=True)
        self._lines = ()

    def _take(self, edge: str, packed: Path) -> None:
        folder = edge_folder(self._experiment, self._out, edge)
        try:
            archive.unpack(packed.read_bytes(), folder)
        except (SplittracrError, OSError) as error:
            output.complain(f"the results of {edge} cannot be used: {error}")
        self._say(f"{edge} has brought its results.", highlight=False)
        self.waiting.discard(edge)
        if not self.waiting:
            self.complete.set()


async def _until_complete(
    workers: Workers, server: "asyncio.Task[None]", follower: _Follower
) -> bool:
    """Wait for the results of all edges, a signal, or the server's end; then stop the server.

    Returns whether the server ended by itself.
    """
    told = asyncio.create_task(stop_signal())
    complete = asyncio.create_task(follower.complete.wait())
    try:
        await asyncio.wait([server, told, complete], return_when=asyncio.FIRST_COMPLETED)
        return server.done()
    finally:
        await workers.stop()
        for task in (server, told, complete):
            task.cancel()
        await asyncio.wait([server, told, complete])


def _failure(workers: Workers, waiting: set[str], lost: bool) -> Failure:
    """Why a server ended before the edges in `waiting` had sent their results."""
    if lost and SERVER in workers.failures:
        return workers.failures[SERVER]
    names = ", ".join(sorted(waiting))
    if lost:
        end = f"the server process {ending(workers.code(SERVER))}"
        return Failure(f"{end} before {names} had brought results{workers.log(SERVER)}", 1)
    return Failure(f"stopped before {names} had brought results", ExitCode.FAILED)


# ----------------------------------------------------------------------------------------- edge


def join(invitation: Invitation, folder: Path, seconds: float = 30.0) -> Joined:
    """Join, or continue as before; wait up to `seconds` while the clock of this machine is
    behind.
    """
    say = output.console(stderr=True).print
    return security.when_valid(lambda: joining.join(invitation, folder), seconds, say)


async def run_edge(joined: Joined, experiment: SplitExperiment, base: Path, out: Path) -> int:
    """Run an edge that has joined, and send its results to the server; return the exit code."""
    console = output.console()
    with scratch_folder() as scratch:
        file = write_manifest(experiment, scratch)
        workers = Workers(scratch, console)
        workers.environment |= joined.environment()
        failure = await Edges(workers, {joined.edge: out}, console).run(
            lambda _: edge_arguments(joined, file, base)
        )
        workers.keep_logs(out)
    trouble = None
    if is_complete(failure):
        trouble = await bring(joined, experiment, out)
    code = conclude_run(failure, out, console)
    again = "The same command goes on with the study, while the server waits."
    if trouble is not None:
        output.complain(trouble)
        again = "The same command brings the results, while the server waits."
        code = code or ExitCode.FAILED
    if not is_complete(failure) or trouble is not None:
        output.console(stderr=True).print(again, highlight=False)
    else:
        joined.forget()
    return code


def edge_arguments(joined: Joined, file: Path, base: Path) -> list[str]:
    """Arguments of the edge process."""
    study = [str(file), "--base", str(base), "--with-parent", "--resume"]
    return [*study, "--server", joined.session_url, "--tls", str(joined.folder)]


async def bring(joined: Joined, experiment: SplitExperiment, out: Path) -> str | None:
    """Send the results in `out` to the server; return the reason if that fails."""
    uid = experiment.metadata.uid
    assert uid is not None  # the server sends it
    url = joined.results_url(uid)
    try:
        await handover.bring(out, lambda: url, joined.token, _HAND_OVER_SECONDS, joined.tls)
    except SplittracrError as error:
        return f"the server does not have the results, they are in {out}: {error}"
    return None
