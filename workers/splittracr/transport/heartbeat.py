"""Detects a dead peer of one connection by its bytes. No I/O, no clock."""

from enum import Enum


class PeerState(Enum):
    """The result of one check."""

    ALIVE = "alive"
    SILENT = "silent"  # send a ping
    DEAD = "dead"


class Heartbeat:
    """Checks once per interval. A silent peer is pinged, and dead after another silent interval.

    Set `heard` whenever bytes arrive.
    """

    def __init__(self) -> None:
        self.heard = True
        self._asked = False
        self._unsent = 0

    def check(self, unsent: int, reading: bool) -> PeerState:
        """Judge the last interval.

        `unsent` is the number of bytes in the write buffer; if it changes, the peer takes bytes.
        While this end does not read (`reading` is false), silence proves nothing.
        """
        alive = self.heard or unsent != self._unsent or not reading
        self.heard, self._unsent = False, unsent
        if alive:
            self._asked = False
            return PeerState.ALIVE
        if self._asked:
            return PeerState.DEAD
        self._asked = True
        return PeerState.SILENT
