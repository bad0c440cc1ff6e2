"""Carries out a plan: the only place where the reconcile changes anything.

Each action returns the state with its result. Refusals of the API server become part of the state.
If it does not answer, `Unavailable` ends the reconcile, and the study is requeued.
"""

import asyncio
import logging
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from splittracr.experiment.settings import LiveSettings
from splittracr.experiment.spec import KIND
from splittracr.experiment.status import StoredArchive
from splittracr.security import mint
from splittracr_operator import children, names
from splittracr_operator.cache import Cache, Place
from splittracr_operator.cluster import Cluster
from splittracr_operator.connection import ClusterError, Refused, Unavailable
from splittracr_operator.edges import Edges
from splittracr_operator.keys import Keys
from splittracr_operator.objects import Manifest
from splittracr_operator.plan import NAME_TAKEN, Log, Plan, is_transient
from splittracr_operator.state import State
from splittracr_operator.store import Store
from splittracr_operator.study import Body, Study, read

log = logging.getLogger(__name__)

LOG_SECONDS = 20.0
"""Seconds for all logs of a study. Then its workers are deleted without them."""

_LOG_BYTES, _ALL_LOG_BYTES, _MIN_LOG_BYTES = 2**20, 2**24, 2**14
"""Max bytes of one log, from its end, and of all logs of a study; min bytes of one log."""

_MAX_LOG_REQUESTS = 4


class Actor:
    """Carries out plans."""

    def __init__(
        self, cluster: Cluster, cache: Cache, edges: Edges, store: Store, keys: Keys
    ) -> None:
        self._cluster, self._cache, self._edges = cluster, cache, edges
        self._store, self._keys = store, keys
        self._log_requests = asyncio.Semaphore(_MAX_LOG_REQUESTS)

    async def act(self, state: State, plan: Plan, now: datetime) -> State:
        """Carry out a plan. Raises Unavailable if the API server does not answer."""
        if plan.status is not None:
            state = await self._write(state, plan.status, now)
        for event in plan.events:
            await self._post(event)
        if plan.posted is not None:
            state = replace(state, posted=plan.posted)
        if plan.rollout is not None:
            state = replace(state, rollout=plan.rollout)
        if plan.steer:
            state = await self._steer(state, plan.steer)
        if plan.logs:
            state = await self._keep_logs(state, plan.logs)
        if plan.apply or plan.patch:
            state = await self._make(state, plan.apply, plan.patch, now)
        if plan.secret is not None:
            state = await self._create_secret(state, plan.secret, now)
        if plan.delete:
            state = await self._delete(state, plan.delete)
        return state

    async def archives(self, study: Study) -> tuple[StoredArchive, ...]:
        """The study's archives in the results store. Writes the study's name beside them."""

        def read_store() -> tuple[StoredArchive, ...]:
            found = self._store.archives(study.uid)
            if found:
                self._store.note(study.uid, study.namespace, study.name)
            return found

        return await asyncio.to_thread(read_store)

    async def _write(self, state: State, status: Mapping[str, object], now: datetime) -> State:
        study = state.study
        body = await self._cluster.patch_status(study.namespace, study.name, status)
        self._cache.put(KIND, body)
        return replace(
            state, study=read(body), written=now, done=replace(state.done, status=status)
        )

    async def _post(self, event: Manifest) -> None:
        """Post an event. A failure is logged and ignored."""
        try:
            await self._cluster.create(event)
        except ClusterError as error:
            name = event["involvedObject"]["name"]
            log.warning("event %s of study %s was not posted: %s", event["reason"], name, error)

    async def _steer(self, state: State, addresses: Mapping[str, str]) -> State:
        study = state.study
        settings = LiveSettings.of(study.spec).at(study.generation)
        token = self._keys.control(study.uid)
        answers = await self._edges.steer(addresses, settings, token)
        return replace(state, done=replace(state.done, answers=answers))

    # ------------------------------------------------------------------------------------ logs

    async def _keep_logs(self, state: State, logs: Mapping[str, Log]) -> State:
        """Write logs to the results store, each once.

        If a log cannot be read in time, the archive has a note instead: no deletion waits for it.
        """
        study, kept = state.study, state.logged
        if kept is None:
            kept = frozenset(await asyncio.to_thread(self._store.logged, study.uid))
        new = {name: log for name, log in logs.items() if name not in kept}
        state = replace(state, logged=kept | new.keys())
        if not new:
            return state
        until = asyncio.get_running_loop().time() + LOG_SECONDS
        size = max(_MIN_LOG_BYTES, min(_LOG_BYTES, _ALL_LOG_BYTES // len(new)))
        texts = await asyncio.gather(
            *(self._read_log(study, log, size, until) for log in new.values())
        )
        try:
            found = dict(zip(new, texts, strict=True))
            await asyncio.to_thread(self._store.keep_logs, study.uid, found)
        except OSError as error:
            log.warning("logs of study %s are not kept: %s", study.name, error)
        return replace(state, archives=await self.archives(study))

    async def _read_log(self, study: Study, wanted: Log, size: int, until: float) -> bytes:
        """The last `size` bytes of a log without the study's tokens, or a note if that fails."""
        pod, container = wanted.pod, wanted.container
        try:
            async with asyncio.timeout_at(until), self._log_requests:
                text = await self._cluster.log(
                    study.namespace, pod, container, size, previous=wanted.previous
                )
        except (ClusterError, TimeoutError) as error:
            cause = str(error) or f"no answer within {LOG_SECONDS:g} s"
            log.warning("the log of pod %s cannot be read: %s", pod, cause)
            return f"(the log could not be read: {cause})\n".encode()
        for secret in self._keys.tokens(study.uid):
            text = text.replace(secret.encode(), b"***")
        return text

    # -------------------------------------------------------------------------------- children

    async def _make(
        self, state: State, apply: Sequence[Manifest], patch: Sequence[Manifest], now: datetime
    ) -> State:
        """Apply and patch children concurrently. Refusals become part of the state."""
        work: list[Awaitable[Body]] = [
            *map(self._cluster.apply, apply),
            *map(self._cluster.patch, patch),
        ]
        results = await asyncio.gather(*work, return_exceptions=True)
        tried = list(zip([*apply, *patch], results, strict=True))
        made, refused = dict[Place, Body](), dict[Place, str]()
        for manifest, result in tried:
            place = manifest["kind"], manifest["metadata"]["name"]
            if isinstance(result, Refused):
                refused[place] = str(result)
            elif not isinstance(result, BaseException):
                self._cache.put(manifest["kind"], result)
                made[place] = result
        for manifest, result in tried:
            if isinstance(result, Refused):
                await self._resolve_name(state, manifest, result, now)
            elif isinstance(result, BaseException):
                raise result
        left = {at: message for at, message in state.refusals.items() if at not in made}
        applied = state.done.applied | made.keys() | refused.keys()
        return replace(
            state,
            children={**state.children, **made},
            refusals=left | refused,
            done=replace(state.done, applied=applied),
        )

    async def _resolve_name(
        self, state: State, manifest: Manifest, error: Refused, now: datetime
    ) -> None:
        """Raise Unavailable if a child was refused because an earlier study's object has its name.

        Deletes an object that the operator created for a deleted study: `kubectl delete
        --cascade=orphan` leaves such objects.
        """
        if error.status not in NAME_TAKEN:
            return
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        space = manifest["metadata"]["namespace"]
        selector = f"app.kubernetes.io/managed-by={names.MANAGER},{names.UID_LABEL}"
        for body in await self._cluster.list(kind, space, selector):
            uid = body["metadata"]["labels"][names.UID_LABEL]
            if body["metadata"]["name"] == name and self._cache.study(uid) is None:
                await self._cluster.delete(kind, space, name)
                raise Unavailable(f"{kind} {name} of an earlier study is deleted")
        if is_transient(state.study, error.status, now):
            message = f"objects of an earlier study of this name are still being deleted: {error}"
            raise Unavailable(message) from error

    async def _create_secret(self, state: State, owner: Mapping[str, str], now: datetime) -> State:
        """Create the secret. One that exists stays."""
        study = state.study
        hosts, seed = children.server_hosts(study), self._keys.authority(study.uid)
        tls = mint(hosts, now, seed=seed) if study.uses_tls else None
        manifest = children.secret(study, self._keys, tls, owner)
        place = "Secret", manifest["metadata"]["name"]
        refusals = {at: message for at, message in state.refusals.items() if at != place}
        made: datetime | None = now
        try:
            await self._cluster.create(manifest)
        except Refused as error:
            if error.status != 409:
                refusals[place], made = str(error), state.secret_made
        applied = state.done.applied | {place}
        done = replace(state.done, applied=applied)
        return replace(state, refusals=refusals, secret_made=made, done=done)

    async def _delete(self, state: State, places: Sequence[Place]) -> State:
        space = state.study.namespace
        await asyncio.gather(*(self._cluster.delete(kind, space, name) for kind, name in places))
        left = {place: body for place, body in state.children.items() if place not in places}
        done = replace(state.done, deleted=state.done.deleted | set(places))
        return replace(state, children=left, done=done)
