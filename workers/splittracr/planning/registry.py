"""Every policy by name."""

from collections.abc import Callable, Mapping

from splittracr.experiment.errors import InvalidInput, nearest
from splittracr.planning.bandit import Bandit
from splittracr.planning.cost import Candidates
from splittracr.planning.policy import (
    Adaptive,
    Deadline,
    Hedge,
    Policy,
    PolicyOptions,
    edge_only,
    server_only,
)

Maker = Callable[[Candidates, PolicyOptions], Policy]
"""Makes a policy; often its class."""

SERVER_ONLY = "server-only"

DECIDING = ("adaptive", "deadline", "hedge")
"""Policies that can decide whether the small model of a cascade, or its exits, go first."""

POLICIES: Mapping[str, Maker] = {
    "edge-only": edge_only,
    SERVER_ONLY: server_only,
    "adaptive": Adaptive,
    "deadline": Deadline,
    "hedge": Hedge,
    "bandit": Bandit,
}
"""Constructors of the policies. The simulator adds the oracle, which knows the future."""


def create(name: str, candidates: Candidates, settings: PolicyOptions) -> Policy:
    """Make the policy called `name`. Raises InvalidInput if there is none."""
    maker = POLICIES.get(name)
    if maker is None:
        raise InvalidInput("policy", name, nearest(name, POLICIES))
    return maker(candidates, settings)
