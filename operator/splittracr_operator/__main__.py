"""Run the operator, inside a cluster or with a kubeconfig."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence

import kopf

from splittracr import __version__
from splittracr.experiment.contracts import ExitCode
from splittracr.experiment.errors import InvalidInput
from splittracr_operator import main as handlers  # noqa: F401 - registers them
from splittracr_operator.settings import CONFIG, NAMESPACE, Settings

log = logging.getLogger("splittracr_operator")

_DESCRIPTION = """\
The SplitTracr operator: it turns SplitExperiment objects of a Kubernetes cluster into edge and
server workers, keeps their results and writes their status.

It uses the pod's service account or, outside of a cluster, the kubeconfig."""
_VARIABLES = f"""\
environment variables:
  {CONFIG:<30} the configuration file (YAML); edge.image and server.image are required
  {NAMESPACE:<30} the operator's own namespace"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the operator until it is stopped; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m splittracr_operator",
        description=_DESCRIPTION,
        epilog=_VARIABLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"splittracr {__version__}")
    parser.parse_args(arguments)
    kopf.configure(log_format=kopf.LogFormat.JSON)
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)  # lower levels log each event
    try:
        settings = Settings.read(os.environ)
    except InvalidInput as error:
        log.error("%s", error)
        return error.exit_code
    watched, memo = settings.watch_namespaces, kopf.Memo(settings=settings, refused=False)
    try:
        kopf.run(clusterwide=not watched, namespaces=watched, standalone=True, memo=memo)
    except Exception:  # kopf has no public class for it
        if not memo.refused:
            raise
        return ExitCode.FAILED
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
