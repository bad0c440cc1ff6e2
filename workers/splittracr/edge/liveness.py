"""Whether a data connection still carries bytes, judged by counting them at both ends.

A connection can die without a sign: a NAT or a firewall that forgets a quiet flow drops its
packets and closes nothing. Waiting for an answer proves nothing, since a slow upload and a slow
server look the same. So the edge asks over the control connection how many bytes have arrived.
A connection on which bytes are due and none moves for two heartbeats is dead. A connection that
moves bytes is alive, however slow it is.
"""

from splittracr.wire.messages import Checked

MAX_STILL_ROUNDS = 2
"""Rounds, each a heartbeat long, without a byte that was due."""


class Liveness:
    """Judges one data connection, round by round; each round begins with a ping.

    A round lasts at least `heartbeat` seconds. Bytes count as due only if they were written before
    the round began, so that bytes on their way at a check do not count.
    """

    def __init__(self, heartbeat: float) -> None:
        self._heartbeat = heartbeat
        self._written = 0  # here, before the last check was sent
        self._received = 0  # here, after its answer had arrived
        self._there: Checked | None = None
        self._still = {"to": 0, "from": 0}  # rounds without a byte that was due

    def judge(self, written: int, received: int, there: Checked) -> str | None:
        """Return why the connection is dead, None if it is not.

        `written` is the number of bytes that this end had written before the check was sent,
        `received` the number that it had received when the answer `there` came.
        """
        before = self._there
        if before is not None:
            up = before.received < self._written and there.received == before.received
            self._count("to", up and there.reading)
            down = self._received < before.written and received == self._received
            self._count("from", down)
        self._written, self._received, self._there = written, received, there
        for direction, rounds in self._still.items():
            if rounds >= MAX_STILL_ROUNDS:
                return (
                    f"no byte {direction} the server has arrived for "
                    f"{rounds * self._heartbeat:g} s, though the control connection works"
                )
        return None

    def _count(self, direction: str, still: bool) -> None:
        self._still[direction] = self._still[direction] + 1 if still else 0
