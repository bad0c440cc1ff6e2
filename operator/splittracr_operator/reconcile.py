"""Reconciles one study: observe, plan, act, until nothing is left to do now.

It is level-based: it gets the study's uid and no description of a change. `plan` decides, `act`
acts.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.spec import KIND
from splittracr.experiment.status import ExperimentStatus
from splittracr_operator import conditions, live, state, warning_events, workers
from splittracr_operator.act import Actor
from splittracr_operator.cache import Cache
from splittracr_operator.cluster import Cluster
from splittracr_operator.connection import ClusterError
from splittracr_operator.edges import Edges
from splittracr_operator.keys import Keys
from splittracr_operator.metrics import Metrics
from splittracr_operator.outside import Outside
from splittracr_operator.plan import plan
from splittracr_operator.reports import running_edges
from splittracr_operator.settings import Settings
from splittracr_operator.state import Done, State
from splittracr_operator.store import Store
from splittracr_operator.study import Body, Study, read

log = logging.getLogger(__name__)

_MAX_PLANS = 20
"""Max plans of one reconcile: about twice the steps from a new study to its pods."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Reconciler:
    """Reconciles studies and keeps the last state of each."""

    def __init__(
        self,
        cluster: Cluster,
        cache: Cache,
        edges: Edges,
        store: Store,
        keys: Keys,
        settings: Settings,
        metrics: Metrics,
        outside: Outside,
        clock: Callable[[], datetime] = _utc_now,
    ) -> None:
        self._outside = outside
        self._cluster, self._cache, self._edges, self._keys = cluster, cache, edges, keys
        self._settings, self._metrics, self._clock = settings, metrics, clock
        self._actor = Actor(cluster, cache, edges, store, keys)
        self._authority = keys.store_authority().certificate.decode()
        self._states: dict[str, State] = {}

    async def reconcile(self, uid: str) -> float | None:
        """Reconcile a study. Returns the seconds until the next time; None waits for a change.

        Raises ClusterError if a request to the API server fails. The caller then requeues it.
        """
        study = await self._read(uid)
        if study is None:
            return None
        observed = await self._observe(study)
        for _ in range(_MAX_PLANS):
            self._states[uid] = observed
            now = self._clock()
            found = plan(observed, now)
            if found.shown is not None:
                self._metrics.study(observed.study, found.shown, observed.reports.answered)
                return found.next_run
            observed = await self._actor.act(observed, found, now)
        raise RuntimeError(f"{_MAX_PLANS} plans in a row did not settle study {study.name}")

    async def forbidden(self, uid: str, why: str) -> None:
        """Write to a study's status, if possible, that the operator lacks a permission."""
        body = self._cache.study(uid)
        if body is None:
            return
        message = f"The operator lacks a permission: {why}"
        try:
            await self._stall(body, conditions.forbidden(body, message, self._clock()))
        except ClusterError as error:
            name = body["metadata"]["name"]
            log.warning("status of study %s was not written: %s", name, error)

    async def _read(self, uid: str) -> Study | None:
        """The study in the cache; None if it is deleted, being deleted, or cannot be read."""
        body = self._cache.study(uid)
        if body is None or "deletionTimestamp" in body["metadata"]:
            self._states.pop(uid, None)
            self._metrics.remove(uid)
            self._outside.forget(uid)
            return None
        try:
            return read(body)
        except InvalidInput as error:
            status = conditions.unreadable(body, str(error), self._clock())
            space, name = body["metadata"]["namespace"], body["metadata"]["name"]
            self._metrics.unreadable(uid, space, name, ExperimentStatus.model_validate(status))
            await self._stall(body, status)
            return None

    async def _stall(self, body: Body, status: conditions.Patch) -> None:
        """Write the status of a study that cannot be reconciled, if it has changed."""
        if (body.get("status") or {}).get("conditions") == status["conditions"]:
            return
        space, name = body["metadata"]["namespace"], body["metadata"]["name"]
        self._cache.put(KIND, await self._cluster.patch_status(space, name, status))

    async def _observe(self, study: Study) -> State:
        """Observe a study: the cache, the edges, the results store, and warning events."""
        uid, now = study.uid, self._clock()
        have = dict(self._cache.children(uid))
        before = self._states.get(uid) or state.initial(
            study, have, self._settings, self._authority, now
        )
        # The cache returns deleted pods once, so the state keeps their workers at once.
        pods = [body for (kind, _), body in have.items() if kind == "Pod"]
        pods = [*self._cache.take_deleted_pods(uid), *pods]
        observed = replace(
            before,
            study=study,
            children=have,
            rollout=live.observe(before.rollout, study, state.configured(have)),
            workers=workers.merge(before.workers, pods, self._keys.tokens(uid)),
            done=Done(),
        )
        self._states[uid] = observed
        answers = await self._edges.reports(running_edges(observed.pods))
        heard = self._outside.heard(uid) if study.outside else {}
        answers |= {edge: one.sent.report for edge, one in heard.items() if edge in study.outside}
        return replace(
            observed,
            joined=self._outside.passes(uid).joined.intersection(study.outside),
            outside={edge: one.answer(study.generation) for edge, one in heard.items()},
            reports=observed.reports.update(observed.pods, answers, self._clock()),
            archives=await self._actor.archives(study),
            warnings=await self._warnings(observed),
        )

    async def _warnings(self, observed: State) -> dict[str, str]:
        """Lasting warning events of Kubernetes about objects that do not start, by uid."""
        found: dict[str, str] = {}
        for body, components in state.to_inspect(observed, self._clock()):
            uid = body["metadata"]["uid"]
            events = await self._cluster.events(observed.study.namespace, uid)
            message = warning_events.lasting(events, components, workers.role_of(body))
            if message is not None:
                found[uid] = message
        return found
