"""Finds the lasting warning among Kubernetes' events about an object. Pure.

Most warnings end without help: kubelet and the controllers retry. A warning is lasting if it was
repeated for some time and no success followed.
"""

from collections.abc import Collection, Sequence
from datetime import datetime

from splittracr_operator.study import Body

OF_PODS = ("kubelet", "attachdetach-controller")
"""Components in charge of a pod that has a node."""

OF_JOBS = ("job-controller",)

_LASTING = 10.0
"""Seconds of retries after which a warning lasts; kubelet has then tried five times."""

_PASSING = 120.0
"""The same in seconds, for warnings about a component that was only slow."""

_SLOW = (
    "timed out waiting for the condition",
    "context deadline exceeded",
    "failed to sync",
    "i/o timeout",
    "handshake timeout",
    "connection reset by peer",
    "too many requests",
    "failed calling webhook",
)
_COMBINED = "(combined from similar events): "


def lasting(
    events: Sequence[Body], components: Collection[str], container: str | None = None
) -> str | None:
    """The warning of one of the `components` that lasts; None if there is none.

    Events about a container count only if it is `container`, and not one beside it.
    """
    known = (e for e in events if _component(e) in components)
    own = sorted((e for e in known if _container(e) in (None, container)), key=_last)
    warnings: list[Body] = []
    for event in own:
        # A success ends the warnings before it.
        warnings = [*warnings, event] if event.get("type") == "Warning" else []
    if not warnings:
        return None
    clear = [event for event in warnings if not is_slow(_message(event))]
    chosen = clear or warnings
    seconds = (_last(chosen[-1]) - min(map(_first, chosen))).total_seconds()
    return _message(chosen[-1]) if seconds >= (_LASTING if clear else _PASSING) else None


def is_slow(message: str) -> bool:
    """Whether a warning is about a slow component, which mostly recovers."""
    return any(words in message.lower() for words in _SLOW)


def heals(message: str, since: datetime | None, now: datetime) -> bool:
    """Whether the cause of a warning may still end by itself."""
    if since is None:
        return False
    return (now - since).total_seconds() < (_PASSING if is_slow(message) else 0)


def settles(since: datetime | None, now: datetime) -> bool:
    """Whether a state is too new to count."""
    return since is not None and (now - since).total_seconds() < _LASTING


def _component(event: Body) -> str:
    source = event.get("source") or {}
    return str(source.get("component") or event.get("reportingComponent") or "")


def _container(event: Body) -> str | None:
    """The container that an event is about, from `spec.containers{NAME}`; None: the whole pod."""
    path = (event.get("involvedObject") or {}).get("fieldPath") or ""
    return str(path).partition("{")[2].rstrip("}") or None


def _message(event: Body) -> str:
    return str(event.get("message", "")).removeprefix(_COMBINED)


def _last(event: Body) -> datetime:
    series = event.get("series") or {}
    stamps = (series.get("lastObservedTime"), event.get("lastTimestamp"))
    return next((datetime.fromisoformat(s) for s in stamps if s), None) or _first(event)


def _first(event: Body) -> datetime:
    made = event.get("metadata", {}).get("creationTimestamp")
    stamps = (event.get("firstTimestamp"), event.get("eventTime"), made)
    return datetime.fromisoformat(next(stamp for stamp in stamps if stamp))
