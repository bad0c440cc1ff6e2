import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splittracr.experiment.spec import KIND
from splittracr_operator.drift import differs, mendable
from splittracr_operator.mirror import Agenda, Mirror
from tests.control.studies import UID, body, pod


def versioned(version: int, **more: Any) -> dict[str, Any]:
    made = pod("edge")
    made["metadata"] = {**made["metadata"], "resourceVersion": str(version), **more}
    return made


def test_children_are_found_by_their_study() -> None:
    mirror = Mirror()
    assert mirror.put(KIND, body()) == UID
    assert mirror.put("Pod", pod("edge")) == UID
    assert mirror.study(UID) == body()
    assert list(mirror.children(UID)) == [("Pod", "alexnet-edge-0")]
    assert [b["metadata"]["name"] for b in mirror.all("Pod")] == ["alexnet-edge-0"]
    assert list(mirror.all("Job")) == []
    assert mirror.drop("Pod", pod("edge")) == UID
    assert not mirror.children(UID)
    assert mirror.drop(KIND, body()) == UID
    assert mirror.study(UID) is None


def test_what_is_older_changes_nothing() -> None:
    mirror = Mirror()
    mirror.put("Pod", versioned(20))
    assert mirror.put("Pod", versioned(9)) is None
    assert next(mirror.all("Pod"))["metadata"]["resourceVersion"] == "20"


def test_only_what_the_user_wishes_is_a_reason_to_look_at_a_study() -> None:
    mirror = Mirror()
    made = body()
    assert mirror.put(KIND, made) == UID
    told = {**made, "status": {"state": "Running"}}
    assert mirror.put(KIND, told) is None
    assert mirror.study(UID) == told
    metadata = made["metadata"]
    assert mirror.put(KIND, {**told, "metadata": {**metadata, "generation": 2}}) == UID
    going = {**metadata, "generation": 2, "deletionTimestamp": "2026-03-01T12:00:00Z"}
    assert mirror.put(KIND, {**told, "metadata": going}) == UID


def test_a_late_deletion_leaves_the_successor_of_that_name() -> None:
    mirror = Mirror()
    mirror.put("Pod", versioned(20, uid="new"))
    mirror.drop("Pod", versioned(10, uid="old"))
    assert len(list(mirror.all("Pod"))) == 1


def claiming(name: str, **metadata: Any) -> dict[str, Any]:
    """A Job with the label of a study."""
    common = {"namespace": "lab", "labels": {"splittracr.io/uid": UID}, "resourceVersion": "30"}
    return {"metadata": {"name": name, "uid": name, **common, **metadata}}


def test_a_label_alone_makes_no_child() -> None:
    mirror = Mirror()
    mirror.put(KIND, body())
    by_study = {"ownerReferences": [{"uid": UID, "controller": True}]}
    assert mirror.put("Job", claiming("own", **by_study)) == UID
    assert mirror.put("Job", claiming("nobodys")) is None
    other = {"ownerReferences": [{"uid": "other", "controller": True}, {"uid": UID}]}
    assert mirror.put("Job", claiming("others", **other)) is None
    mirror.put("Pod", versioned(20, name="far", namespace="elsewhere"))
    mirror.put("Job", claiming("own", namespace="elsewhere", **by_study))
    assert list(mirror.children(UID)) == [("Job", "own")]
    assert mirror.children(UID)["Job", "own"]["metadata"]["namespace"] == "lab"


def test_a_child_that_is_set_free_is_missed() -> None:
    mirror = Mirror()
    mirror.put(KIND, body())
    mirror.put("Job", claiming("own", ownerReferences=[{"uid": UID, "controller": True}]))
    assert mirror.put("Job", claiming("own", resourceVersion="31")) == UID
    assert not mirror.children(UID)


# -------------------------------------------------------------------------------------- agenda


def test_each_study_is_taken_once_and_in_its_turn() -> None:
    async def scenario() -> None:
        waits: list[float] = []
        agenda = Agenda(waits.append)
        agenda.add("late", after=0.05)
        for _ in range(3):
            agenda.add("soon")
        assert agenda.waiting == 1  # the other one is not due
        assert await agenda.take() == "soon"
        assert agenda.waiting == 0
        agenda.add("soon")  # changed meanwhile: again, but not at the same time
        assert await agenda.take() == "late"
        agenda.done("soon")
        assert await agenda.take() == "soon"
        assert len(waits) == 3
        assert all(0 <= wait < 20 for wait in waits)

    asyncio.run(scenario())


def test_the_earlier_of_two_times_counts() -> None:
    async def scenario() -> None:
        agenda = Agenda()
        agenda.add("a", after=60)
        taking = asyncio.create_task(agenda.take())
        await asyncio.sleep(0)
        agenda.add("a", after=90)
        agenda.add("a")
        assert await asyncio.wait_for(taking, 5) == "a"

    asyncio.run(scenario())


def test_one_study_without_end_starves_nobody() -> None:
    async def scenario() -> None:
        agenda, looks = Agenda(), 0

        async def look() -> None:
            nonlocal looks
            while True:
                uid = await agenda.take()
                looks += 1
                agenda.done(uid)
                agenda.add(uid, after=-1)

        agenda.add("restless")
        looking = asyncio.create_task(look())
        await asyncio.sleep(0.2)  # only where the loop turns does this ever end
        looking.cancel()
        assert 1 < looks < 10

    asyncio.run(scenario())


def test_several_takers_share_the_work() -> None:
    async def scenario() -> None:
        agenda = Agenda()
        takers = [asyncio.create_task(agenda.take()) for _ in range(4)]
        await asyncio.sleep(0)
        for name in "abcd":
            agenda.add(name)
        assert sorted(await asyncio.wait_for(asyncio.gather(*takers), 5)) == list("abcd")

    asyncio.run(scenario())


# --------------------------------------------------------------------------------------- drift

values = st.recursive(
    st.booleans() | st.integers(0, 3) | st.sampled_from("ab"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner),
    max_leaves=8,
)
objects = st.dictionaries(st.sampled_from("xyz"), values)


def added(value: Any) -> Any:
    """`value` as an API server would complete it."""
    if isinstance(value, dict):
        return {**{key: added(inner) for key, inner in value.items()}, "defaulted": 1}
    return [added(inner) for inner in value] if isinstance(value, list) else value


@given(objects)
def test_completed_is_not_drifted(spec: dict[str, Any]) -> None:
    wanted = {"kind": "Service", "spec": spec}
    assert not differs(wanted, added({"spec": spec}))


@given(objects, objects)
def test_every_other_value_is_drift(spec: dict[str, Any], other: dict[str, Any]) -> None:
    wanted = {"kind": "Service", "spec": {"inner": spec, "list": [spec]}}
    live = {"spec": {"inner": other, "list": [other]}}
    assert differs(wanted, live) == any(_lacks(other, key, spec[key]) for key in spec)


def _lacks(live: dict[str, Any], key: str, value: Any) -> bool:
    return differs({"kind": "Service", "spec": {key: value}}, {"spec": live})


@pytest.mark.parametrize("kind", ["Job", "Deployment"])
def test_pods_of_what_runs_are_left_alone(kind: str) -> None:
    wanted = {"kind": kind, "spec": {"template": {"image": 2}, "selector": {}, "suspend": True}}
    gone = {"activeDeadlineSeconds": None} if kind == "Job" else {}
    assert mendable(wanted) == {"kind": kind, "spec": {"suspend": True, **gone}}
    assert not differs(wanted, {"spec": {"template": {"image": 1}, "suspend": True}})
    assert differs(wanted, {"spec": {"template": {"image": 2}, "suspend": False}})
    assert differs(wanted, None)


def test_a_deadline_that_was_taken_out_goes() -> None:
    without = {"kind": "Job", "spec": {"suspend": False}}
    assert differs(without, {"spec": {"suspend": False, "activeDeadlineSeconds": 60}})
    assert not differs(without, {"spec": {"suspend": False}})
    assert mendable(without)["spec"]["activeDeadlineSeconds"] is None
    within = {"kind": "Job", "spec": {"suspend": False, "activeDeadlineSeconds": 60}}
    assert mendable(within) == within


def test_many_studies_are_taken_in_linear_time() -> None:
    """40,000 of them took minutes when each was searched for."""

    async def scenario() -> None:
        agenda, count = Agenda(), 40_000
        for number in range(count):
            agenda.add(str(number))
        async with asyncio.timeout(20):
            taken = {await agenda.take() for _ in range(count)}
        assert len(taken) == count

    asyncio.run(scenario())


def test_a_study_that_is_busy_is_taken_when_it_is_due_and_done() -> None:
    async def scenario() -> None:
        agenda = Agenda()
        agenda.add("a")
        assert await agenda.take() == "a"
        agenda.add("a")
        agenda.add("b")
        assert await agenda.take() == "b"  # "a" is skipped
        agenda.done("a")
        async with asyncio.timeout(20):
            assert await agenda.take() == "a"
        agenda.done("a")
        agenda.add("a", after=1000)
        agenda.add("a", after=0.01)  # earlier than planned
        async with asyncio.timeout(20):
            assert await agenda.take() == "a"
        assert agenda.waiting == 0

    asyncio.run(scenario())


def test_a_deleted_pod_is_handed_out_once() -> None:
    mirror = Mirror()
    mirror.put(KIND, body())
    gone = pod("edge")
    mirror.put("Pod", gone)
    mirror.drop("Pod", gone)
    assert mirror.take_departed(UID) == [gone]
    assert mirror.take_departed(UID) == []
    foreign = pod("edge")
    foreign["metadata"]["namespace"] = "elsewhere"
    mirror.drop("Pod", foreign)
    assert mirror.take_departed(UID) == []
