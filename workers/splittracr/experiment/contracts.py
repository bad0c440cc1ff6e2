"""Names that edge, server, operator and chart share: variables, paths, ports, exit codes."""

from enum import IntEnum, StrEnum
from typing import Any, overload

TOKEN = "SPLITTRACR_TOKEN"
"""Variable: the token that an edge shows to the server."""
TLS = "SPLITTRACR_TLS"
"""Variable: the folder with certificates and keys."""
CONTROL_TOKEN = "SPLITTRACR_CONTROL_TOKEN"
"""Variable: the token that the operator shows to an edge, and an edge to the results store."""
STORE = "SPLITTRACR_STORE"
"""Variable: a file with the URL of the study's place in the results store."""
STORE_AUTHORITY = "results-ca.crt"
"""File beside it: the certificate (PEM) of the authority behind the results store."""
REPORTS = "SPLITTRACR_REPORTS"
"""Variable: a file with the URL to which an edge outside of the cluster sends its reports.

The authority behind it is in `STORE_AUTHORITY`, beside that file.
"""
TERMINATION_FILE = "SPLITTRACR_TERMINATION_FILE"
"""Variable: the file for a worker's termination message."""
NO_CLASS_CACHE = "SPLITTRACR_NO_CLASS_CACHE"
"""Variable: if it is set, each start with ONNX Runtime measures the classes of cuts again."""
SENSOR = "SPLITTRACR_SENSOR"
"""Variable: a file with the URL of the energy sensors of this node."""
SENSOR_FILE = "sensor-url"
"""That file, beside the manifest."""
CONFIG = "SPLITTRACR_CONFIG"
"""Variable: the operator's configuration file."""
NAMESPACE = "SPLITTRACR_OPERATOR_NAMESPACE"
"""Variable: the operator's own namespace."""

SESSION_PATH = "/v1/session"
"""Server: the connection for tensors."""
CONTROL_PATH = "/v1/control"
"""Server: the connection for messages that must not wait behind tensors."""
MODEL_PATH = "/v1/model"
"""Server: GET the description of its model, for an edge without PyTorch; below it the digest of
the files and the name of one."""
AUTHORITY_PATH = "/v1/authority"
"""Server: GET the certificate of its authority, for edges that join."""
JOIN_PATH = "/v1/join"
"""Server: POST the request of an edge that joins."""
JOIN_TOKENS_PATH = "/v1/join-tokens"
"""Operator: POST the request for a token; below it namespace, name and uid of the study."""
REPORTS_PATH = "/v1/reports"
"""Operator: PUT the report of an edge outside of the cluster; below it the uid and the edge."""
REPORT_PATH = "/v1/report"
"""Edge: GET its report."""
SETTINGS_PATH = "/v1/settings"
"""Edge: PUT live settings."""
RESULTS_PATH = "/v1/results"
"""Operator and `splittracr serve`: the results store; below it the study's uid and the edge."""
ENERGY_PATH = "/v1/energy"
"""Sensors of a node: GET the joules that they have counted."""
HEALTH_PATH = "/healthz"
"""All: whether the event loop runs."""
METRICS_PATH = "/metrics"
"""All: metrics for Prometheus."""

LOGS = "logs"
"""Folder of results: the logs of the workers."""

REASON_HEADER = "Splittracr-Reason"
"""Header of a server's HTTP answer: why it takes no session now."""
LINK_AGE_HEADER = "Splittracr-Link-Age"
"""Header of an edge's request: nanoseconds since its emulated link began."""

SESSION_PORT = 8765
"""Port of a server's pod for edges."""
METRICS_PORT = 9090
"""Port of a worker's pod for health, metrics, reports and settings."""
SENSOR_PORT = 9477
"""Default port of the sensors of a node."""
OPERATOR_PORT = 8080
"""Default port of the operator for health and metrics."""
OPERATOR_RESULTS_PORT = 8443
"""Default port of the operator for the results store."""

EDGE, SERVER = "edge", "server"
"""The two ends, in commands, records, status and metrics."""


class Runtime(StrEnum):
    """The runtime that computes the operations of one end."""

    TORCH = "Torch"
    ONNX_RUNTIME = "OnnxRuntime"
    CUDA_GRAPHS = "CudaGraphs"


class Statistic(StrEnum):
    """How the sureness of the small model of a cascade follows from the scores of its result."""

    MARGIN = "Margin"
    PROBABILITY = "Probability"
    ENTROPY = "Entropy"
    MEAN_SCORE = "MeanScore"
    MIN_SCORE = "MinScore"
    LOWER_QUARTILE = "LowerQuartile"


RANKED = (Statistic.MARGIN, Statistic.PROBABILITY, Statistic.ENTROPY)
"""For probabilities of classes, best first."""
DETECTED = (Statistic.MEAN_SCORE, Statistic.MIN_SCORE, Statistic.LOWER_QUARTILE)
"""For scores of detections."""


DECLARED = "Declared"
"""In place of a file of exits: those that the model itself declares."""


EXIT = "exit"
"""Value of `network` for samples that an exit answered, in records and metrics."""


class ExitTargets(StrEnum):
    """The targets of exits: the labels of the pictures, or the model's own answers."""

    LABELS = "Labels"
    ANSWERS = "Answers"


class Role(StrEnum):
    """The role of a worker."""

    EDGE = EDGE
    SERVER = SERVER


INPUT, OUTPUT = "input", "output"
"""Names of the first cut (everything on the server) and of the last (everything on the edge)."""


class ExitCode(IntEnum):
    """How a worker, a command or the operator ended. 128 + N: signal N ended it."""

    OK = 0
    FAILED = 1
    INVALID_INPUT = 2  # a retry cannot help
    ALL_FAILED = 3  # every sample failed, a retry cannot help
    SIGNAL = 128
    INTERRUPTED = 130


_EDGE = "edge-"
EDGE_PATTERN = rf"{_EDGE}[0-9]{{1,4}}"
"""The name of an edge, as a regular expression."""


def edge_name(index: int | str) -> str:
    """Return the name of an edge in records, status and results.

    `index` may be a variable of a pod.
    """
    return f"{_EDGE}{index}"


def edge_names(count: int, first: int = 0) -> list[str]:
    """Return the names of `count` edges of a study, from number `first` on."""
    return [edge_name(index) for index in range(first, first + count)]


@overload
def answered(finished_on: str, cut: str, at_exit: bool) -> bool: ...
@overload
def answered(finished_on: Any, cut: Any, at_exit: Any) -> Any: ...
def answered(finished_on: Any, cut: Any, at_exit: Any) -> Any:
    """Whether a good sample counts for its cut: the server answered it, or had nothing to answer,
    since it ended with the model or at an exit.

    Takes the values of one sample, or columns of a table that can be compared and joined with `|`.
    """
    return (finished_on == SERVER) | (cut == OUTPUT) | at_exit
