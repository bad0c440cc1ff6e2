"""Commands about studies in a cluster. They use the rights of the kubeconfig."""

import asyncio
import re
from pathlib import Path
from typing import Annotated

import typer

from splittracr.cli import inputs, options, output
from splittracr.cli.guard import to_install
from splittracr.cli.options import Namespace, ResultsFolder, StudyName
from splittracr.experiment.contracts import EDGE_PATTERN, Role
from splittracr.experiment.errors import InvalidInput


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


def logs(
    name: StudyName,
    namespace: Namespace = None,
    role: Annotated[Role | None, typer.Option(help="Only workers of this kind.")] = None,
    lines: Annotated[int, typer.Option(min=1, help="Lines of each worker.")] = 100,
) -> None:
    """Show the last lines of the logs of a study's workers in a cluster."""
    from splittracr.cli import cluster

    cluster.print_logs(namespace, name, role, lines, output.console())


def delete(name: StudyName, namespace: Namespace = None) -> None:
    """Delete a study in a cluster, with its workers.

    Fetch its results before: the operator keeps them for some days only.
    """
    from splittracr.cli import cluster

    cluster.client().delete(namespace, name)
    print(f"deleted {name}")


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
    from splittracr.experiment.joining import TokenRequest

    if edge is not None and not re.fullmatch(EDGE_PATTERN, edge):
        raise InvalidInput("--edge", edge, "the name of an edge, such as edge-1")
    wish = TokenRequest(edge=edge, seconds=max(1, round(ttl)))
    cluster.print_join(namespace, name, wish, host)


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
