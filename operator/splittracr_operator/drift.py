"""Whether a child is what its manifest says. Pure."""

from typing import Any

from splittracr_operator.children import Manifest
from splittracr_operator.study import Body


def differs(wanted: Manifest, live: Body | None) -> bool:
    """Whether anything that the manifest says is otherwise in the live object, or it is missing.

    What others and the API server's defaults have added does not count.
    """
    if live is None:
        return True
    return not _within(_comparable(wanted), live)


def mendable(wanted: Manifest) -> Manifest:
    """What may change of a child that exists: all but the pods of a Job or Deployment.

    A Job's cannot, and a server must not be replaced under a run by a newer operator's image. The
    result is a merge patch: what was taken out of the study has to be named, as null, to go.
    """
    if wanted["kind"] not in ("Job", "Deployment"):
        return wanted
    spec = {k: v for k, v in wanted["spec"].items() if k not in ("template", "selector")}
    gone: Manifest = {"activeDeadlineSeconds": None} if wanted["kind"] == "Job" else {}
    return {**wanted, "spec": gone | spec}


def _comparable(wanted: Manifest) -> Manifest:
    return {k: v for k, v in mendable(wanted).items() if k not in ("apiVersion", "kind")}


def _within(wanted: Any, live: Any) -> bool:
    if isinstance(wanted, dict):
        return isinstance(live, dict) and all(
            _within(value, live.get(key)) or (key not in live and value in ({}, []))
            for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        same = isinstance(live, list) and len(live) == len(wanted)
        return same and all(_within(*pair) for pair in zip(wanted, live, strict=True))
    return bool(wanted == live)
