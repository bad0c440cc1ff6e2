"""Run the operator, inside a cluster or with a kubeconfig."""

import logging
import os

import kopf

from splittracr_operator import main  # noqa: F401 - registers the handlers
from splittracr_operator.settings import Settings

if __name__ == "__main__":
    kopf.configure(log_format=kopf.LogFormat.JSON)
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)  # a line for each event otherwise
    watched = Settings.read(os.environ).watched
    kopf.run(clusterwide=not watched, namespaces=watched, standalone=True)
