"""Commands about one study: run it here or on two machines, report on it, convert one of tracr."""

import asyncio
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from splittracr.cli import inputs, options, output
from splittracr.cli.options import (
    Base,
    File,
    ResultsFolder,
    Set,
    Tls,
    TlsCa,
    TlsCert,
    TlsKey,
    Verbose,
    Weights,
    WithParent,
)
from splittracr.experiment.contracts import LOGS, SENSOR_PORT, edge_name
from splittracr.experiment.errors import InvalidInput

if TYPE_CHECKING:  # they take time to import
    from splittracr.edge.dial import Endpoint
    from splittracr.edge.reporting import Surroundings
    from splittracr.experiment.spec import SplitExperiment
    from splittracr.security import TlsFiles


def run(
    file: File,
    out: ResultsFolder = None,
    set_: Set = None,
    weights: Weights = None,
    verbose: Verbose = False,
    on: options.On = None,
    remote_command: options.RemoteCommand = None,
    forward: options.Forward = False,
) -> int:
    """Run a study here: an edge and a server process on this machine, then tables and a report.

    With --on the server runs on another machine. Relative paths of the manifest start there at the
    home folder; `--remote-command "cd study && splittracr"` starts them elsewhere.
    """
    from splittracr.cli import local

    if on is None and (forward or remote_command is not None):
        given = "--forward" if forward else "--remote-command"
        raise InvalidInput("--on", None, f"the machine of the server, which {given} belongs to")
    experiment = inputs.load(file, set_, weights, verbose=verbose)
    folder = inputs.results_folder(out, experiment.metadata.name)
    if on is not None:
        from splittracr.cli import remote

        there = remote.Remote.parse(on, remote_command or "splittracr", forward=forward)
        return asyncio.run(remote.run(experiment, inputs.base_folder(file, None), folder, there))
    return asyncio.run(local.run(experiment, file.resolve().parent, folder))


def server(
    file: File,
    set_: Set = None,
    weights: Weights = None,
    verbose: Verbose = False,
    base: Base = None,
    tls: Tls = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_ca: TlsCa = None,
    listener: Annotated[
        int | None, typer.Option("--fd", help="Listen on this inherited socket.", hidden=True)
    ] = None,
    reception: options.ReceptionFolder = None,
    with_parent: WithParent = False,
) -> int:
    """Run the server worker of a study until SIGTERM.

    Edges have to bring the token, of the environment variable SPLITTRACR_TOKEN or the folder in
    --tls, or a certificate of the authority. `splittracr certs` makes all of them; without TLS the
    manifest has to say `spec.transport.security: Plain`.
    """
    experiment = inputs.load(file, set_, weights, verbose=verbose)
    from splittracr.backends import probe

    probe.check(experiment.spec.server.runtime, "spec.server.runtime")
    from splittracr import process, security
    from splittracr.backends import registry
    from splittracr.server import listener as listeners
    from splittracr.server import main
    from splittracr.server.reception import Reception

    spec = experiment.spec.server
    bound = (
        socket.socket(fileno=listener)
        if listener is not None
        else listeners.bind(spec.host, spec.port)
    )
    files = security.TlsFiles.named(tls, security.SERVER, tls_cert, tls_key, tls_ca)
    wanted = experiment.spec.transport.security
    context = inputs.with_clock(lambda: security.server_tls(wanted, files), experiment)
    if with_parent:
        process.stop_with_parent()
    folder = inputs.base_folder(file, base)
    runtime = registry.load(spec.runtime)
    desk = None
    if reception is not None and tls is not None:
        desk = Reception(experiment, reception, tls)
    return process.run_worker(
        "server",
        lambda stop: main.serve(
            experiment, runtime, folder, inputs.token(tls), context, bound, stop, desk
        ),
        experiment.spec.logging.level,
    )


def serve(
    file: File,
    host: options.ReachedAs = None,
    listen: options.Listen = None,
    ttl: options.Ttl = 3600.0,
    out: ResultsFolder = None,
    set_: Set = None,
    weights: Weights = None,
    verbose: Verbose = False,
    base: Base = None,
    with_parent: WithParent = False,
) -> int:
    """Serve a study to an edge on another machine, and fetch its results at the end.

    Prints the command to run there. It needs no file: the edge gets the manifest and a certificate.
    With `spec.edge.replicas` above 1 it prints one for each edge.
    """
    experiment = inputs.load(file, set_, weights, verbose=verbose, marked=with_parent)
    from splittracr import process
    from splittracr.cli import join

    if with_parent:
        process.stop_with_parent()
    folder = inputs.results_folder(out, experiment.metadata.name)
    served = join.Served(tuple(host or ()), listen, ttl)
    return asyncio.run(join.serve(experiment, inputs.base_folder(file, base), folder, served))


def edge(
    study: options.Study,
    out: options.EdgeFolder = None,
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="URL such as wss://192.0.2.7:8765/v1/session.")
    ] = None,
    name: Annotated[str, typer.Option(help="This edge's name in the records.")] = edge_name(0),
    set_: Set = None,
    weights: Weights = None,
    verbose: Verbose = False,
    base: Base = None,
    resume: Annotated[
        bool, typer.Option(help="Continue in a folder that holds records of this study.")
    ] = False,
    tls: Tls = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_ca: TlsCa = None,
    with_parent: WithParent = False,
) -> int:
    """Run an edge of a study whose server runs elsewhere.

    With the address that `splittracr serve` prints, the edge gets the manifest, a name and a
    certificate from the server, and both show the results. After a failure, run the same command
    again: the edge continues.

    With a manifest, the token comes from the environment variable SPLITTRACR_TOKEN or the folder in
    --tls. Make the tables and the report afterwards with `splittracr report`.
    """
    from splittracr.experiment.joining import is_invitation

    if is_invitation(study):
        _refuse_beside_address(study, server, resume=resume)
        return _join(study, out, base, set_, weights, verbose=verbose)
    if out is None:
        raise InvalidInput("--out", None, "a folder for the results, as STUDY is a manifest")
    file = Path(study)
    experiment = inputs.load(file, set_, weights, verbose=verbose)
    results = out if resume else inputs.new_folder(out)
    runtime = inputs.edge_runtime(experiment)
    from splittracr import process, security
    from splittracr.edge import main
    from splittracr.edge.reporting import surroundings
    from splittracr.results import journal

    if with_parent:
        process.stop_with_parent()
    folder, around = inputs.base_folder(file, base), surroundings(name, resume)
    endpoint = None
    if server is not None:
        files = security.TlsFiles.named(tls, security.EDGE, tls_cert, tls_key, tls_ca)
        endpoint = _endpoint(server, experiment, files, inputs.token(tls), around)
    return process.run_worker(
        "edge",
        lambda stop: main.study(experiment, runtime, folder, results, endpoint, stop, around),
        experiment.spec.logging.level,
        # In a cluster the operator keeps the logs, and `run` those of its processes.
        None
        if around.termination or with_parent
        else process.LogFile(results / LOGS / f"{name}.log", results / journal.FILE),
    )


def _endpoint(
    url: str,
    experiment: "SplitExperiment",
    files: "TlsFiles | None",
    token: str | None,
    around: "Surroundings",
) -> "Endpoint":
    """The server at `url`, as an edge connects to it."""
    from splittracr import security
    from splittracr.edge.dial import Endpoint

    wanted = experiment.spec.transport.security
    context = inputs.with_clock(lambda: security.edge_tls(wanted, files, url), experiment)
    # In a cluster, Kubernetes replaces servers and their certificates.
    changes = around.termination is not None or around.reports is not None
    return Endpoint(url, token, context, changes=changes)


def _refuse_beside_address(address: str, server: str | None, *, resume: bool) -> None:
    """Raise InvalidInput for an option that goes with a manifest only."""
    from splittracr.experiment.joining import Invitation

    if server is not None:
        raise InvalidInput("--server", server, "nothing: the address STUDY contains it")
    if resume:
        shown = f"{Invitation.parse(address).server}#…"
        expected = "a manifest: --resume goes with one. An address resumes by itself"
        raise InvalidInput("STUDY", shown, expected)


def _join(
    address: str,
    out: Path | None,
    base: Path | None,
    set_: list[str] | None,
    weights: str | None,
    *,
    verbose: bool,
) -> int:
    """Run an edge that joins at `address`, or continues the study that it joined before."""
    from splittracr.cli import join
    from splittracr.data import needed
    from splittracr.edge import joining
    from splittracr.experiment.joining import Invitation

    invitation = Invitation.parse(address)
    joined = join.join(invitation, joining.kept_at(invitation))
    experiment = inputs.load(joined.manifest, set_, weights, verbose=verbose)
    folder = (base or Path.cwd()).resolve()
    needed.check(experiment.spec, folder)
    results = joined.out if out is None else out.resolve()
    if results is None or results != joined.out:
        results = inputs.results_folder(results, experiment.metadata.name)
        joined = joined.keep(results)
    return asyncio.run(join.run_edge(joined, experiment, folder, results))


def sensor(
    host: Annotated[str, typer.Option(help="Address to listen on; :: is all of them.")] = "::1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")
    ] = SENSOR_PORT,
    sys: Annotated[Path, typer.Option(help="Where the files of /sys are.")] = Path("/sys"),
) -> int:
    """Serve the joules that this machine's sensors count, until SIGTERM.

    Workers without rights on the sensors' files read them here: name the address in a file, and
    the file in the environment variable SPLITTRACR_SENSOR. In a cluster the chart's
    `sensor.enabled` does both.
    """
    from splittracr.cli import sensor as sensors

    return asyncio.run(sensors.serve(host, port, sys))


def certs(
    out: Annotated[Path, typer.Option(help="Folder for them; without --add it may hold none.")],
    host: Annotated[
        list[str],
        typer.Option(help="Name or address under which edges reach the server; repeatable."),
    ],
    days: Annotated[int, typer.Option(min=1, max=3650, help="How long they are valid.")] = 365,
    add: Annotated[
        bool,
        typer.Option("--add", help="Add --host to the server's certificate in --out, by ca.key."),
    ] = False,
) -> None:
    """Make an authority, certificates for both ends and a token, for runs on two machines.

    `splittracr serve` needs none of them.
    """
    from datetime import UTC, datetime

    from splittracr import security

    if add:
        every = security.add_hosts(out, host, datetime.now(UTC), days)
        print(f"wrote {out / 'server.crt'} and server.key, for {', '.join(every)}")
        return
    security.write(security.mint(host, datetime.now(UTC), days), out)
    print(f"wrote {out}: ca, server and edge, each .crt and .key, and the token")


def report(
    folder: Annotated[
        Path, typer.Argument(help="A folder with records.jsonl and environment.json.")
    ],
) -> None:
    """Make tables, figures and the HTML report of a study again from its records."""
    from splittracr.cli import local

    local.conclude(folder, output.console())


def convert(
    config: Annotated[
        Path, typer.Argument(help="A configuration of SplitTracr (tracr).", metavar="CONFIG")
    ],
    devices: Annotated[Path | None, typer.Option(help="Its devices file.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="File to write; - is standard output. [NAME-study.yaml]",
        ),
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option(
            help="Where relative paths in CONFIG start. [the folder above config/, else CONFIG's]"
        ),
    ] = None,
) -> None:
    """Turn a configuration of SplitTracr (tracr) into a manifest.

    The manifest begins with what became of every key: carried over, replaced or dropped, and why.
    """
    from splittracr.cli import convert as converter

    converter.convert(config, devices, out, base)
