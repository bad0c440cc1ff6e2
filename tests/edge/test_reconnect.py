"""How long an edge waits between attempts, and for how long it takes a refusal."""

import pytest

from splittracr.edge.reconnect import Reconnect


def test_pauses_grow_to_a_limit_and_half_of_them_is_random() -> None:
    reconnect = Reconnect(patience=10, finish_on_edge=False)
    assert [reconnect.pause(0) for _ in range(3)] == [0.05, 0.1, 0.2]
    assert Reconnect(patience=10, finish_on_edge=False).pause(0.5) == pytest.approx(0.075)
    assert [reconnect.pause(0) for _ in range(10)][-1] == 2.5


def test_pauses_are_short_again_after_a_session() -> None:
    reconnect = Reconnect(patience=10, finish_on_edge=False)
    assert [reconnect.pause(0) for _ in range(3)] == [0.05, 0.1, 0.2]
    reconnect.opened()
    assert reconnect.pause(0) == 0.05


def test_a_refusal_before_the_first_session_is_final() -> None:
    for alone in (False, True):
        assert Reconnect(patience=10, finish_on_edge=alone).refused(now=100)


def test_a_later_refusal_is_final_after_the_patience() -> None:
    reconnect = Reconnect(patience=10, finish_on_edge=False)
    reconnect.opened()
    assert [reconnect.refused(now) for now in (100, 105, 110, 111)] == [False, False, False, True]


@pytest.mark.parametrize("between", ["opened", "unreachable"])
def test_the_patience_begins_again_after_anything_else(between: str) -> None:
    reconnect = Reconnect(patience=10, finish_on_edge=False)
    reconnect.opened()
    assert not reconnect.refused(now=100)
    getattr(reconnect, between)()
    assert not reconnect.refused(now=120)
    assert reconnect.refused(now=131)


def test_an_edge_that_may_work_alone_waits_for_ever() -> None:
    reconnect = Reconnect(patience=10, finish_on_edge=True)
    reconnect.started = True
    assert not any(reconnect.refused(now) for now in (100, 1e6))
