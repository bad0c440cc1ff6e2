"""Plans of the reconcile: tables of states and plans, and properties of every plan."""

import copy
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splittracr.experiment.contracts import Role
from splittracr.experiment.report import CascadeReport, Phase, WorkerReport
from splittracr.experiment.settings import Outcome
from splittracr.experiment.status import StoredArchive
from splittracr_operator import children, conditions, live
from splittracr_operator.live import Answer
from splittracr_operator.plan import Plan, is_transient, plan
from splittracr_operator.reports import Reports
from splittracr_operator.state import Done, State, configured, initial
from splittracr_operator.study import Body, Study, read
from splittracr_operator.workers import edge_of, merge
from tests.control.studies import NOW, SETTINGS, body, ended, pod, study, waiting

START = "2026-03-01T11:30:00Z"
TTL = 60
JOB, MAP, SECRET = ("Job", "alexnet-edge"), ("ConfigMap", "alexnet-manifest"), ("Secret", "x")


# ------------------------------------------------------------ states, and how actions change them


def state(*pods: Body, made: bool = True, status: Any = None, **spec: Any) -> State:
    """A study that has started, with `pods`, and with all other children if they are `made`."""
    given_study = study(status={"startTime": START, **(status or {})}, **spec)
    have = {("Pod", one["metadata"]["name"]): one for one in pods}
    if made:
        have |= {place(m): live_body(m) for m in children.everything(given_study, SETTINGS, "PEM")}
    current = initial(given_study, have, SETTINGS, "PEM", NOW)
    secret_made = NOW - timedelta(seconds=5) if made else None
    return replace(
        current, workers=merge((), pods), posted=merge((), pods), secret_made=secret_made
    )


def place(manifest: Body) -> tuple[str, str]:
    return manifest["kind"], manifest["metadata"]["name"]


def live_body(manifest: Body) -> Body:
    """A child as the API server has it."""
    made = copy.deepcopy(dict(manifest))
    made["metadata"] |= {"uid": f"uid-{made['kind']}", "creationTimestamp": NOW.isoformat()}
    return made


def running(*, generation: int = 1, phase: Phase = Phase.RUNNING, **spec: Any) -> State:
    """Both workers run, and the edge reports."""
    return with_report(
        state(pod("edge"), pod("server"), **spec), generation=generation, phase=phase
    )


def with_report(current: State, **more: Any) -> State:
    """The state after a report of the edge."""
    given = {"phase": Phase.RUNNING, "done": 3, "total": 9, "generation": 1, **more}
    report = WorkerReport(role=Role.EDGE, edge="edge-0", **given)
    return replace(current, reports=Reports().update(current.pods, {"edge-0": report}, NOW))


def change_manifest(current: State, generation: int = 2, **spec: Any) -> State:
    """The state at the start of a reconcile, after a user has changed the manifest."""
    changed = body(**spec, status=current.study.status.model_dump(mode="json", by_alias=True))
    changed["metadata"]["generation"] = generation
    now = read(changed)
    rollout = live.observe(current.rollout, now, current.rollout.configured)
    return replace(current, study=now, rollout=rollout, done=Done())


def done(current: State, **more: Any) -> State:
    return replace(current, done=replace(current.done, **more))


def settled(current: State) -> State:
    """The state when nothing is left to do."""
    return settle(current)[0]


def settle(current: State, refuse: frozenset[str] = frozenset()) -> tuple[State, list[str]]:
    """Plan and act until nothing is left to do; returns the state and the steps."""
    steps: list[str] = []
    for _ in range(20):
        found = plan(current, NOW)
        if found.waits:
            return current, steps
        steps += steps_of(found)
        current = acted(current, found, refuse)
    raise AssertionError(f"no end: {steps}")


def acted(current: State, found: Plan, refuse: frozenset[str] = frozenset()) -> State:
    """The state after a plan, if the API server refuses these kinds and edges do not answer."""
    if found.status is not None:
        current = replace(
            done(current, status=found.status), study=written(current.study, found.status)
        )
        current = replace(current, written=NOW)
    current = current if found.posted is None else replace(current, posted=found.posted)
    current = current if found.rollout is None else replace(current, rollout=found.rollout)
    current = done(current, answers={}) if found.steer else current
    current = replace(current, logged=(current.logged or frozenset()) | found.logs.keys())
    if found.secret is not None:
        current = replace(done(current, applied=current.done.applied | {SECRET}), secret_made=NOW)
    have, refusals = dict(current.children), dict(current.refusals)
    for one in [*found.apply, *found.patch]:
        at = place(one)
        if at[0] in refuse:
            refusals[at] = "exceeded quota"
            continue
        refusals.pop(at, None)
        spec = {**have.get(at, {}).get("spec", {}), **one.get("spec", {})}
        have[at] = live_body({**one, "spec": spec} if spec else one)
    tried = current.done.applied | {place(m) for m in [*found.apply, *found.patch]}
    have = {at: child for at, child in have.items() if at not in found.delete}
    deleted = current.done.deleted | set(found.delete)
    return replace(done(current, applied=tried, deleted=deleted), children=have, refusals=refusals)


def written(before: Study, patch: Any) -> Study:
    old = before.status.model_dump(mode="json", by_alias=True)
    merged = {key: value for key, value in {**old, **patch}.items() if value is not None}
    status = type(before.status).model_validate(merged)
    return replace(before, status=status)


def steps_of(found: Plan) -> list[str]:
    """The actions of a plan, as short texts."""
    if found.waits:
        return [f"next {found.next_run}"]
    status = found.status or {}
    return [
        *([f"status {status.get('state', 'start')}"] if status else []),
        *(f"event {event['reason']}" for event in found.events),
        *(f"steer {edge}" for edge in found.steer),
        *(["rollout"] if found.rollout else []),
        *(f"log {name}" for name in found.logs),
        *(f"apply {manifest['kind']}" for manifest in found.apply),
        *(f"patch {manifest['kind']}" for manifest in found.patch),
        *(["secret"] if found.secret else []),
        *sorted(f"delete {kind}" for kind, _ in found.delete),
    ]


# ----------------------------------------------------------------------------------------- tables


def without(current: State, *kinds: str) -> State:
    kept = {at: child for at, child in current.children.items() if at[0] not in kinds}
    return replace(current, children=kept)


def completed(current: State) -> State:
    """The Job has completed."""
    job = copy.deepcopy(dict(current.children[JOB]))
    job["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}
    return replace(current, children={**current.children, JOB: job}, done=Done())


def after_one_plan(current: State) -> State:
    """The state after one plan."""
    return acted(current, plan(current, NOW))


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


def with_answer(current: State, answer: Answer | None) -> State:
    """The edge has answered to settings with a cut of 7; None is no answer."""
    return done(
        change_manifest(current, partition={"cut": 7}), answers={"edge-0": answer} if answer else {}
    )


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


REFUSED = Answer(Outcome.REFUSED, "no such cut")
OTHER_IMAGE: dict[str, Any] = {"edge": {"pod": {"image": "other"}}}
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


# ------------------------------------------------------------------- edges outside of the cluster

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


def configured_cut(current: State) -> object:
    settings = live.settings_in(current.children[MAP]["data"]["manifest.yaml"])
    return None if settings is None else settings.partition.cut


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


def degradation(current: State) -> tuple[str, str]:
    """Status and reason of the condition Degraded."""
    (found,) = (c for c in current.study.status.conditions if c.type == conditions.DEGRADED)
    return found.status, found.reason


def drifting(*, drifted: bool) -> State:
    """The state after a report with audits."""
    seen = CascadeReport(audited=200, disagreeing=40, promised=0.05, drifted=drifted)
    return with_report(settled(running()), cascade=seen)


def test_a_drift_degrades_the_study_until_audits_agree_again() -> None:
    current, steps = settle(drifting(drifted=True))
    assert steps == ["status Running", "event CascadeDrifted"]
    (found,) = (c for c in current.study.status.conditions if c.type == conditions.DEGRADED)
    assert (found.status, found.reason) == ("True", "CascadeDrifted")
    assert found.message.startswith("Audits at edge-0 show that more of the answers there disagree")
    later = with_report(
        current, done=5, cascade=CascadeReport(audited=200, disagreeing=41, drifted=True)
    )
    assert "event CascadeDrifted" not in settle(later)[1]  # once
    again = with_report(current, done=6, cascade=CascadeReport(audited=200, disagreeing=2))
    assert degradation(settled(again)) == ("False", "AsSpecified")


def judging(judged: int, pictures: int | None = 400) -> CascadeReport:
    """The report of an edge that judges pictures for a new threshold."""
    return CascadeReport(
        audited=20, disagreeing=9, drifted=True, threshold_per_million=100_000, judged=judged,
        pictures=pictures,
    )  # fmt: skip


def test_a_drift_ends_with_a_new_threshold() -> None:
    current, steps = settle(with_report(settled(running()), cascade=judging(0)))
    assert steps == ["status Running", "event CascadeDrifted"]
    for judged, shown in ((39, 0), (40, 40), (399, 360)):
        current, steps = settle(with_report(current, done=judged, cascade=judging(judged)))
        assert "event CascadeDrifted" not in steps
        (found,) = (c for c in current.study.status.conditions if c.type == conditions.DEGRADED)
        assert found.message.endswith(
            "promises: the large model answers there. edge-0 judges pictures for a new threshold, "
            f"{shown} of 400."
        )
    new = CascadeReport(audited=0, disagreeing=0, threshold_per_million=930_000, recalibrations=1)
    current, steps = settle(with_report(current, done=500, cascade=new))
    assert degradation(current) == ("False", "AsSpecified")
    assert "event CascadeRecalibrated" in steps
    assert "event CascadeRecalibrated" not in settle(with_report(current, done=501, cascade=new))[1]
    assert conditions.recalibrated(current.reports.latest) == (
        "The cascade answers again with a new threshold: edge-0 from 930,000 millionths on."
    )


def test_a_drift_lasts_until_an_edge_reports_audits_again() -> None:
    current = settled(drifting(drifted=True))
    starting = with_report(current, phase=Phase.STARTING, done=0, total=None)
    unheard = replace(current, reports=Reports())
    for state_before in (starting, unheard):
        after, steps = settle(replace(state_before, done=Done()))
        assert degradation(after) == ("True", "CascadeDrifted")
        assert "event CascadeDrifted" not in steps


@pytest.mark.parametrize("drifted", [True, False])
def test_an_ended_study_says_whether_its_promise_was_broken(drifted: bool) -> None:
    seen = CascadeReport(audited=200, disagreeing=40, promised=0.05, drifted=drifted)
    last = with_report(settled(running()), phase=Phase.FINISHED, done=9, cascade=seen)
    after, steps = settle(completed(last))
    assert "status Succeeded" in steps
    assert ("event CascadeDrifted" in steps) is drifted
    expected = ("True", "CascadeDrifted") if drifted else ("False", "AsSpecified")
    assert degradation(after) == expected


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
