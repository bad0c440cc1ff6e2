"""What a transfer is taken to show of the link."""

import math

import pytest

from splittracr.edge.transfers import Transfers
from splittracr.planning.meter import LinkMeter
from splittracr.planning.transfer import Transfer
from splittracr.transport.frames import Arrival
from splittracr.wire.messages import Failure, Probed, Reply


class Noted:
    """Keeps the transfers."""

    def __init__(self) -> None:
        self.finished: dict[int, Transfer] = {}

    def sent(self, number: int, cut: int | None, nbytes: int, now: float) -> None:
        pass

    def heard(self, number: int, transfer: Transfer, now: float) -> None:
        self.finished[number] = transfer

    def connection(self, alive: bool) -> None:
        pass


def arrival(last: float) -> Arrival:
    return Arrival(memoryview(b""), first=last, last=last, size_on_wire=10)


def test_the_time_at_the_server_is_not_taken_for_the_link() -> None:
    noted, meter = Noted(), LinkMeter()
    transfers = Transfers(meter, lambda: noted)
    transfers.start(0, 2, 100, now=10.0)
    transfers.start(1, 2, 100, now=10.0)
    transfers.start(2, None, 50, now=10.0)
    failure = Failure(id=0, reason="cancelled", waited_ms=700.0)
    assert transfers.finish(failure, arrival(10.9)) == 100
    assert transfers.finish(Reply(id=1, stages={"tail": 3.0}), arrival(10.1)) == 100
    assert transfers.finish(Probed(id=2), arrival(10.05)) == 50
    times = {number: transfer.link_ms for number, transfer in noted.finished.items()}
    assert times == pytest.approx({0: 200, 1: 97, 2: 50})
    assert meter.round_trip_ms == pytest.approx(50)


def test_an_unknown_answer_shows_nothing() -> None:
    noted = Noted()
    transfers = Transfers(LinkMeter(), lambda: noted)
    assert transfers.finish(Probed(id=3), arrival(1.0)) == 0
    assert noted.finished == {}


def test_the_oldest_message_without_an_answer_is_known() -> None:
    transfers = Transfers(LinkMeter(), lambda: None)
    assert transfers.oldest() == math.inf
    transfers.start(0, 2, 100, now=3.0)
    transfers.start(1, 2, 100, now=5.0)
    assert transfers.oldest() == 3.0
    transfers.finish(Reply(id=0, stages={}), arrival(6.0))
    assert transfers.oldest() == 5.0
