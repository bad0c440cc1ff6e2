"""Other containers in workers' pods: they never count as a worker."""

import copy
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splittracr.experiment.contracts import Role
from splittracr.experiment.report import Phase, WorkerReport
from splittracr.experiment.status import Worker
from splittracr_operator.lifecycle import Observed, Stage, Verdict, creating, decide, to_stop
from splittracr_operator.reports import final_reports, running_edges, runs, silent
from splittracr_operator.warning_events import OF_PODS, lasting
from splittracr_operator.workers import (
    container,
    failures,
    has_succeeded,
    is_ready,
    merge,
    restarts,
    termination,
    will_end,
)
from tests.control.studies import NOW, ended, job, observed, pod, study, waiting, warning

SLEEPS = {"name": "sidecar", "ready": True, "state": {"running": {}}}
EXITS: dict[str, Any] = {"name": "sidecar", "ready": False, "restartCount": 9, **ended(2)}
CRASHES = {
    **EXITS,
    **waiting("CrashLoopBackOff"),
    "lastState": {"terminated": {"exitCode": 3, "reason": "Error", "message": "of the sidecar"}},
}
PULLS = {"name": "sidecar", "restartCount": 0, **waiting("ImagePullBackOff")}
KILLED = {"exitCode": 137, "reason": "OOMKilled", "finishedAt": "2026-03-01T11:59:00Z"}
DONE = WorkerReport(role=Role.EDGE, edge="edge-0", phase=Phase.FINISHED, done=9, total=9)
REPORTS = {"edge-0": DONE.model_copy(update={"phase": Phase.RUNNING, "done": 3})}

SIDECARS = [SLEEPS, EXITS, CRASHES, PULLS]
NATIVE = {"name": "sidecar", "restartPolicy": "Always"}


def beside(made: dict[str, Any], *others: dict[str, Any], first: bool = True) -> dict[str, Any]:
    """The pod with other containers before or after the worker's."""
    own = made["status"]["containerStatuses"]
    others = tuple(map(copy.deepcopy, others))
    made["status"]["containerStatuses"] = [*others, *own] if first else [*own, *others]
    return made


def before(made: dict[str, Any], *statuses: dict[str, Any], native: bool = False) -> dict[str, Any]:
    """The pod with init containers."""
    specs = [NATIVE if native else {"name": status["name"]} for status in statuses]
    made["spec"]["initContainers"] = specs
    made["status"]["initContainerStatuses"] = [*map(copy.deepcopy, statuses)]
    return made


PLACES: dict[str, Callable[..., dict[str, Any]]] = {
    "first": beside,
    "last": lambda made, *others: beside(made, *others, first=False),
    "native": lambda made, *others: before(made, *others, native=True),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("other", SIDECARS)
def test_an_edge_that_has_ended_well_has_succeeded(place: str, other: dict[str, Any]) -> None:
    edge = PLACES[place](pod("edge", container=ended(0, DONE)), other)
    assert final_reports([edge])["edge-0"][1] == DONE
    reports = {"edge-0": DONE}
    found = decide(study(), observed(edge, pod("server"), reports=reports), NOW)
    assert found == Verdict(Stage.SUCCEEDED, "Completed", "9 samples were recorded.")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("other", SIDECARS)
@pytest.mark.parametrize("role", ["edge", "server"])
def test_a_container_beside_a_running_worker_changes_nothing(
    place: str, other: dict[str, Any], role: str
) -> None:
    pods = {"edge": pod("edge"), "server": pod("server")}
    pods[role] = PLACES[place](pods[role], other)
    pods[role]["status"]["conditions"] = [
        {"type": "Ready", "status": "False", "reason": "ContainersNotReady"},
        {"type": "ContainersReady", "status": "False", "reason": "ContainersNotReady"},
    ]
    observation = observed(*pods.values(), reports=REPORTS)
    limited = study(backoffLimit=0, pendingDeadlineSeconds=1)
    assert decide(limited, observation, NOW).reason == "Measuring"
    assert [(w.ready, w.restarts, w.last_termination) for w in observation.workers] == [
        (True, 0, None)
    ] * 2
    assert list(restarts((), observation.workers)) == []
    assert running_edges([pods["edge"]]) == {"edge-0": "10.0.0.7"}
    assert runs([pods["edge"]]) == {"edge-0": "pod-edge-0/0"}


states = st.fixed_dictionaries(
    {},
    optional={
        "running": st.just({"startedAt": "2026-03-01T11:00:00Z"}),
        "waiting": st.fixed_dictionaries(
            {"reason": st.sampled_from(["CrashLoopBackOff", "ErrImagePull", "ContainerCreating"])}
        ),
        "terminated": st.fixed_dictionaries({"exitCode": st.sampled_from([0, 1, 2, 3, 137])}),
    },
)
statuses = st.fixed_dictionaries(
    {"name": st.just("sidecar")},
    optional={
        "ready": st.booleans(),
        "restartCount": st.integers(0, 99),
        "state": states,
        "lastState": states,
    },
)
workers = st.sampled_from(
    [
        None,
        ended(0, DONE),
        ended(2, text="no"),
        waiting("ErrImagePull"),
        waiting("ContainerCreating"),
        {"state": {"running": {}}, "lastState": {"terminated": KILLED}, "restartCount": 2},
        {**waiting("CrashLoopBackOff"), "lastState": {"terminated": KILLED}, "restartCount": 1},
    ]
)


@given(workers, workers, st.lists(statuses, max_size=3), st.booleans(), st.integers(0, 3))
def test_other_containers_never_decide(
    edge: Any, server: Any, others: list[dict[str, Any]], first: bool, limit: int
) -> None:
    def observation(*more: dict[str, Any]) -> Observed:
        pods = [pod("edge", container=edge), pod("server", container=server)]
        return observed(*(beside(one, *more, first=first) for one in pods), reports=REPORTS)

    chosen = study(backoffLimit=limit)
    assert decide(chosen, observation(*others), NOW) == decide(chosen, observation(), NOW)
    assert merge((), observation(*others).pods) == merge((), observation().pods)
    assert list(map(termination, observation(*others).pods)) == list(
        map(termination, observation().pods)
    )


def test_a_pod_without_its_worker_has_none() -> None:
    made = beside(pod("edge"), CRASHES)
    del made["status"]["containerStatuses"][1]
    assert container(made) == {}
    assert not is_ready(made)
    (worker,) = merge((), [made])
    assert (worker.restarts, worker.last_termination) == (0, None)
    assert decide(study(), observed(made), NOW).stage is Stage.STARTING


@pytest.mark.parametrize(
    ("whole", "inner", "reason", "ready"),
    [
        ("True", "True", None, True),
        ("False", "False", "ContainersNotReady", True),
        ("False", "True", "ReadinessGatesNotReady", True),
        ("False", "True", None, False),  # the node does not answer
    ],
)
def test_a_worker_is_ready_by_its_own_container(
    whole: str, inner: str, reason: str | None, ready: bool
) -> None:
    made = pod("server")
    condition = {"type": "Ready", "status": whole} | ({"reason": reason} if reason else {})
    made["status"]["conditions"] = [condition, {"type": "ContainersReady", "status": inner}]
    assert is_ready(made) is ready
    made["status"]["containerStatuses"][0]["ready"] = False
    assert not is_ready(made)


def test_an_edge_that_still_starts_is_not_running_for_its_sidecar() -> None:
    made = beside(pod("edge", container=waiting("ContainerCreating"), age=20), SLEEPS)
    observation = observed(made, pod("server"), reports=REPORTS)
    assert decide(study(), observation, NOW).reason == "WorkersStarting"
    late = decide(study(pendingDeadlineSeconds=10), observation, NOW)
    assert late.reason == "PendingDeadlineExceeded"
    assert running_edges([made]) == {}
    assert silent([made], {"edge-0": 0.0}, None, NOW) == {}


# ---------------------------------------------------------------------------- how often it failed


def down(code: int, count: int) -> dict[str, Any]:
    return {**ended(code), "restartCount": count}


@pytest.mark.parametrize(
    ("state", "count"),
    [
        ({"state": {"running": {}}, "restartCount": 0}, 0),
        ({"state": {"running": {}}, "restartCount": 2}, 2),
        (down(0, 0), 0),
        (down(0, 2), 2),
        (down(1, 0), 1),
        (down(137, 2), 3),
        ({**waiting("CrashLoopBackOff"), "lastState": ended(1)["state"], "restartCount": 1}, 2),
        (waiting("ContainerCreating"), 0),
    ],
)
def test_failures_of_a_worker(state: dict[str, Any], count: int) -> None:
    assert failures(pod("edge", container=state)) == count


@pytest.mark.parametrize(
    ("limit", "counts", "replaced", "fails"),
    [
        (0, [0], 0, False),
        (0, [1], 0, True),
        (1, [1], 0, False),
        (1, [2], 0, True),
        (3, [2, 1], 0, False),
        (3, [2, 2], 0, True),
        (3, [2, 1], 1, True),
    ],
)
def test_the_limit_of_failures_is_for_all_edges_together(
    limit: int, counts: list[int], replaced: int, fails: bool
) -> None:
    state = {"state": {"running": {}}, "lastState": {"terminated": KILLED}}
    pods = [
        pod("edge", index=index, container={**state, "restartCount": count} if count else None)
        for index, count in enumerate(counts)
    ]
    several = study(backoffLimit=limit, edge={"replicas": len(counts)})
    of_job = {"metadata": {"uid": "uid-job"}, "status": {"failed": replaced}}
    found = decide(several, observed(*pods, job=of_job), NOW)
    assert (found.reason == "EdgeFailed") is fails
    assert ("was OOMKilled" in found.message) is fails


def test_an_edge_that_left_no_report_failed_by_its_last_line() -> None:
    found = decide(study(backoffLimit=0), observed(pod("edge", container=ended(1, text="oh"))), NOW)
    expected = "An edge failed: 1 failures, spec.backoffLimit is 0; oh."
    assert (found.reason, found.message) == ("EdgeFailed", expected)


# --------------------------------------------------------------------------------- init containers


@pytest.mark.parametrize(
    ("state", "reason", "message"),
    [
        (waiting("CrashLoopBackOff", "back-off"), "InitContainerFailed", "back-off"),
        (waiting("ImagePullBackOff", "no such image"), "ImagePullFailed", "no such image"),
        (waiting("CreateContainerConfigError", "no secret"), "ContainerRefused", "no secret"),
    ],
)
def test_a_blocking_init_container_is_named(
    state: dict[str, Any], reason: str, message: str
) -> None:
    held = pod("edge", phase="Pending", container=waiting("PodInitializing", ""))
    made = before(held, {"name": "fetch", "restartCount": 2, **state})
    found = decide(study(), observed(made), NOW)
    assert (found.stage, found.reason) == (Stage.STALLED, reason)
    assert found.message == f"edge pod alexnet-edge-0: init container fetch: {message}"


@pytest.mark.parametrize(("age", "stage"), [(170, Stage.STARTING), (190, Stage.STALLED)])
def test_a_native_sidecar_that_never_runs_keeps_the_worker_from_starting(
    age: float, stage: Stage
) -> None:
    """Kubernetes starts the next container once it has seen this one run."""
    held = pod("edge", phase="Pending", container=waiting("PodInitializing", ""))
    held["status"]["startTime"] = (NOW - timedelta(seconds=age)).isoformat()
    found = decide(study(), observed(before(held, CRASHES, native=True)), NOW)
    assert found.stage is stage
    assert ("init container sidecar" in found.message) is (stage is Stage.STALLED)


def test_a_crashing_native_sidecar_does_not_block() -> None:
    held = pod("edge", phase="Pending", container=waiting("PodInitializing", ""))
    assert (
        decide(study(), observed(before(held, CRASHES, native=True)), NOW).stage is Stage.STARTING
    )
    missing = before(held, PULLS, native=True)
    assert decide(study(), observed(missing), NOW).reason == "ImagePullFailed"


@pytest.mark.parametrize(
    ("state", "native", "message"),
    [
        ({"state": {"running": {}}}, False, "init container fetch runs"),
        (waiting("PodInitializing"), False, "init container fetch waits"),
        (ended(0), False, "PodInitializing"),
        ({"state": {"running": {}}}, True, "PodInitializing"),
    ],
)
def test_the_cause_of_a_pending_pod(state: dict[str, Any], native: bool, message: str) -> None:
    name = "sidecar" if native else "fetch"
    held = pod("edge", phase="Pending", container=waiting("PodInitializing", ""))
    made = before(held, {"name": name, **state}, native=native)
    found = decide(study(pendingDeadlineSeconds=1), observed(made), NOW)
    assert found.reason == "PendingDeadlineExceeded"
    assert f": {message} (after" in found.message


@pytest.mark.parametrize(
    ("own", "inits", "expected"),
    [
        ("ContainerCreating", [], True),
        ("PodInitializing", [waiting("PodInitializing")], True),
        ("PodInitializing", [{"state": {"running": {}}}], False),
        ("PodInitializing", [ended(0), waiting("PodInitializing")], False),
        ("CrashLoopBackOff", [], False),
    ],
)
def test_a_pod_whose_containers_have_not_started(
    own: str, inits: list[dict[str, Any]], expected: bool
) -> None:
    made = pod("edge", phase="Pending", container=waiting(own))
    assert (
        creating(before(made, *({"name": f"i{n}", **s} for n, s in enumerate(inits)))) is expected
    )


def test_a_warning_about_another_container_does_not_count() -> None:
    def about(path: str | None) -> dict[str, Any]:
        made = warning("kubelet", "Back-off restarting failed container", 0, 30)
        return made | {"involvedObject": {"fieldPath": path} if path else {}}

    assert lasting([about("spec.containers{sidecar}")], OF_PODS, "edge") is None
    assert lasting([about("spec.initContainers{native}")], OF_PODS, "edge") is None
    for path in ("spec.containers{edge}", None):
        assert lasting([about(path)], OF_PODS, "edge") == "Back-off restarting failed container"


# ------------------------------------------------------------------------ what is left at the end


ENDED = ended(0, DONE)


@pytest.mark.parametrize(
    ("made", "itself"),
    [
        (pod("edge", phase="Succeeded", container=ENDED), True),
        (pod("edge", container=ENDED), True),
        (before(pod("edge", container=ENDED), SLEEPS, native=True), True),
        (beside(pod("edge", container=ENDED), {**SLEEPS, **ended(0)}), True),
        *((beside(pod("edge", container=ENDED), other), False) for other in SIDECARS),
        (pod("edge"), False),
        (pod("edge", phase="Failed", container=ENDED), False),
    ],
)
def test_a_job_is_stopped_if_a_pod_does_not_end_by_itself(
    made: dict[str, Any], itself: bool
) -> None:
    assert will_end(made) is itself
    running: dict[str, Any] = {"spec": {"suspend": False}, "status": {}}
    assert to_stop(running, [made], ["edge-0"]) is not itself


def test_a_suspended_job_stays_suspended() -> None:
    deleted: list[dict[str, Any]] = []
    assert to_stop({"spec": {"suspend": True}, "status": {}}, deleted, ["edge-0"])
    assert to_stop({"spec": {"suspend": False}, "status": {}}, deleted, ["edge-0"])
    assert not to_stop(job("Complete"), deleted, ["edge-0"])
    assert not to_stop(None, deleted, ["edge-0"])


@pytest.mark.parametrize(("text", "rest"), [("0-2,4", 3), ("0,1,2,4", 3), ("1-4", 0), (None, None)])
def test_completed_indexes_of_a_job_need_no_pod(text: str | None, rest: int | None) -> None:
    five = study(edge={"replicas": 5})
    pods = [] if rest is None else [pod("edge", index=rest, container=ENDED)]
    of_job = {"metadata": {"uid": "uid-job"}, "spec": {}, "status": {"completedIndexes": text}}
    stage = decide(five, observed(*pods, job=of_job), NOW).stage
    assert (stage is Stage.SUCCEEDED) is (rest is not None)
    assert to_stop(of_job, pods, five.edges) is (rest is None)


def test_a_failed_pod_has_not_succeeded() -> None:
    assert has_succeeded(pod("edge", phase="Succeeded", container=ENDED))
    deleted = pod("edge", phase="Succeeded")
    deleted["status"]["containerStatuses"] = []
    assert has_succeeded(deleted)
    assert not has_succeeded(pod("edge", phase="Failed", container=ENDED))
    assert not has_succeeded(pod("edge", container=ended(1)))


def test_workers_keep_their_names() -> None:
    made = beside(pod("edge"), EXITS)
    before_it = Worker(name="alexnet-edge-0", role=Role.EDGE, edge="edge-0", restarts=0)
    assert list(restarts((before_it,), merge((before_it,), [made]))) == []
