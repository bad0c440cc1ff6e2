"""`splittracr`: every command and its options. A command imports torch only if it needs it."""

import asyncio
import re
import socket
from pathlib import Path
from typing import Annotated, Any

import typer

from splittracr import __version__
from splittracr.cli import inputs, options, output
from splittracr.cli.guard import Guarded, Listing, to_install
from splittracr.cli.options import (
    Args,
    Base,
    File,
    Goal,
    Namespace,
    Per,
    ResultsFolder,
    Set,
    StudyName,
    Tls,
    TlsCa,
    TlsCert,
    TlsKey,
    Verbose,
    Weights,
    WithParent,
)
from splittracr.data import home
from splittracr.experiment import explain
from splittracr.experiment.contracts import EDGE_PATTERN, LOGS, SENSOR_PORT, Role, edge_name
from splittracr.experiment.errors import InvalidInput, naming
from splittracr.experiment.joining import Invitation, TokenRequest, is_invitation
from splittracr.experiment.spec import ExperimentSpec, Runtime


class _App(typer.Typer):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        output.prepare()
        home.ensure()
        return super().__call__(*args, **kwargs)


app = _App(
    cls=Guarded,
    help="Split computing, run for real: the head of a model on an edge, the tail on a server.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


@app.command()
def run(
    file: File,
    out: ResultsFolder = None,
    set_: Set = None,
    weights: Weights = None,
    verbose: Verbose = False,
    on: options.On = None,
    remote_command: options.RemoteCommand = "splittracr",
    forward: options.Forward = False,
) -> int:
    """Run a study here: an edge and a server process on this machine, then tables and a report.

    With --on the server runs on another machine. Relative paths of the manifest start there at the
    home folder; `--remote-command "cd study && splittracr"` starts them elsewhere.
    """
    from splittracr.cli import local

    experiment = inputs.load(file, set_, weights, verbose=verbose)
    folder = inputs.results_folder(out, experiment.metadata.name)
    if on is not None:
        from splittracr.cli import remote

        there = remote.Remote.parse(on, remote_command, forward=forward)
        return asyncio.run(remote.run(experiment, inputs.base_folder(file, None), folder, there))
    return asyncio.run(local.run(experiment, file.resolve().parent, folder))


@app.command()
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


@app.command()
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


@app.command()
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
    if is_invitation(study):
        for option, given in (("--server", server), ("--resume", resume or None)):
            if given is not None:
                raise InvalidInput(option, given, "nothing: the address STUDY contains it")
        return _join(study, out, base, set_, weights, verbose=verbose)
    if out is None:
        raise InvalidInput("--out", None, "a folder for the results, as STUDY is a manifest")
    file = Path(study)
    experiment = inputs.load(file, set_, weights, verbose=verbose)
    results = out if resume else inputs.new_folder(out)
    from splittracr import process, security
    from splittracr.backends import registry
    from splittracr.edge import main
    from splittracr.edge.dial import Endpoint
    from splittracr.edge.reporting import surroundings
    from splittracr.results import journal

    if with_parent:
        process.stop_with_parent()
    folder, around = inputs.base_folder(file, base), surroundings(name, resume)
    endpoint = None
    if server is not None:
        files = security.TlsFiles.named(tls, security.EDGE, tls_cert, tls_key, tls_ca)
        wanted = experiment.spec.transport.security
        context = inputs.with_clock(lambda: security.edge_tls(wanted, files, server), experiment)
        # In a cluster, Kubernetes replaces servers and their certificates.
        changes = around.termination is not None or around.reports is not None
        endpoint = Endpoint(server, inputs.token(tls), context, changes=changes)
    runtime = registry.load(experiment.spec.edge.runtime)
    return process.run_worker(
        "edge",
        lambda stop: main.study(experiment, runtime, folder, results, endpoint, stop, around),
        experiment.spec.logging.level,
        # In a cluster the operator keeps the logs, and `run` those of its processes.
        None
        if around.termination or with_parent
        else process.LogFile(results / LOGS / f"{name}.log", results / journal.FILE),
    )


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


@app.command()
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


@app.command()
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


@app.command()
def report(
    folder: Annotated[
        Path, typer.Argument(help="A folder with records.jsonl and environment.json.")
    ],
) -> None:
    """Make tables, figures and the HTML report of a study again from its records."""
    from splittracr.cli import local

    local.conclude(folder, output.console())


@app.command()
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


@app.command(cls=Listing)
def models(
    pattern: Annotated[str, typer.Argument(help="Show only names that contain this.")] = "",
) -> None:
    """List the models that a manifest can name."""
    from splittracr.cli import catalogue

    catalogue.print_models(pattern, output.console())


@app.command(cls=Listing)
def cuts(
    model: Annotated[str, typer.Argument(help="A model, as `splittracr models` lists it.")],
    input_size: Annotated[
        str | None,
        typer.Option(metavar="HEIGHTxWIDTH", help="Height and width in pixels. [the model's own]"),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Pictures in one frame.")] = 1,
    args: Args = None,
    runtime: options.RuntimeOption = Runtime.TORCH,
) -> None:
    """Show every cut of a model: live tensors, bytes, share of the work, and whether it is exact.

    Random weights are used: they do not change where a model can be cut.
    """
    from splittracr.cli import catalogue
    from splittracr.data import importing

    importing.look_in(Path.cwd())  # MODEL may be a class of the user's own
    console = output.console()
    catalogue.print_cuts(inputs.network(model), args, input_size, batch, runtime, console)


@app.command()
def profile(
    model: Annotated[str, typer.Argument(help="A model, as `splittracr models` lists it.")],
    out: Annotated[
        Path | None,
        options.output_file(("--out", "-o"), "File to write."),
    ] = None,
    per: Annotated[
        Per | None, typer.Option(help="Print a table: each operation's time, output and work.")
    ] = None,
    weights: Annotated[
        str,
        typer.Option(help="`none` is seeded random weights: times and bytes are much the same."),
    ] = "official",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    threads: Annotated[int, typer.Option(min=1, help="Threads of one operation.")] = 1,
    frames: Annotated[int, typer.Option(min=1, help="Pictures to measure.")] = 5,
    agreement: Annotated[
        bool, typer.Option(help="Also judge lossy codecs by the first class; for classifiers.")
    ] = False,
    args: Args = None,
    runtime: options.RuntimeOption = Runtime.TORCH,
) -> None:
    """Measure a model on this machine: every operation, every codec at every cut, memory.

    `splittracr plan` and `splittracr simulate` take the file, for the edge and for the server.
    """
    if out is None and per is None:
        raise InvalidInput("--out", None, "a file for the profile, or --per layer for a table")
    from splittracr.cli import profiles
    from splittracr.data import importing

    importing.look_in(Path.cwd())
    data: dict[str, dict[str, Any]] = {
        "model": {"name": inputs.network(model), "weights": weights, "args": args or {}},
        "partition": {"mode": "EdgeOnly"},
        "edge": {"device": device, "threads": threads, "runtime": runtime},
    }
    if runtime is not Runtime.TORCH:
        if per is not None:
            expected = f"nothing with --runtime {runtime}, whose sessions merge operations"
            raise InvalidInput("--per", per.value, expected)
        # Whether it is exact enough is up to a study.
        data["model"] |= {"exactness": "Bounded", "tolerancePerMillion": 1_000_000}
    given = {
        "model.name": ("MODEL", model),
        "model.weights": ("--weights", weights),
        "edge.device": ("--device", device),
        "edge.runtime": ("--runtime", runtime),
        "edge.threads": ("--threads", threads),
    }
    spec = explain.validate(ExperimentSpec, data, "MODEL", given)
    with inputs.runtime_option():
        made, operations = profiles.measure(spec, Path.cwd(), frames, agreement=agreement)
    if per is not None:
        from splittracr.cli import layers

        output.console().print(layers.per_layer(operations))
    wrote = ""
    if out is not None:
        with naming(out):
            out.write_text(made.model_dump_json() + "\n", "utf-8")
        wrote = f"; {out}"
    output.console().print(
        f"{made.network} on {made.machine()}: {made.head_ms()[-1]:,.1f} ms, "
        f"{len(made.cuts)} cuts{wrote}",
        highlight=False,
        soft_wrap=True,
    )


@app.command(cls=Listing)
def plan(
    file: Annotated[
        str, typer.Argument(help="A manifest, a profile or the name of a reference profile.")
    ],
    uplink: options.Uplink = 10e6,
    downlink: options.Downlink = None,
    rtt: options.RoundTrip = 20.0,
    spread: options.Spread = 0,
    edge_slowdown: options.ManifestSlowdown = None,
    edge_profile: options.EdgeProfile = None,
    server_profile: options.ServerProfile = None,
    objective: options.Objective = Goal.LATENCY,
    percentile: options.Percentile = 50,
    codec: options.Codecs = None,
    cut: options.Cuts = None,
    edge_memory: options.EdgeMemory = None,
    agreement: options.AgreementShare = None,
    deadline: options.Deadline = None,
    compute_watts: options.ComputeWatts = None,
    transmit_watts: options.TransmitWatts = None,
    rows: options.Rows = 12,
    plot: options.Plot = None,
) -> None:
    """Print where to cut a model, why, and at which bandwidths the answer changes.

    Nothing is run: the answer is predicted from profiles. "Do not split" is an answer.
    """
    from splittracr.cli import plan as planner

    question = planner.ask(
        file,
        planner.Options(
            uplink=uplink,
            downlink=downlink,
            round_trip_ms=rtt,
            spread=spread / 100,
            slowdown=edge_slowdown,
            edge_profile=edge_profile,
            server_profile=server_profile,
            goal=objective,
            percentile=percentile,
            watts=(compute_watts, transmit_watts),
            codecs=tuple(codec or ()),
            cuts=tuple(cut or ()),
            memory_bytes=edge_memory,
            agreement=None if agreement is None else agreement / 100,
            deadline_ms=deadline,
            figure=plot,
        ),
    )
    planner.answer(question, rows, output.console())


@app.command()
def simulate(
    traces: Annotated[Path, typer.Option(help="Folder of recorded links, searched recursively.")],
    profile: Annotated[
        list[str] | None,
        typer.Option(help="Profile of a model; repeatable. [vgg16 and yolov5nu]"),
    ] = None,
    edge_slowdown: options.Slowdown = 10.0,
    codec: Annotated[list[str] | None, typer.Option(help="Codecs to use; repeatable.")] = None,
    hysteresis: Annotated[int, typer.Option(min=0, help="Min gain of a switch, in per cent.")] = 10,
    scale: options.Scale = 1.0,
    json_file: options.JsonFile = None,
) -> None:
    """Run every policy over recorded links, frame by frame, with the edge worker's own code.

    A trace is a CSV file (duration_ms, bandwidth_kbps, latency_ms); its family is its folder.
    """
    from splittracr.cli import profiles
    from splittracr.cli import simulate as simulator
    from splittracr.planning.policy import PolicyOptions

    found = [profiles.read(name, "--profile") for name in profile or ("vgg16", "yolov5nu")]
    simulator.run(
        traces,
        [(one, one) for one in found],
        slowdown=edge_slowdown,
        codecs=codec or ["uint8"],
        scale=scale,
        settings=PolicyOptions(hysteresis=hysteresis / 100),
        json_file=json_file,
        console=output.console(),
    )


@app.command(cls=Listing)
def status(
    name: Annotated[str | None, typer.Argument(help="A study; all of them if left out.")] = None,
    namespace: Namespace = None,
) -> None:
    """Show how a study in a cluster is doing, or all of them."""
    from splittracr.cli import cluster

    if name is None:
        cluster.print_studies(namespace, output.console())
    else:
        cluster.print_study(namespace, name, output.console())


@app.command(cls=Listing)
def logs(
    name: StudyName,
    namespace: Namespace = None,
    role: Annotated[Role | None, typer.Option(help="Only workers of this kind.")] = None,
    lines: Annotated[int, typer.Option(min=1, help="Lines of each worker.")] = 100,
) -> None:
    """Show the last lines of the logs of a study's workers in a cluster."""
    from splittracr.cli import cluster

    cluster.print_logs(namespace, name, role, lines, output.console())


@app.command()
def delete(name: StudyName, namespace: Namespace = None) -> None:
    """Delete a study in a cluster, with its workers.

    Fetch its results before: the operator keeps them for some days only.
    """
    from splittracr.cli import cluster

    cluster.client().delete(namespace, name)
    print(f"deleted {name}")


@app.command("join-token", cls=Listing)
def join_token(
    name: StudyName,
    namespace: Namespace = None,
    edge: Annotated[
        str | None,
        typer.Option(help="The edge, such as edge-1. [the first that has not joined]"),
    ] = None,
    ttl: options.Ttl = 3600.0,
    host: Annotated[
        str | None,
        typer.Option(
            help="HOST:PORT at which the edge reaches the operator's results port. [the chart's "
            "values]"
        ),
    ] = None,
) -> None:
    """Print the command with which an edge outside of a cluster joins a study in it.

    The study has `spec.edge.outside` above 0. The edge may be behind NAT.
    """
    from splittracr.cli import cluster

    if edge is not None and not re.fullmatch(EDGE_PATTERN, edge):
        raise InvalidInput("--edge", edge, "the name of an edge, such as edge-1")
    wish = TokenRequest(edge=edge, seconds=max(1, round(ttl)))
    cluster.print_join(namespace, name, wish, host)


@app.command()
def results(
    name: StudyName,
    out: ResultsFolder = None,
    namespace: Namespace = None,
) -> None:
    """Fetch the results of a study in a cluster and make the tables and the report of them."""
    from splittracr.cli import cluster

    folder = inputs.results_folder(out, name)
    cluster.fetch_results(namespace, name, folder)
    try:
        from splittracr.cli import local
    except ModuleNotFoundError as error:
        output.console(stderr=True).print(
            f"The results are in {folder}. For the tables and the report: "
            f"{to_install(error)}, then `splittracr report {folder}`.",
            highlight=False,
        )
    else:
        local.conclude(folder, output.console())


@app.command()
def dashboard(
    study: Annotated[str, typer.Argument(help="A study.", metavar="STUDY")],
    prometheus: Annotated[
        str, typer.Option(help="Address of a Prometheus, such as http://localhost:9090.")
    ],
    out: Annotated[
        Path,
        options.output_file(("--out", "-o"), "File to write; .html or .png.", ".html", ".png"),
    ],
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Needed if the name is not unique.")
    ] = None,
    board: Annotated[str, typer.Option("--dashboard", help="study, fleet or operator.")] = "study",
    from_: Annotated[
        str | None,
        typer.Option("--from", help="Start, such as 2026-05-01T12:00. [the first sample]"),
    ] = None,
    to: Annotated[str | None, typer.Option("--to", help="End. [the last sample]")] = None,
    since: options.Since = None,
    step: options.Step = None,
) -> None:
    """Draw a Grafana dashboard of a study from any Prometheus, without Grafana."""
    from splittracr.cli import dashboard as drawing

    wanted = drawing.Options(study, prometheus, out, namespace, board, from_, to, since, step)
    asyncio.run(drawing.draw(wanted, output.console()))


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"splittracr {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
