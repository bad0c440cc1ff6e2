"""`splittracr`: all commands, in the order of its help."""

from typing import Annotated, Any

import typer

from splittracr import __version__
from splittracr.cli import output
from splittracr.cli.commands import cluster, model, study
from splittracr.cli.guard import Guarded, Listing
from splittracr.data import home


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

_exits = typer.Typer(help="Exits of models, for mode Cascade.", no_args_is_help=True)
_exits.command("train")(model.train_exits)

app.command()(study.run)
app.command()(study.server)
app.command()(study.serve)
app.command()(study.edge)
app.command()(study.sensor)
app.command()(study.certs)
app.command()(study.report)
app.command()(study.convert)
app.command(cls=Listing)(model.models)
app.command(cls=Listing)(model.cuts)
app.command()(model.export)
app.command()(model.profile)
app.command(cls=Listing)(model.plan)
app.command()(model.calibrate)
app.add_typer(_exits, name="exits")
app.command()(model.rate)
app.command()(model.simulate)
app.command(cls=Listing)(cluster.status)
app.command(cls=Listing)(cluster.logs)
app.command()(cluster.delete)
app.command("join-token", cls=Listing)(cluster.join_token)
app.command()(cluster.results)
app.command()(cluster.dashboard)


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
