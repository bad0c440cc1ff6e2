"""Commands for studies in a cluster. Everything Kubernetes is in `splittracr_operator.client`.

That module is loaded by name, so that this package needs no Kubernetes client.
"""

import importlib
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from textwrap import indent
from typing import Any

from rich.console import Console
from rich.rule import Rule
from rich.table import Table

from splittracr.cli import output
from splittracr.experiment.errors import InvalidInput, SplittracrError
from splittracr.experiment.joining import TokenReply, TokenRequest
from splittracr.experiment.status import LOGS, ExperimentStatus
from splittracr.results import archive, edges

_RULE = 80  # columns, in a file

_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*:[0-9]{1,5}")


def client() -> Any:
    """The module that talks to clusters. Raises InvalidInput if it is not installed."""
    try:
        return importlib.import_module("splittracr_operator.client")
    except ImportError as error:
        expected = f"pip install 'splittracr[operator]' before ({error})"
        raise InvalidInput("the Kubernetes client", None, expected) from error


def print_studies(namespace: str | None, console: Console) -> None:
    """One line a study."""
    table = Table("Name", "Model", "Mode", "State", "Cut", "Progress", "P95", box=None)
    for body in client().studies(namespace):
        spec, status = body["spec"], body.get("status", {})
        table.add_row(
            body["metadata"]["name"],
            spec["model"]["name"],
            spec["partition"]["mode"],
            status.get("state", ""),
            status.get("cut", ""),
            status.get("progress", {}).get("summary", ""),
            status.get("latency", {}).get("p95", ""),
        )
    console.print(table)


def print_study(namespace: str | None, name: str, console: Console) -> None:
    """Print the status of one study."""
    _, status = client().study(namespace, name)
    for label, text in _facts(status).items():
        console.print(f"{label:<12} {text}", highlight=False, markup=False)
    table = Table("Condition", "Status", "Since", "Reason", box=None)
    for condition in status.conditions:
        since = _time(condition.last_transition_time)
        table.add_row(condition.type, condition.status, since, condition.reason)
    console.print(table)
    for worker in status.workers:
        state = "ready" if worker.ready else "not ready"
        again = f", started again {worker.restarts} times" if worker.restarts else ""
        last = worker.last_termination
        ended = f", ended last as {last.reason}" if last is not None and last.exit_code != 0 else ""
        node = "a machine outside" if worker.outside else worker.node or "no node"
        where = f"{worker.role} {worker.name} on {node}"
        console.print(f"{where}: {state}{again}{ended}", highlight=False, markup=False)
        if ended and last is not None and last.message is not None:
            console.print(indent(last.message, "    "), highlight=False, markup=False)


def print_logs(
    namespace: str | None, name: str, role: str | None, lines: int, console: Console
) -> None:
    """The last lines of each worker."""
    for pod, text in client().logs(namespace, name, role, lines).items():
        console.print(Rule(pod), width=None if console.is_terminal else _RULE)
        console.out(text.rstrip(), highlight=False)


def fetch_results(namespace: str | None, name: str, out: Path) -> None:
    """Collect the results of all edges in the folder `out`.

    `edges/EDGE` has the files of each edge. The records are those of all edges, the environment and
    the pictures those of the first. `logs` has the logs of the workers. Raises SplittracrError if
    the store holds no records; the logs are written nevertheless.
    """
    found: Mapping[str, bytes] = client().archives(namespace, name)
    for edge, packed in found.items():
        archive.unpack(packed, out / LOGS if edge == LOGS else out / edges.FOLDER / edge)
    if found.keys() == {LOGS}:
        where = f"the logs of its workers are in {out / LOGS}"
        raise SplittracrError(f"the results store holds no records of {name}; {where}")
    edges.join(out)


def print_join(namespace: str | None, name: str, wish: TokenRequest, host: str | None) -> None:
    """Print the command with which an edge outside of the cluster joins a study.

    `host` is the address of the operator's results port, as HOST:PORT. Raises InvalidInput if
    neither it nor the operator names one.
    """
    if host is not None and not _HOST.fullmatch(host):
        raise InvalidInput("--host", host, "HOST:PORT of the operator's results port")
    reply: TokenReply = client().join_token(namespace, name, wish)
    address = host or reply.address
    if address is None:
        expected = "HOST:PORT of the operator's results port; the chart's values in `results.join` "
        raise InvalidInput("--host", None, expected + "make the operator know it")
    until = f"{reply.expires.astimezone():%H:%M on %Y-%m-%d}"
    said = f"Run this on the machine that becomes {reply.edge}, until {until}:"
    output.console(stderr=True).print(said, highlight=False)
    print(f"splittracr edge wss://{address}#{reply.token}")


def _facts(status: ExperimentStatus) -> dict[str, str]:
    progress, best, latency = status.progress, status.best_cut, status.latency
    said = {c.type: c.message for c in status.conditions if c.status == "True"}
    facts = {
        "State": status.standing(),
        # The state has this sentence already.
        **{kind: words for kind, words in said.items() if words not in status.standing()},
        "Placement": status.placement,
        "Cut": status.cut,
        "Progress": progress and progress.summary,
        "Expected end": progress and _time(progress.estimated_completion_time),
        "Latency": latency and f"p50 {latency.p50}, p95 {latency.p95}",
        "Best cut": best and f"{best.name} (p50 {best.p50}, p95 {best.p95})",
        "Results": status.results and ", ".join(status.results.edges),
    }
    return {label: text for label, text in facts.items() if text}


def _time(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment.astimezone():%H:%M:%S}"
