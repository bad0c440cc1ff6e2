"""A peer is dead after two silent intervals, if it had a reason to speak."""

from splittracr.transport.heartbeat import Heartbeat, Verdict


def verdicts(*rounds: tuple[bool, int, bool]) -> list[Verdict]:
    """The verdicts for rounds of: bytes heard, bytes unsent, this end reads."""
    heartbeat, found = Heartbeat(), []
    for heard, unsent, reading in rounds:
        heartbeat.heard = heartbeat.heard or heard
        found.append(heartbeat.check(unsent, reading))
    return found


ALIVE, ASK, DEAD = Verdict.ALIVE, Verdict.ASK, Verdict.DEAD
SILENT = (False, 0, True)


def test_a_silent_peer_is_asked_and_then_dead() -> None:
    assert verdicts(SILENT, SILENT, SILENT) == [ALIVE, ASK, DEAD]


def test_a_peer_that_answers_is_alive() -> None:
    heard = (True, 0, True)
    assert verdicts(SILENT, SILENT, heard, SILENT, SILENT) == [ALIVE, ASK, ALIVE, ASK, DEAD]


def test_a_peer_that_takes_bytes_is_alive() -> None:
    rounds = [(False, unsent, True) for unsent in (9, 7, 5, 5, 5)]
    assert verdicts(*rounds) == [ALIVE, ALIVE, ALIVE, ASK, DEAD]


def test_silence_proves_nothing_while_this_end_does_not_read() -> None:
    deaf = (False, 0, False)
    assert verdicts(SILENT, *[deaf] * 5, SILENT) == [ALIVE] * 6 + [ASK]
