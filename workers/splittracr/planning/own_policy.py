"""A policy of the user's own: what it raises or returns by mistake gets an error that names it."""

from splittracr.experiment.errors import InvalidInput, SplittracrError, reason
from splittracr.planning.cost import Candidates
from splittracr.planning.decision import Decision
from splittracr.planning.estimate import Beliefs
from splittracr.planning.policy import Policy, PolicyOptions
from splittracr.planning.registry import Maker

FIELD = "spec.partition.adaptive.policy"


class OwnPolicy(Policy):
    """Asks the policy that `maker` makes. `path` is what the manifest calls it.

    Raises InvalidInput if it cannot be made, or is none.
    """

    def __init__(
        self, path: str, maker: Maker, candidates: Candidates, settings: PolicyOptions
    ) -> None:
        super().__init__(candidates, settings)
        try:
            made: object = maker(candidates, settings)
        except Exception as error:  # the user's class may raise anything
            expected = f"a policy that can be made ({reason(error)})"
            raise InvalidInput(FIELD, path, expected) from error
        if not isinstance(made, Policy):
            expected = f"a subclass of splittracr.planning.policy.Policy, not {type(made).__name__}"
            raise InvalidInput(FIELD, path, expected)
        self._path, self._inner = path, made

    def decide(self, now: float, beliefs: Beliefs) -> Decision:
        """Return its decision. Raises SplittracrError if that is none of what is offered."""
        try:
            decision: object = self._inner.decide(now, beliefs)
        except Exception as error:
            raise SplittracrError(f"policy {self._path}: decide: {reason(error)}") from error
        if not isinstance(decision, Decision):
            expected = f"decide returned {type(decision).__name__}, expected a Decision"
            raise SplittracrError(f"policy {self._path}: {expected}")
        i = self.candidates.position(decision.cut, str(decision.codec))
        if i == self.candidates.edge_only and decision.cut != self.candidates.cut[i]:
            which = f"cut {decision.cut} with codec {decision.codec}"
            raise SplittracrError(f"policy {self._path}: decided {which}, expected a candidate")
        if decision.small is not None and beliefs.cascade is None:
            expected = "None: there is no small model and no exit, or they have drifted"
            raise SplittracrError(
                f"policy {self._path}: decided small={decision.small}, expected {expected}"
            )
        cascade = beliefs.cascade if decision.small == "first" else None
        if cascade is not None and not cascade.follows(self.candidates)[i]:
            raise SplittracrError(
                f"policy {self._path}: decided small=first with cut {decision.cut}, expected "
                "input, or a cut after the last exit"
            )
        return decision

    def learn(self, candidate: int, latency_ms: float, beliefs: Beliefs) -> None:
        try:
            self._inner.learn(candidate, latency_ms, beliefs)
        except Exception as error:
            raise SplittracrError(f"policy {self._path}: learn: {reason(error)}") from error
