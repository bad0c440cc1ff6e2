"""Finds the user's policy that a manifest names."""

from functools import partial

from splittracr.data.importing import import_object
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.spec import ExperimentSpec
from splittracr.planning.own_policy import FIELD, OwnPolicy
from splittracr.planning.registry import Maker


def find(spec: ExperimentSpec) -> Maker | None:
    """Return the constructor of the policy `package.module:Class`; None if the manifest names none.

    Raises InvalidInput if it cannot be imported.
    """
    adaptive = spec.partition.adaptive
    if adaptive is None or ":" not in adaptive.policy:
        return None
    found = import_object(adaptive.policy, FIELD)
    if not callable(found):
        raise InvalidInput(FIELD, adaptive.policy, "a class, or a function that makes a policy")
    return partial(OwnPolicy, adaptive.policy, found)
