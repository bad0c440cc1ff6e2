"""States of a reconcile for tests of its plans, and how the actions of a plan change them."""

import copy
from dataclasses import replace
from datetime import timedelta
from typing import Any

from splittracr.experiment.contracts import Role
from splittracr.experiment.report import Phase, WorkerReport
from splittracr.experiment.settings import Outcome
from splittracr_operator import children, conditions, live
from splittracr_operator.live import Answer
from splittracr_operator.plan import Plan, plan
from splittracr_operator.reports import Reports
from splittracr_operator.state import Done, State, initial
from splittracr_operator.study import Body, Study, read
from splittracr_operator.workers import merge
from tests.control.studies import NOW, SETTINGS, body, pod, study

START = "2026-03-01T11:30:00Z"
JOB, MAP, SECRET = ("Job", "alexnet-edge"), ("ConfigMap", "alexnet-manifest"), ("Secret", "x")
REFUSED = Answer(Outcome.REFUSED, "no such cut")
OTHER_IMAGE: dict[str, Any] = {"edge": {"pod": {"image": "other"}}}


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


def with_answer(current: State, answer: Answer | None) -> State:
    """The edge has answered to settings with a cut of 7; None is no answer."""
    return done(
        change_manifest(current, partition={"cut": 7}), answers={"edge-0": answer} if answer else {}
    )


def configured_cut(current: State) -> object:
    settings = live.settings_in(current.children[MAP]["data"]["manifest.yaml"])
    return None if settings is None else settings.partition.cut


def degradation(current: State) -> tuple[str, str]:
    """Status and reason of the condition Degraded."""
    (found,) = (c for c in current.study.status.conditions if c.type == conditions.DEGRADED)
    return found.status, found.reason
