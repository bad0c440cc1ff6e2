"""Builds Kubernetes events about a study. Pure."""

import hashlib
from datetime import datetime

from splittracr.experiment.spec import API_VERSION, KIND
from splittracr_operator.names import MANAGER
from splittracr_operator.objects import Manifest
from splittracr_operator.study import Study


def event(study: Study, reason: str, message: str, *, warning: bool, now: datetime) -> Manifest:
    """One event. Its name contains a digest of study, reason, message and time."""
    content = f"{study.uid}{reason}{message}{now.timestamp()}"
    digest = hashlib.sha256(content.encode()).hexdigest()[:12]
    stamp = now.replace(microsecond=0).isoformat().replace("+00:00", "Z")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{study.name}.{digest}",
            "namespace": study.namespace,
        },
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": study.name,
            "namespace": study.namespace,
            "uid": study.uid,
        },
        "type": "Warning" if warning else "Normal",
        "reason": reason,
        "message": message[:1024],
        "source": {"component": MANAGER},
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "count": 1,
    }
