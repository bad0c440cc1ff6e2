"""Plans of studies with edges outside of the cluster."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from splittracr.experiment.contracts import Role
from splittracr.experiment.report import Phase, WorkerReport
from splittracr.experiment.settings import Outcome
from splittracr.experiment.status import StoredArchive
from splittracr_operator.live import Answer
from splittracr_operator.reports import Reports
from splittracr_operator.state import State
from tests.control.plan_states import (
    REFUSED,
    change_manifest,
    configured_cut,
    settle,
    settled,
    state,
)
from tests.control.studies import NOW, pod

OUTSIDE: dict[str, Any] = {
    "edge": {"replicas": 0, "outside": 2},
    "server": {"service": {"type": "LoadBalancer", "host": "tower.example"}},
}
BOTH = frozenset({"edge-0", "edge-1"})


def outside(
    *,
    joined: frozenset[str] = BOTH,
    brought: frozenset[str] = frozenset(),
    answers: dict[str, Answer] | None = None,
    spec: dict[str, Any] | None = None,
    **reports: Any,
) -> State:
    """A study of two edges outside, with their reports: `edge_0={"phase": ...}`."""
    current = state(pod("server"), **{**OUTSIDE, **(spec or {})})
    made = {
        name.replace("_", "-"): WorkerReport(
            role=Role.EDGE,
            edge=name.replace("_", "-"),
            **{"phase": Phase.RUNNING, "generation": 1, "done": 3, "total": 9, **given},
        )
        for name, given in reports.items()
    }
    stored = [StoredArchive(name=edge, bytes=1, sha256="0" * 64) for edge in sorted(brought)]
    return replace(
        current,
        joined=joined,
        outside={edge: (answers or {}).get(edge) for edge in made},
        reports=Reports().update(current.pods, made, NOW),
        archives=stored,
    )


FINISHED = {"phase": Phase.FINISHED, "exit_code": 0, "done": 9}
OUTSIDE_TABLE: dict[str, tuple[Callable[[], State], list[str]]] = {
    "no edge has joined": (
        lambda: outside(joined=frozenset()),
        ["status Waiting", "event EdgeNotJoined"],
    ),
    "one has not joined": (
        lambda: outside(joined=frozenset({"edge-0"}), edge_0={}),
        ["rollout", "status Waiting", "event EdgeNotJoined"],
    ),
    "both have joined": (outside, ["status Starting", "event WorkersStarting"]),
    "both measure": (
        lambda: outside(edge_0={}, edge_1={}),
        ["rollout", "status Running", "event Measuring"],
    ),
    "one has finished": (
        lambda: outside(edge_0=FINISHED, edge_1={}, brought=frozenset({"edge-0"})),
        ["rollout", "status Running", "event Measuring"],
    ),
    "the results of one are missing": (
        lambda: outside(edge_0=FINISHED, edge_1=FINISHED, brought=frozenset({"edge-0"})),
        ["status Waiting", "event ResultsMissing"],
    ),
    "both have brought their results": (
        lambda: outside(edge_0=FINISHED, edge_1=FINISHED, brought=BOTH),
        [
            *("status Succeeded", "event Completed", "log alexnet-server-0.log"),
            *("delete Deployment", "delete NetworkPolicy", "delete Service"),
        ],
    ),
    "results without the report are not the end": (
        lambda: outside(edge_0={}, edge_1=FINISHED, brought=BOTH),
        ["rollout", "status Running", "event Measuring"],
    ),
    "one has stopped": (
        lambda: outside(edge_0={}, edge_1={"phase": Phase.FAILED, "error": "x", "exit_code": 2}),
        ["rollout", "status Waiting", "event EdgeStopped"],
    ),
    "all samples of one have failed": (
        lambda: outside(edge_0={}, edge_1={"phase": Phase.FAILED, "error": "x", "exit_code": 3}),
        [
            *("status Failed", "event AllSamplesFailed", "log alexnet-server-0.log"),
            *("delete Deployment", "delete NetworkPolicy", "delete Service"),
        ],
    ),
    "they cannot reach the server": (
        lambda: outside(spec={"server": {}}),
        ["status Stalled", "event EdgesCannotJoin"],
    ),
}


@pytest.mark.parametrize("name", OUTSIDE_TABLE)
def test_all_steps_with_edges_outside(name: str) -> None:
    made, expected = OUTSIDE_TABLE[name]
    assert settle(made())[1] == expected


@pytest.mark.parametrize(
    ("answers", "cut"),
    [
        ({}, 5),
        ({"edge-0": Answer(Outcome.ACCEPTED)}, 5),
        (dict.fromkeys(BOTH, Answer(Outcome.ACCEPTED)), 7),
        ({"edge-0": Answer(Outcome.ACCEPTED), "edge-1": REFUSED}, 5),
    ],
)
def test_edges_outside_check_settings_before_the_config_map_has_them(
    answers: dict[str, Answer], cut: int
) -> None:
    before = settled(outside(edge_0={}, edge_1={}))
    changed = change_manifest(before, **{**OUTSIDE, "partition": {"cut": 7}})
    told = replace(changed, outside={edge: answers.get(edge) for edge in BOTH})
    after, steps = settle(told)
    assert not any(step.startswith("steer") for step in steps)
    assert configured_cut(after) == cut
