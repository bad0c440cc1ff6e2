"""Run the operator, inside a cluster or with a kubeconfig; `--version` prints its version."""

import argparse
import logging
import os

import kopf

from splittracr import __version__
from splittracr_operator import main  # noqa: F401 - registers the handlers
from splittracr_operator.settings import Settings

if __name__ == "__main__":
    parser = argparse.ArgumentParser("splittracr_operator", description=__doc__)
    parser.add_argument("--version", action="version", version=f"splittracr {__version__}")
    parser.parse_args()
    kopf.configure(log_format=kopf.LogFormat.JSON)
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)  # a line for each event otherwise
    watched = Settings.read(os.environ).watched
    kopf.run(clusterwide=not watched, namespaces=watched, standalone=True)
