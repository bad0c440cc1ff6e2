"""Names and labels of the objects that the operator creates."""

import hashlib
import re

MANAGER = "splittracr-operator"
UID_LABEL = "splittracr.io/uid"
STUDY_LABEL = "splittracr.io/study"
ROLE_LABEL = "splittracr.io/role"
POD_SETTINGS = "splittracr.io/pod-settings"
"""Annotation of a pod: a digest of its study's settings for it."""

POD_DEFAULTS = "splittracr.io/pod-defaults"
"""Annotation of a pod: a digest of the operator's defaults at its creation."""

_MAX_LENGTH = 52
"""Max length of a child's name: an indexed Job adds to it, and a host name has at most 63."""


def child(study: str, suffix: str) -> str:
    """`STUDY-SUFFIX` as a DNS label, shortened and with a digest if needed."""
    plain = re.sub("[^a-z0-9-]", "-", study)
    room = _MAX_LENGTH - len(suffix) - 1
    if plain != study or len(plain) > room or not plain[0].isalpha():
        digest = hashlib.sha256(study.encode()).hexdigest()[:8]
        plain = f"s-{plain[: room - len(digest) - 3].rstrip('-')}-{digest}"
    return f"{plain}-{suffix}"


def label(study: str) -> str:
    """The study's name as the value of a label. Selectors use the uid instead."""
    return study if len(study) <= 63 else child(study, "study")
