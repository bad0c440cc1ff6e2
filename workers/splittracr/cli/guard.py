"""The one place where an error ends a command: one paragraph on standard error, one exit code."""

import sys
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from splittracr.cli import output
from splittracr.data.containment import contained
from splittracr.experiment.contracts import ExitCode
from splittracr.experiment.errors import SplittracrError, of_system


class Guarded(TyperGroup):
    """A group whose commands return their exit code, or None for 0.

    Errors of parsing a command's arguments are caught here as well.
    """

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        try:
            with contained():
                code = super().invoke(ctx) or 0
        except SplittracrError as error:
            output.complain(str(error))
            code = error.exit_code
        except ModuleNotFoundError as error:
            output.complain(f"This command needs more than is installed: {to_install(error)}.")
            code = ExitCode.FAILED
        except OSError as error:  # for example a full disk
            output.complain(of_system(error))
            code = ExitCode.FAILED
        except KeyboardInterrupt:
            code = ExitCode.INTERRUPTED
        broken = output.failure()
        if broken is not None:
            output.complain(f"standard output cannot be written: {broken.strerror}")
            command = self.get_command(ctx, ctx.invoked_subcommand or "")
            code = code or int(isinstance(command, Listing))
        sys.exit(code)


class Listing(TyperCommand):
    """A command that leaves nothing but its output; it fails if that is incomplete."""


def to_install(missing: ModuleNotFoundError) -> str:
    """The command that installs a missing package. Raises `missing` if it is one of ours."""
    package = (missing.name or "").partition(".")[0]
    if package in ("", "splittracr", "splittracr_operator"):
        raise missing
    return f"pip install 'splittracr[workers]' (there is no {package})"
