"""Whether the peer of one connection is alive, judged by its bytes. No I/O, no clock."""

from enum import Enum


class Verdict(Enum):
    """The result of one check."""

    ALIVE = "alive"
    ASK = "ask"  # send a ping
    DEAD = "dead"


class Heartbeat:
    """Checks once per interval: a silent peer is asked first, and dead after another interval.

    Set `heard` whenever bytes arrive.
    """

    def __init__(self) -> None:
        self.heard = True
        self._asked = False
        self._unsent = 0

    def check(self, unsent: int, reading: bool) -> Verdict:
        """Judge the last interval.

        `unsent` is the number of bytes in the write buffer; if it changes, the peer takes bytes.
        While this end does not read (`reading` is false), silence proves nothing.
        """
        alive = self.heard or unsent != self._unsent or not reading
        self.heard, self._unsent = False, unsent
        if alive:
            self._asked = False
            return Verdict.ALIVE
        if self._asked:
            return Verdict.DEAD
        self._asked = True
        return Verdict.ASK
