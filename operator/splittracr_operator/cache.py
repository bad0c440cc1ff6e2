"""Local cache of studies and their children, fed by watches.

It may be behind the API server. Each action of a reconcile can be repeated without harm.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from splittracr.experiment.spec import KIND
from splittracr_operator.names import UID_LABEL
from splittracr_operator.study import Body

Place = tuple[str, str]
"""Kind and name of a child; children lie in the study's namespace."""


class Cache:
    """Studies by uid, and children by the uid of their study."""

    def __init__(self) -> None:
        self._studies: dict[str, Body] = {}
        self._children: dict[str, dict[tuple[str, str, str], Body]] = {}
        self._deleted_pods: dict[str, list[Body]] = {}

    def study(self, uid: str) -> Body | None:
        """The study with this uid; None if it is deleted."""
        return self._studies.get(uid)

    def studies(self) -> Mapping[str, Body]:
        """All studies by uid."""
        return self._studies

    def children(self, uid: str) -> Mapping[Place, Body]:
        """The children of a study: objects with its label in its namespace.

        Any user can write a label, so an object in another namespace does not count.
        """
        study = self._studies.get(uid)
        if study is None:
            return {}
        space = study["metadata"].get("namespace")
        have = self._children.get(uid, {})
        return {(kind, name): body for (kind, its, name), body in have.items() if its == space}

    def put(self, kind: str, body: Body) -> str | None:
        """Store an object; returns the uid of its study if that has to be reconciled.

        Returns None for an object older than the stored one, for one that the study does not
        control, and for a study in which only the status changed. Otherwise each reconcile would
        requeue its study.
        """
        uid = _study_uid(kind, body)
        store, place = self._where(kind, body, uid)
        old = store.get(place)
        if old is not None and _version(old) > _version(body):
            return None
        if not _belongs(kind, body, uid):
            return None if store.pop(place, None) is None else uid
        metadata = {k: v for k, v in body["metadata"].items() if k != "managedFields"}
        store[place] = {**body, "metadata": metadata}
        same = kind == KIND and old is not None and _intent(old) == _intent(body)
        return None if same else uid

    def drop(self, kind: str, body: Body) -> str:
        """Remove a deleted object; returns the uid of its study."""
        uid = _study_uid(kind, body)
        store, place = self._where(kind, body, uid)
        old = store.get(place)
        if old is not None and old["metadata"]["uid"] == body["metadata"]["uid"]:
            del store[place]
        if kind != KIND and not self._children.get(uid):
            self._children.pop(uid, None)
        if kind == KIND:
            self._deleted_pods.pop(uid, None)
        elif kind == "Pod" and uid in self._studies:
            self._deleted_pods.setdefault(uid, []).append(body)
        return uid

    def take_deleted_pods(self, uid: str) -> list[Body]:
        """Return the pods of a study that were deleted since the last call, in their last state."""
        study, deleted = self._studies.get(uid), self._deleted_pods.pop(uid, [])
        if study is None:
            return []
        space = study["metadata"].get("namespace")
        return [pod for pod in deleted if pod["metadata"].get("namespace") == space]

    def all(self, kind: str) -> Iterator[Body]:
        """All stored objects of one kind."""
        if kind == KIND:
            yield from list(self._studies.values())
            return
        for children in list(self._children.values()):
            yield from [body for (its, *_), body in children.items() if its == kind]

    def _where(self, kind: str, body: Body, uid: str) -> tuple[dict[Any, Body], Any]:
        if kind == KIND:
            return self._studies, uid
        metadata = body["metadata"]
        place = kind, metadata.get("namespace"), metadata["name"]
        return self._children.setdefault(uid, {}), place


def _study_uid(kind: str, body: Body) -> str:
    metadata = body["metadata"]
    return str(metadata["uid"] if kind == KIND else metadata["labels"][UID_LABEL])


def _belongs(kind: str, body: Body, uid: str) -> bool:
    """Whether the study controls this object; pods belong to its Job and Deployment."""
    if kind in (KIND, "Pod"):
        return True
    owners = body["metadata"].get("ownerReferences", ())
    return any(owner["uid"] == uid and owner.get("controller") for owner in owners)


def _intent(body: Body) -> tuple[object, ...]:
    """Values that change whenever a user changes the study."""
    metadata = body["metadata"]
    return metadata["uid"], metadata.get("generation"), "deletionTimestamp" in metadata


def _version(body: Body) -> int:
    """The version of an object, a number that grows (KEP-5504)."""
    return int(body["metadata"]["resourceVersion"])
