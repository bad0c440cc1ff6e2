"""Whether and when the edge connects again. Time and randomness are passed in."""

from splittracr.experiment.backoff import Backoff

_BACKOFF = Backoff(first=0.1, longest=5.0)


class Reconnect:
    """Counts attempts and the time for which the server has refused the edge.

    A refusal before the start is final. Later the right server may come back, and is waited for
    as long as at the start: `patience` seconds. If `finish_on_edge` is true it is waited for
    without end, since the edge then continues without a server.
    """

    def __init__(self, patience: float, finish_on_edge: bool) -> None:
        self._patience = patience
        self._finish_on_edge = finish_on_edge
        self._attempt = 0
        self._refused_since: float | None = None
        self.started = False

    def opened(self) -> None:
        """A session was opened."""
        self._attempt = 0
        self._refused_since = None
        self.started = True

    def unreachable(self) -> None:
        """An attempt failed for a reason that may go away."""
        self._refused_since = None

    def refused(self, now: float) -> bool:
        """The server refused the edge at `now`, in seconds; returns whether to give up."""
        if not self.started:
            return True
        if self._refused_since is None:
            self._refused_since = now
        return not self._finish_on_edge and now - self._refused_since > self._patience

    def pause(self, draw: float) -> float:
        """Return the seconds before the next attempt; `draw` is a random number in [0, 1)."""
        self._attempt += 1
        return _BACKOFF.seconds(self._attempt - 1, draw)
