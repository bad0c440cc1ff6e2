"""A policy of your own, for policy.yaml beside this file."""

from splittracr.planning.decision import Decision
from splittracr.planning.estimate import Beliefs
from splittracr.planning.policy import Policy, Reason

LOWEST = 2e6  # bits per second


class Cautious(Policy):
    """Takes the fastest candidate, and the edge alone while the uplink is below `LOWEST`."""

    def decide(self, now: float, beliefs: Beliefs) -> Decision:
        """Return the decision for the next frame; `now` is in milliseconds."""
        latencies = self.candidates.latency_ms(beliefs)
        chosen, reason = int(latencies.argmin()), Reason.BEST
        if not beliefs.connected:
            chosen, reason = self.candidates.edge_only, Reason.LOST
        elif beliefs.up.bits_per_second < LOWEST:
            chosen, reason = self.candidates.edge_only, Reason.FIXED
        regret = float(latencies[chosen] - latencies.min())
        return self.decided(chosen, latencies, regret, reason)
