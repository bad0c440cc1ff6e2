from typing import Any

from splittracr.experiment.spec import KIND
from splittracr_operator.cache import Cache
from tests.control.studies import UID, body, pod


def versioned(version: int, **more: Any) -> dict[str, Any]:
    made = pod("edge")
    made["metadata"] = {**made["metadata"], "resourceVersion": str(version), **more}
    return made


def test_children_are_found_by_their_study() -> None:
    cache = Cache()
    assert cache.put(KIND, body()) == UID
    assert cache.put("Pod", pod("edge")) == UID
    assert cache.study(UID) == body()
    assert list(cache.children(UID)) == [("Pod", "alexnet-edge-0")]
    assert [b["metadata"]["name"] for b in cache.all("Pod")] == ["alexnet-edge-0"]
    assert list(cache.all("Job")) == []
    assert cache.drop("Pod", pod("edge")) == UID
    assert not cache.children(UID)
    assert cache.drop(KIND, body()) == UID
    assert cache.study(UID) is None


def test_an_older_version_changes_nothing() -> None:
    cache = Cache()
    cache.put("Pod", versioned(20))
    assert cache.put("Pod", versioned(9)) is None
    assert next(cache.all("Pod"))["metadata"]["resourceVersion"] == "20"


def test_only_changes_of_a_user_requeue_a_study() -> None:
    cache = Cache()
    made = body()
    assert cache.put(KIND, made) == UID
    changed = {**made, "status": {"state": "Running"}}
    assert cache.put(KIND, changed) is None
    assert cache.study(UID) == changed
    metadata = made["metadata"]
    assert cache.put(KIND, {**changed, "metadata": {**metadata, "generation": 2}}) == UID
    deleting = {**metadata, "generation": 2, "deletionTimestamp": "2026-03-01T12:00:00Z"}
    assert cache.put(KIND, {**changed, "metadata": deleting}) == UID


def test_a_late_deletion_leaves_the_successor_of_that_name() -> None:
    cache = Cache()
    cache.put("Pod", versioned(20, uid="new"))
    cache.drop("Pod", versioned(10, uid="old"))
    assert len(list(cache.all("Pod"))) == 1


def claiming(name: str, **metadata: Any) -> dict[str, Any]:
    """A Job with the label of a study."""
    common = {"namespace": "lab", "labels": {"splittracr.io/uid": UID}, "resourceVersion": "30"}
    return {"metadata": {"name": name, "uid": name, **common, **metadata}}


def test_a_label_alone_makes_no_child() -> None:
    cache = Cache()
    cache.put(KIND, body())
    by_study = {"ownerReferences": [{"uid": UID, "controller": True}]}
    assert cache.put("Job", claiming("own", **by_study)) == UID
    assert cache.put("Job", claiming("nobodys")) is None
    other = {"ownerReferences": [{"uid": "other", "controller": True}, {"uid": UID}]}
    assert cache.put("Job", claiming("others", **other)) is None
    cache.put("Pod", versioned(20, name="far", namespace="elsewhere"))
    cache.put("Job", claiming("own", namespace="elsewhere", **by_study))
    assert list(cache.children(UID)) == [("Job", "own")]
    assert cache.children(UID)["Job", "own"]["metadata"]["namespace"] == "lab"


def test_a_child_without_its_owner_is_missing() -> None:
    cache = Cache()
    cache.put(KIND, body())
    cache.put("Job", claiming("own", ownerReferences=[{"uid": UID, "controller": True}]))
    assert cache.put("Job", claiming("own", resourceVersion="31")) == UID
    assert not cache.children(UID)


def test_a_deleted_pod_is_returned_once() -> None:
    cache = Cache()
    cache.put(KIND, body())
    deleted = pod("edge")
    cache.put("Pod", deleted)
    cache.drop("Pod", deleted)
    assert cache.take_deleted_pods(UID) == [deleted]
    assert cache.take_deleted_pods(UID) == []
    foreign = pod("edge")
    foreign["metadata"]["namespace"] = "elsewhere"
    cache.drop("Pod", foreign)
    assert cache.take_deleted_pods(UID) == []
