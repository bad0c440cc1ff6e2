"""Whether a data connection still carries bytes, judged by counting them at both ends.

A connection can die without a word: a NAT or a firewall that forgets a quiet flow drops its
packets and closes nothing. Waiting for an answer proves nothing, since a slow upload and a slow
server look the same. So the edge asks over the control connection how many bytes have arrived.
A connection on which bytes are due and none moves for two heartbeats is dead. One that moves
bytes is alive, however slow it is.
"""

from splittracr.wire.messages import Checked

PATIENCE = 2
"""Rounds, each a heartbeat long, in which nothing may move."""


class Liveness:
    """The judgement of one data connection, round by round; each round begins with a ping.

    A round lasts at least `heartbeat` seconds. Bytes count as due only if they were written before
    the round began, so that what is still on its way at a check is never held against it.
    """

    def __init__(self, heartbeat: float) -> None:
        self._heartbeat = heartbeat
        self._written = 0  # here, before the last check was sent
        self._received = 0  # here, after its answer had come
        self._there: Checked | None = None
        self._still = {"to": 0, "from": 0}  # rounds without a byte that was due

    def judge(self, written: int, received: int, there: Checked) -> str | None:
        """Take a check and its answer; returns why the connection is dead, None if it is not.

        `written` is what this end had written before the check was sent, `received` what it had
        received when the answer came.
        """
        before = self._there
        if before is not None:
            up = before.received < self._written and there.received == before.received
            self._count("to", up and there.reading)
            down = self._received < before.written and received == self._received
            self._count("from", down)
        self._written, self._received, self._there = written, received, there
        for way, rounds in self._still.items():
            if rounds >= PATIENCE:
                return (
                    f"no byte {way} the server has arrived for {rounds * self._heartbeat:g} s, "
                    "though the control connection works"
                )
        return None

    def _count(self, way: str, still: bool) -> None:
        self._still[way] = self._still[way] + 1 if still else 0
