"""The status of a study: conditions, figures and patches."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splittracr.experiment.contracts import Role
from splittracr.experiment.figures import (
    BestCut,
    Latency,
    Progress,
    ReportedStatus,
    join,
    milliseconds,
)
from splittracr.experiment.report import CutReport, Phase, WorkerReport
from splittracr.experiment.status import CONDITION_TYPES, ExperimentStatus, Worker
from splittracr_operator import conditions
from splittracr_operator.lifecycle import Stage, Verdict, decide
from splittracr_operator.live import refusal_in
from splittracr_operator.study import read
from tests.control.studies import NOW, body, observed, pod, study


def report(**fields: Any) -> WorkerReport:
    return WorkerReport(role=Role.EDGE, **{"edge": "edge-0", "phase": Phase.RUNNING, **fields})


RUNNING = {"edge-0": report(done=3, total=10)}


@given(st.sampled_from(Stage), st.sampled_from(Stage))
def test_conditions_never_contradict_each_other(first: Stage, second: Stage) -> None:
    before = conditions.updated(ExperimentStatus(), 1, Verdict(first, "One", "x"), NOW)
    later = NOW + timedelta(seconds=5)
    status = ExperimentStatus(conditions=before)
    after = conditions.updated(status, 2, Verdict(second, "Two", "y"), later)
    truth = {c.type: c.status for c in after}
    assert set(truth) == {*conditions.CONDITIONS, "Degraded"}
    assert {c.reason for c in after if c.type == "Ready"} == {"Two"}
    assert {c.observed_generation for c in after} == {2}
    assert (truth["Progressing"], truth["Stalled"]) != ("True", "True")
    assert (truth["Ready"], truth["Stalled"]) != ("True", "True")
    assert not (truth["Suspended"] == "True" and truth["Progressing"] == "True")
    assert (truth["Succeeded"] == "Unknown") == (not second.ended)
    assert (truth["Succeeded"] == "True") <= (truth["Ready"] == "True")
    for old, new in zip(before, after, strict=True):
        moved = old.status != new.status
        assert new.last_transition_time == (later if moved else NOW)


def kstatus(made: dict[str, Any]) -> str:
    """The status that kstatus computes, by its rules for unknown resources."""
    status = made.get("status", {})
    observed_generation = status.get("observedGeneration")
    if observed_generation not in (None, made["metadata"]["generation"]):
        return "InProgress"
    truth = {c["type"]: c["status"] for c in status.get("conditions", ())}
    if truth.get("Reconciling") == "True":
        return "InProgress"
    if truth.get("Stalled") == "True":
        return "Failed"
    return "Current" if truth.get("Ready", "True") == "True" else "InProgress"


@pytest.mark.parametrize(
    ("stage", "reading"),
    [
        (Stage.SUSPENDED, "Current"),
        (Stage.STARTING, "InProgress"),
        (Stage.STALLED, "Failed"),
        (Stage.RUNNING, "Current"),
        (Stage.WAITING, "InProgress"),
        (Stage.SUCCEEDED, "Current"),
        (Stage.FAILED, "Failed"),
    ],
)
def test_tools_that_know_kstatus_read_each_stage_right(stage: Stage, reading: str) -> None:
    made = conditions.status(study(), Verdict(stage, "Why", "x"), observed(), NOW, None)
    shown = body(status=made.model_dump(mode="json", by_alias=True))
    assert kstatus(shown) == reading
    shown["metadata"]["generation"] = 2  # changed, and not reconciled yet
    assert kstatus(shown) == "InProgress"


@pytest.mark.parametrize("stage", Stage)
def test_each_reason_answers_its_own_condition(stage: Stage) -> None:
    made = conditions.updated(ExperimentStatus(), 1, Verdict(stage, "Why", "x"), NOW)
    found = {c.type: (c.status, c.reason) for c in made}
    assert found["Ready"][1] == "Why"
    own = {"Reconciling", "Stalled", "Suspended", "Degraded", "Succeeded"}
    for kind in own:
        status, reason = found[kind]
        failed = kind == "Succeeded" and stage is Stage.FAILED
        assert (reason == "Why") == (status == "True" or failed)
    without = [reason for _, reason in found.values() if reason != "Why"]
    assert len(set(without)) == len(without)


def test_refused_settings_are_a_condition_of_their_own() -> None:
    going = Verdict(Stage.RUNNING, "Measuring", "The edges are measuring.")
    made = conditions.updated(
        ExperimentStatus(), 5, going, NOW, ("SettingsRefused", "No such cut.")
    )
    found = {c.type: (c.status, c.reason, c.message) for c in made}
    assert found["Degraded"] == ("True", "SettingsRefused", "No such cut.")
    assert found["Ready"] == ("True", "Measuring", "The edges are measuring.")
    status = ExperimentStatus(conditions=made).model_dump(mode="json", by_alias=True)
    at = {generation: body(status=status) for generation in (5, 6)}
    for generation, one in at.items():
        one["metadata"]["generation"] = generation
    assert refusal_in(read(at[5])) == "No such cut."
    assert refusal_in(read(at[6])) is None  # the manifest may have been corrected
    made = conditions.updated(ExperimentStatus(), 5, going, NOW, ("PodsNotReplaced", "Too late."))
    status = ExperimentStatus(conditions=made).model_dump(mode="json", by_alias=True)
    at[5]["status"] = status
    assert refusal_in(read(at[5])) is None


def cut(name: str, p50: float, p95: float) -> CutReport:
    return CutReport(cut=name, index=1, frames=5, p50_ms=p50, p95_ms=p95)


A, B = cut("a", 9, 12), cut("b", 8, 20)
STATIC, SWEEP, ADAPTIVE = {"mode": "Static", "cut": 3}, {"mode": "Sweep"}, {"mode": "Adaptive"}


@pytest.mark.parametrize(
    ("partition", "used", "best"),
    [
        (SWEEP, [(A, B)], "b"),
        (STATIC, [(A,)], "a"),
        (STATIC, [(A, B)], None),  # the cut was changed meanwhile
        (STATIC, [(A, B), (B,)], None),
        (STATIC, [(A,), (B,)], None),
        (ADAPTIVE, [(A,)], None),
        (ADAPTIVE, [(A, B)], None),
    ],
)
def test_a_best_cut_is_named_if_cuts_are_alternatives(
    partition: dict[str, object], used: list[tuple[CutReport, ...]], best: str | None
) -> None:
    spec = study(partition=partition).spec.partition
    reports = [report(cuts=cuts, best=min(cuts, key=lambda one: one.p50_ms)) for cuts in used]
    before = ReportedStatus(best_cut=BestCut(name="a", p50="9ms", p95="12ms"))
    found = join(reports, before, spec, running=True, swept=False).best_cut
    assert (found and found.name) == best
    unknown = join([report()], before, spec, running=True, swept=False)
    assert unknown.best_cut == before.best_cut


def test_status_of_several_edges() -> None:
    reports = {
        "edge-0": report(
            done=4, total=10, cut="a", best=cut("a", 9.1, 12.25), latency=cut("a", 9.1, 12.25)
        ),
        "edge-1": report(
            edge="edge-1",
            done=6,
            total=10,
            failed=1,
            bytes_up=5,
            cut="b",
            best=cut("b", 8, 20),
            latency=cut("b", 8, 20.5),
            completion_at=NOW.timestamp() + 9,
        ),
    }
    given = observed(pod("edge"), pod("edge", index=1), pod("server"), reports=reports)
    made = conditions.status(
        study(), decide(study(edge={"replicas": 2}), given, NOW), given, NOW, None
    )
    shown = made.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert made.state == "Running"
    assert shown["progress"] == {
        "done": 10,
        "failed": 1,
        "unanswered": 0,
        "total": 20,
        "summary": "10/20",
        "estimatedCompletionTime": "2026-03-01T12:00:10Z",
    }
    assert (shown["cut"], shown["placement"]) == ("a, b", "edge-1 -> gpu-1")
    assert shown["bestCut"] == {"name": "b", "p50": "8.000ms", "p95": "20.00ms"}
    assert shown["latency"] == {"p50": "9.100ms", "p95": "20.50ms"}
    assert shown["traffic"] == {"bytesUp": 5, "bytesDown": 0}
    assert [w["name"] for w in shown["workers"]] == [
        "alexnet-edge-0",
        "alexnet-edge-1",
        "alexnet-server-0",
    ]


@pytest.mark.parametrize("stage", [Stage.SUCCEEDED, Stage.FAILED])
def test_a_sweep_that_has_ended_shows_its_best_cut(stage: Stage) -> None:
    swept = study(partition={"mode": "Sweep"})
    given = observed(
        reports={
            "edge-0": report(cut="z", best=cut("a", 9.1, 12.25), latency=cut("z", 40, 50)),
            "edge-1": report(
                edge="edge-1", cut="z", best=cut("b", 8, 20), latency=cut("z", 41, 51)
            ),
        }
    )
    going = conditions.status(swept, Verdict(Stage.RUNNING, "Measuring", "x"), given, NOW, None)
    assert (going.cut, going.latency and going.latency.p95) == ("z", "51.00ms")
    end = Verdict(stage, "Why", "x")
    for again in (observed(), given):  # without reports of the edges, and with them
        before = study(
            partition={"mode": "Sweep"}, status=going.model_dump(mode="json", by_alias=True)
        )
        made = conditions.status(before, end, again, NOW, None)
        assert made.cut == "b"
        assert made.latency == Latency(p50="8.000ms", p95="20.00ms")
    static = conditions.status(study(), end, given, NOW, None)
    assert (static.cut, static.latency and static.latency.p95) == ("z", "51.00ms")


def test_figures_without_a_new_report_stay() -> None:
    given = observed(pod("edge"), pod("server"), reports=RUNNING)
    first = conditions.status(study(), decide(study(), given, NOW), given, NOW, None)
    later = study(status=first.model_dump(mode="json", by_alias=True))
    end = Verdict(Stage.SUCCEEDED, "Completed", "Done.")
    made = conditions.status(later, end, observed(), NOW, None)
    assert made.progress == first.progress
    assert made.placement == "edge-1 -> gpu-1"
    assert made.completion_time == NOW


def test_a_patch_removes_missing_fields() -> None:
    patch = conditions.as_patch(ExperimentStatus(state="Starting"))
    assert patch["state"] == "Starting"
    assert patch["workers"] is None
    assert patch["cut"] is None
    progress = ExperimentStatus(
        progress=Progress(done=1), workers=(Worker(name="a", role=Role.EDGE),)
    )
    patch = conditions.as_patch(progress)
    assert patch["progress"]["estimatedCompletionTime"] is None
    assert "node" not in patch["workers"][0]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.83125, "0.831ms"),
        (9.1, "9.100ms"),
        (12.345, "12.35ms"),
        (999.96, "1000.0ms"),
        (1250.4, "1250ms"),
    ],
)
def test_milliseconds(value: float, text: str) -> None:
    assert milliseconds(value) == text


def test_an_unreadable_manifest_is_a_condition() -> None:
    made = conditions.unreadable(body(), "spec.x: unknown", NOW)
    assert made["state"] == "Stalled"
    found = {c["type"]: (c["status"], c["reason"]) for c in made["conditions"]}
    assert found["Ready"] == ("False", "InvalidManifest")
    assert found["Stalled"] == ("True", "InvalidManifest")
    assert found["Suspended"] == ("False", "NotSuspended")
    assert kstatus({**body(), "status": made}) == "Failed"
    assert datetime.fromisoformat(made["conditions"][0]["lastTransitionTime"]) == NOW


@pytest.mark.parametrize("stage", Stage)
def test_every_stage_has_all_conditions(stage: Stage) -> None:
    made = conditions.updated(ExperimentStatus(), 1, Verdict(stage, "Reason", "message"), NOW)
    assert tuple(condition.type for condition in made) == CONDITION_TYPES
