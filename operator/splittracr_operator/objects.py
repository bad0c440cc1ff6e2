"""Metadata that all children of a study share: names, labels and owner. Pure."""

from typing import Any

from splittracr.experiment.contracts import Role
from splittracr.experiment.spec import API_VERSION, KIND
from splittracr_operator import names
from splittracr_operator.study import Study

Manifest = dict[str, Any]


def child(version: str, kind: str, study: Study, suffix: str, role: Role | None = None) -> Manifest:
    """API version, kind and metadata of a child; the study is its controller."""
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {
            "name": names.child(study.name, suffix),
            "namespace": study.namespace,
            "labels": labels(study, role),
            "ownerReferences": [
                {
                    "apiVersion": API_VERSION,
                    "kind": KIND,
                    "name": study.name,
                    "uid": study.uid,
                    "controller": True,
                }
            ],
        },
    }


def labels(study: Study, role: Role | None) -> dict[str, str]:
    """Labels of a child; `role` is that of its pods, None for a child of both roles."""
    common = {
        "app.kubernetes.io/name": "splittracr",
        "app.kubernetes.io/managed-by": names.MANAGER,
        names.STUDY_LABEL: names.label(study.name),
        names.UID_LABEL: study.uid,
    }
    return common if role is None else common | {names.ROLE_LABEL: str(role)}


def selector(study: Study, role: Role) -> dict[str, str]:
    """Labels that select the pods of one role of a study."""
    return {names.UID_LABEL: study.uid, names.ROLE_LABEL: str(role)}


def secret_suffix(study: Study) -> str:
    """With part of the uid: the secret of an earlier study of the same name may still exist."""
    return f"secret-{study.uid[:8]}"


def from_secret(study: Study, key: str) -> Manifest:
    """Source of an environment variable: a key of the study's secret."""
    name = names.child(study.name, secret_suffix(study))
    return {"secretKeyRef": {"name": name, "key": key}}
