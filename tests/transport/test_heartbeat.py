"""A peer is dead after two silent intervals, if it had a reason to speak."""

from splittracr.transport.heartbeat import Heartbeat, PeerState


def states(*rounds: tuple[bool, int, bool]) -> list[PeerState]:
    """Return the state after each round of: bytes heard, bytes unsent, this end reads."""
    heartbeat, found = Heartbeat(), []
    for heard, unsent, reading in rounds:
        heartbeat.heard = heartbeat.heard or heard
        found.append(heartbeat.check(unsent, reading))
    return found


ALIVE, SILENT, DEAD = PeerState
QUIET = (False, 0, True)


def test_a_silent_peer_is_pinged_and_then_dead() -> None:
    assert states(QUIET, QUIET, QUIET) == [ALIVE, SILENT, DEAD]


def test_a_peer_that_answers_is_alive() -> None:
    heard = (True, 0, True)
    assert states(QUIET, QUIET, heard, QUIET, QUIET) == [ALIVE, SILENT, ALIVE, SILENT, DEAD]


def test_a_peer_that_takes_bytes_is_alive() -> None:
    rounds = [(False, unsent, True) for unsent in (9, 7, 5, 5, 5)]
    assert states(*rounds) == [ALIVE, ALIVE, ALIVE, SILENT, DEAD]


def test_silence_proves_nothing_while_this_end_does_not_read() -> None:
    deaf = (False, 0, False)
    assert states(QUIET, *[deaf] * 5, QUIET) == [ALIVE] * 6 + [SILENT]
