"""Plans of the reconcile: tables of states and plans, and properties of every plan."""

import copy
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splittracr.experiment.report import Phase
from splittracr.experiment.settings import Outcome
from splittracr_operator import conditions, live
from splittracr_operator.live import Answer
from splittracr_operator.plan import is_transient, plan
from splittracr_operator.state import Done, State, configured
from splittracr_operator.workers import edge_of, merge
from tests.control.plan_states import (
    JOB,
    MAP,
    OTHER_IMAGE,
    REFUSED,
    START,
    after_one_plan,
    change_manifest,
    completed,
    configured_cut,
    done,
    running,
    settle,
    settled,
    state,
    steps_of,
    with_answer,
    with_report,
    without,
)
from tests.control.studies import NOW, ended, pod, study, waiting

TTL = 60


def unreadable(current: State) -> State:
    """The operator has restarted, and a newer one has written the ConfigMap."""
    return replace(current, rollout=replace(current.rollout, configured=None))


def ended_study(**spec: Any) -> State:
    """A study whose end is in its status."""
    return after_one_plan(completed(running(**spec)))


def scaled(current: State) -> State:
    at = "Deployment", "alexnet-server"
    changed = copy.deepcopy(dict(current.children[at]))
    changed["spec"]["replicas"] = 0
    return replace(current, children={**current.children, at: changed})


def restarted(current: State) -> State:
    last = {"state": {"running": {}}, "restartCount": 1}
    pods = [pod("edge", container=last), pod("server")]
    have = {**current.children, **{("Pod", p["metadata"]["name"]): p for p in pods}}
    return replace(current, children=have, workers=merge(current.workers, pods))


def waits(seconds: float) -> State:
    """The study starts, and its secret was created some seconds ago."""
    return replace(settled(state()), secret_made=NOW - timedelta(seconds=seconds))


def figures(seconds: float) -> State:
    """The edge has recorded more; the status was written some seconds ago."""
    current = with_report(settled(running()), done=4, total=9)
    return replace(current, written=NOW - timedelta(seconds=seconds))


LOGS = frozenset({"alexnet-edge-0.log", "alexnet-server-0.log"})

TABLE: dict[str, tuple[Callable[[], State], list[str]]] = {
    "a new study": (lambda: replace(state(made=False), study=study()), ["status start"]),
    "a new study that is suspended": (
        lambda: replace(state(made=False), study=study(suspend=True)),
        ["status Suspended", "event Suspended"],
    ),
    "no child exists": (lambda: state(made=False), ["apply ConfigMap"]),
    "the ConfigMap is new": (
        lambda: done(without(state(), *["Service", "Job", "Deployment"]), applied={MAP}),
        ["secret"],
    ),
    "the secret is new": (
        lambda: without(state(), "NetworkPolicy", "Service", "Job", "Deployment"),
        ["apply NetworkPolicy", "apply NetworkPolicy", "apply Service"],
    ),
    "only the workers are missing": (
        lambda: without(state(), "Job", "Deployment"),
        ["apply Job", "apply Deployment"],
    ),
    "all children exist": (state, ["status Starting", "event WorkersStarting"]),
    "the status is up to date": (lambda: settled(state()), ["next 2.0"]),
    "a pod is newer than the secret": (
        lambda: replace(settled(running()), secret_made=NOW - timedelta(seconds=11)),
        ["secret"],
    ),
    "the server was scaled": (lambda: scaled(state()), ["patch Deployment"]),
    "a child is refused": (
        lambda: replace(
            done(without(state(), "Job"), applied=frozenset({JOB})), refusals={JOB: "quota"}
        ),
        ["status Stalled", "event ChildRefused"],
    ),
    "the next reconcile retries a refused child": (
        lambda: replace(without(state(), "Job"), refusals={JOB: "quota"}),
        ["apply Job"],
    ),
    "a child that was refused exists now": (
        lambda: replace(state(), refusals={JOB: "quota"}),
        ["status Starting", "event WorkersStarting"],
    ),
    "later children wait for one that is refused": (
        lambda: replace(
            done(without(state(), "Service", "Job"), applied=frozenset({("Service", "s")})),
            refusals={("Service", "s"): "quota"},
        ),
        ["status Starting", "event WorkersStarting"],
    ),
    "an edge has reported": (running, ["rollout"]),
    "the edges measure": (lambda: after_one_plan(running()), ["status Running", "event Measuring"]),
    "a study has ended": (lambda: completed(running()), ["status Succeeded", "event Completed"]),
    "the end is in the status": (
        ended_study,
        ["log alexnet-edge-0.log", "log alexnet-server-0.log"],
    ),
    "the logs are kept": (
        lambda: replace(ended_study(), logged=LOGS),
        ["delete Deployment", "delete NetworkPolicy", "delete Service"],
    ),
    "an ended study stays": (lambda: settled(ended_study()), ["next None"]),
    "an ended study is deleted later": (
        lambda: settled(ended_study(ttlSecondsAfterFinished=TTL)),
        [f"next {TTL:.1f}"],
    ),
    "an ended study is deleted now": (
        lambda: replace(ended_study(ttlSecondsAfterFinished=0), logged=LOGS),
        [f"delete {k}" for k in ("ConfigMap", "Deployment", "Job", *["NetworkPolicy"] * 2)]
        + ["delete Service"],
    ),
    "an ended study is not created again": (
        lambda: without(settled(ended_study()), "Job", "ConfigMap"),
        ["next None"],
    ),
    "a study is suspended": (
        lambda: change_manifest(settled(running()), suspend=True),
        ["log alexnet-edge-0.log", "log alexnet-server-0.log"],
    ),
    "an edge has older settings": (
        lambda: change_manifest(settled(running()), partition={"cut": 7}),
        ["steer edge-0"],
    ),
    "an edge does not know its cuts": (
        lambda: change_manifest(settled(running(phase=Phase.STARTING)), partition={"cut": 7}),
        ["rollout"],
    ),
    "an edge refuses": (
        lambda: with_answer(settled(running()), REFUSED),
        ["event SettingsRefused", "rollout"],
    ),
    "an edge uses new settings": (
        lambda: with_answer(settled(running()), Answer(Outcome.ACCEPTED)),
        ["event SettingsChanged", "rollout"],
    ),
    "an edge defers settings": (
        lambda: with_answer(settled(running()), Answer(Outcome.DEFERRED, "not now")),
        ["event SettingsDeferred", "rollout"],
    ),
    "an edge does not answer": (lambda: with_answer(settled(running()), None), ["rollout"]),
    "settings are held, and the ConfigMap cannot be read": (
        lambda: unreadable(after_one_plan(with_answer(settled(running()), None))),
        ["status Running"],
    ),
    "the image changes later": (
        lambda: settled(change_manifest(settled(running()), **OTHER_IMAGE)),
        ["next 2.0"],
    ),
    "the log of the previous container is kept at once": (
        lambda: after_one_plan(restarted(settled(running()))),
        ["log alexnet-edge-0.1.log"],
    ),
    "a worker has restarted": (
        lambda: after_one_plan(after_one_plan(restarted(settled(running())))),
        ["status Waiting", "event EdgeRestarted", "event EdgeRestarting"],
    ),
    "a restart is posted once": (lambda: settled(restarted(settled(running()))), ["next 2.0"]),
    "figures wait": (lambda: figures(4), ["next 2.0"]),
    "figures are due": (lambda: figures(5), ["status Running"]),
    "the secret is new and pods wait": (lambda: waits(29), ["next 2.0"]),
    "pods wait, perhaps for the secret": (lambda: waits(30), ["secret"]),
}


@pytest.mark.parametrize("name", TABLE)
def test_plan(name: str) -> None:
    made, expected = TABLE[name]
    assert steps_of(plan(made(), NOW)) == expected


KEPT = ["log alexnet-edge-0.log", "log alexnet-server-0.log"]
SERVER = ["delete Deployment", "delete NetworkPolicy", "delete Service"]
CREATION = [
    "status start",
    "apply ConfigMap",
    "secret",
    "apply NetworkPolicy",
    "apply NetworkPolicy",
    "apply Service",
    "apply Job",
    "apply Deployment",
    "status Starting",
    "event WorkersStarting",
]

FLOWS: dict[str, tuple[Callable[[], State], list[str]]] = {
    "a new study": (lambda: replace(state(made=False), study=study()), CREATION),
    "nothing has changed": (lambda: replace(settled(running()), done=Done()), []),
    "a study has ended": (
        lambda: completed(settled(running())),
        ["status Succeeded", "event Completed", *KEPT, *SERVER],
    ),
    "a study has ended and is deleted": (
        lambda: completed(settled(running(ttlSecondsAfterFinished=0))),
        [
            *("status Succeeded", "event Completed", *KEPT),
            *("delete ConfigMap", "delete Deployment", "delete Job"),
            *("delete NetworkPolicy", "delete NetworkPolicy", "delete Service"),
        ],
    ),
    "a study is suspended": (
        lambda: change_manifest(settled(running()), suspend=True),
        [
            *(*KEPT, "apply ConfigMap", "delete Deployment", "delete Job"),
            *("delete NetworkPolicy", "delete NetworkPolicy", "delete Service"),
            *("status Suspended", "event Suspended"),
        ],
    ),
    "the image changes before an edge has reported": (
        lambda: change_manifest(settled(state()), **OTHER_IMAGE),
        ["apply ConfigMap", "secret", "delete Job", "status Starting"],
    ),
    "the image changes later": (
        lambda: change_manifest(settled(running()), **OTHER_IMAGE),
        ["steer edge-0", "rollout", "apply ConfigMap", "secret", "status Running"],
    ),
}


@pytest.mark.parametrize("name", FLOWS)
def test_all_steps_of_a_reconcile(name: str) -> None:
    made, expected = FLOWS[name]
    assert settle(made())[1] == expected


def test_a_refusal_ends_the_creation() -> None:
    new = replace(state(made=False), study=study())
    steps = settle(new, frozenset({"Service"}))[1]
    assert steps == [*CREATION[:6], "status Stalled", "event ChildRefused"]


@pytest.mark.parametrize(
    ("answer", "cut", "degraded"),
    [
        (REFUSED, 5, "SettingsRefused"),
        (Answer(Outcome.ACCEPTED), 7, "AsSpecified"),
        (Answer(Outcome.DEFERRED, "not now"), 7, "AsSpecified"),
        (None, 5, "AsSpecified"),
    ],
)
def test_edges_start_with_what_no_running_edge_refuses(
    answer: Answer | None, cut: int, degraded: str
) -> None:
    current = settled(with_answer(settled(running()), answer))
    assert configured_cut(current) == cut
    (found,) = (c for c in current.study.status.conditions if c.type == conditions.DEGRADED)
    assert found.reason == degraded


@pytest.mark.parametrize(
    ("refusal", "seconds", "expected"),
    [(409, 19, True), (422, 0, True), (409, 20, False), (403, 0, False)],
)
def test_a_refusal_is_transient_while_an_earlier_study_is_deleted(
    refusal: int, seconds: float, expected: bool
) -> None:
    now = datetime.fromisoformat(START) + timedelta(seconds=seconds)
    assert is_transient(state().study, refusal, now) is expected


# --------------------------------------------------------------------------------- for all states

CONTAINERS: dict[str, dict[str, Any]] = {
    "running": {"state": {"running": {}}},
    "restarted": {"state": {"running": {}}, "restartCount": 2},
    "waiting": waiting("ImagePullBackOff"),
    "succeeded": ended(0),
    "failed": ended(2, text="spec.x: no"),
}
KINDS = ("ConfigMap", "NetworkPolicy", "Service", "Job", "Deployment")


@st.composite
def states(draw: st.DrawFn) -> State:
    """Any mixture of pods, missing children, and changed manifests."""
    pods = [
        pod(role, container=copy.deepcopy(CONTAINERS[draw(st.sampled_from(sorted(CONTAINERS)))]))
        for role in draw(st.sets(st.sampled_from(["edge", "server"])))
    ]
    spec: dict[str, Any] = draw(
        st.sampled_from([{}, {"suspend": True}, OTHER_IMAGE, {"ttlSecondsAfterFinished": 0}])
    )
    current = state(*pods)
    if any(edge_of(one) for one in pods) and draw(st.booleans()):
        current = with_report(current, phase=draw(st.sampled_from(list(Phase))))
    if draw(st.booleans()):
        current = completed(current)
    current = without(current, *draw(st.sets(st.sampled_from(KINDS))))
    if draw(st.booleans()):
        current = change_manifest(current, partition={"cut": 7}, **spec)
    return current


@given(states(), st.frozensets(st.sampled_from(KINDS)))
def test_every_reconcile_ends_and_keeps_the_order(current: State, refuse: frozenset[str]) -> None:
    after, steps = settle(current, refuse)
    deletes = [i for i, step in enumerate(steps) if step.startswith("delete")]
    logs = [i for i, step in enumerate(steps) if step.startswith("log")]
    ends = [i for i, s in enumerate(steps) if s in ("status Succeeded", "status Failed")]
    if deletes:
        assert all(index < deletes[0] for index in logs)
        assert not ends or ends[0] < deletes[0]
    tried = [step for step in steps if step in ("apply Job", "patch Job", "delete Job")]
    assert len(tried) <= 2
    for _ in range(2):  # the next reconcile creates deleted children again
        after, _ = settle(again(after), refuse)
    left = [step.split() for step in settle(again(after), refuse)[1]]
    assert {step[0] for step in left} <= {"steer", "rollout", "apply", "patch"}
    assert {step[1] for step in left if step[0] in ("apply", "patch")} <= refuse


def again(current: State) -> State:
    """The state when the next reconcile begins and nothing has changed."""
    rollout = live.observe(current.rollout, current.study, configured(current.children))
    return replace(current, rollout=rollout, done=Done())
