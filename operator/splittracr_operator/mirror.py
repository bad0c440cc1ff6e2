"""What the operator remembers of the cluster: the studies and their children, as last seen.

The watches feed it and every change marks the study as one to look at. It may be behind the API
server: what the reconcile does with it can be done twice without harm.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping
from heapq import heappop, heappush
from math import inf
from typing import Any

from splittracr.experiment.spec import KIND
from splittracr_operator.names import UID_LABEL
from splittracr_operator.study import Body

_REST = 0.05
"""Seconds between two looks at one study."""

Place = tuple[str, str]
"""Kind and name of a child; children lie in the study's namespace."""


class Mirror:
    """Studies by uid, and children by the uid of their study."""

    def __init__(self) -> None:
        self._studies: dict[str, Body] = {}
        self._children: dict[str, dict[tuple[str, str, str], Body]] = {}
        self._departed: dict[str, list[Body]] = {}

    def study(self, uid: str) -> Body | None:
        """The study with this uid; None where it is gone."""
        return self._studies.get(uid)

    def studies(self) -> Mapping[str, Body]:
        """All studies by uid."""
        return self._studies

    def children(self, uid: str) -> Mapping[Place, Body]:
        """The children of the study with this uid: what bears its label beside it.

        Anybody can write a label; in another namespace it makes nobody a child.
        """
        study = self._studies.get(uid)
        if study is None:
            return {}
        space = study["metadata"].get("namespace")
        have = self._children.get(uid, {})
        return {(kind, name): body for (kind, its, name), body in have.items() if its == space}

    def put(self, kind: str, body: Body) -> str | None:
        """Remember an object; the uid of its study, None where that is no reason to look.

        None is one that is older than what is remembered, one that only claims to be a child, and
        a study whose status alone changed: otherwise each look at it would ask for the next.
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
        same = kind == KIND and old is not None and _wish(old) == _wish(body)
        return None if same else uid

    def drop(self, kind: str, body: Body) -> str:
        """Forget an object that was deleted; the uid of its study."""
        uid = _study_uid(kind, body)
        store, place = self._where(kind, body, uid)
        old = store.get(place)
        if old is not None and old["metadata"]["uid"] == body["metadata"]["uid"]:
            del store[place]
        if kind != KIND and not self._children.get(uid):
            self._children.pop(uid, None)
        if kind == KIND:
            self._departed.pop(uid, None)
        elif kind == "Pod" and uid in self._studies:
            self._departed.setdefault(uid, []).append(body)
        return uid

    def take_departed(self, uid: str) -> list[Body]:
        """The pods of a study that were deleted since the last call, as they were at their end."""
        study, gone = self._studies.get(uid), self._departed.pop(uid, [])
        if study is None:
            return []
        space = study["metadata"].get("namespace")
        return [pod for pod in gone if pod["metadata"].get("namespace") == space]

    def all(self, kind: str) -> Iterator[Body]:
        """Everything remembered of one kind."""
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


class Agenda:
    """Studies to look at: each at most once at a time, and at a time of its own.

    `waited` is called with the seconds that each one was due before it was taken.
    """

    def __init__(self, waited: Callable[[float], None] = lambda _: None) -> None:
        self._waited = waited
        self._due: dict[str, float] = {}
        self._queue: list[tuple[float, str]] = []
        """A heap of all that is in `_due` and not busy, and of entries that hold no more."""

        self._busy: set[str] = set()
        self._rested: dict[str, float] = {}
        self._changed = asyncio.Event()

    def add(self, uid: str, after: float = 0.0) -> None:
        """Look at a study `after` seconds, or earlier where that was planned.

        A study that was just looked at has its turn a moment later at the earliest: whatever asks
        for looks without end, the event loop and the others go on.
        """
        now = asyncio.get_running_loop().time()
        due = max(now + after, self._rested.get(uid, now))
        if due < self._due.get(uid, inf):
            self._plan(uid, due)

    async def take(self) -> str:
        """Wait for a study that is due and that nobody else looks at."""
        while True:
            now = asyncio.get_running_loop().time()
            due, uid = self._next()
            if due <= now:
                heappop(self._queue)
                del self._due[uid]
                self._busy.add(uid)
                self._waited(now - due)
                return uid
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if due == inf else due - now):
                    await self._changed.wait()

    def done(self, uid: str) -> None:
        """The look at a study that was taken is over."""
        self._busy.discard(uid)
        now = asyncio.get_running_loop().time()
        self._rested = {uid: at for uid, at in self._rested.items() if at > now}
        self._rested[uid] = now + _REST
        if uid in self._due:
            self._plan(uid, max(self._due[uid], self._rested[uid]))

    def _plan(self, uid: str, due: float) -> None:
        self._due[uid] = due
        heappush(self._queue, (due, uid))
        self._changed.set()

    def _next(self) -> tuple[float, str]:
        """What is due next and not busy; `done` puts back what is skipped here as busy."""
        while self._queue:
            due, uid = self._queue[0]
            if uid not in self._busy and self._due.get(uid) == due:
                return due, uid
            heappop(self._queue)
        return inf, ""

    @property
    def waiting(self) -> int:
        """Studies that are due and not taken yet."""
        now = asyncio.get_running_loop().time()
        return sum(due <= now for due in self._due.values())


def _study_uid(kind: str, body: Body) -> str:
    metadata = body["metadata"]
    return str(metadata["uid"] if kind == KIND else metadata["labels"][UID_LABEL])


def _belongs(kind: str, body: Body, uid: str) -> bool:
    """Whether the study controls this object; pods belong to its Job and Deployment."""
    if kind in (KIND, "Pod"):
        return True
    owners = body["metadata"].get("ownerReferences", ())
    return any(owner["uid"] == uid and owner.get("controller") for owner in owners)


def _wish(body: Body) -> tuple[object, ...]:
    """What tells one wish of the user from another."""
    metadata = body["metadata"]
    return metadata["uid"], metadata.get("generation"), "deletionTimestamp" in metadata


def _version(body: Body) -> int:
    """Versions of one object are numbers that grow (KEP-5504 makes it a promise)."""
    return int(body["metadata"]["resourceVersion"])
