"""Finds the lasting warning among Kubernetes' events about an object. Pure.

Kubelet and the controllers retry, so most warnings end without help. A warning is lasting if it was
repeated for some time without a success after it.
"""

from collections.abc import Collection, Sequence
from datetime import datetime

from splittracr_operator.study import Body

OF_PODS = ("kubelet", "attachdetach-controller")
"""Components that post events about a pod that has a node."""

OF_JOBS = ("job-controller",)

_LASTING = 10.0
"""Seconds of retries after which a warning is lasting: five tries of kubelet."""

_LASTING_SLOW = 120.0
"""The same for warnings about a slow component, in seconds."""

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
    """Message of the lasting warning from one of the `components`; None if there is none.

    Events about containers other than `container` do not count.
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
    return _message(chosen[-1]) if seconds >= (_LASTING if clear else _LASTING_SLOW) else None


def is_slow(message: str) -> bool:
    """Whether a warning is about a slow component, which usually recovers."""
    return any(phrase in message.lower() for phrase in _SLOW)


def may_recover(message: str, since: datetime | None, now: datetime) -> bool:
    """Whether the cause of a warning may still end without help."""
    if since is None:
        return False
    return (now - since).total_seconds() < (_LASTING_SLOW if is_slow(message) else 0)


def is_new(since: datetime | None, now: datetime) -> bool:
    """Whether a state is too new to count as lasting."""
    return since is not None and (now - since).total_seconds() < _LASTING


def _component(event: Body) -> str:
    source = event.get("source") or {}
    return str(source.get("component") or event.get("reportingComponent") or "")


def _container(event: Body) -> str | None:
    """The container of an event, from `spec.containers{NAME}`; None means the whole pod."""
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
