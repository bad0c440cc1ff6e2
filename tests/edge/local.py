"""A pipeline without a server: its counters, and a link that answers from a network."""

import asyncio
from dataclasses import dataclass, field

from splittracr.backends.torch.proven import ProvenNetwork
from splittracr.data.contracts import Sample
from splittracr.edge.frame import Batch, Frame, Given
from splittracr.edge.infer import unlabelled
from splittracr.edge.link import ServerReply
from splittracr.edge.stages import Pipeline
from splittracr.experiment.errors import SplittracrError
from splittracr.measure.stopwatch import Stopwatch
from splittracr.planning.decision import Decision
from splittracr.splitting.live import pack, unpack
from splittracr.wire import codec
from splittracr.wire.codec import EncodedPayload
from splittracr.wire.messages import Reply, Welcome
from tests.workers.pair import Tensors


@dataclass
class Counts:
    """Counts what the stages do."""

    ran: int = 0
    raw_bytes: int = 0

    def operations(self, count: int) -> None:
        self.ran += count

    def encoded(self, raw: int, encoded: int) -> None:
        del encoded
        self.raw_bytes += raw


@dataclass
class FakeLink:
    """Replies as a server would, once `open` is set; raises `error` instead if there is one."""

    server: ProvenNetwork
    welcome: Welcome | None = None
    error: SplittracrError | None = None
    open: asyncio.Event = field(default_factory=asyncio.Event)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    async def request(self, cut: int, epoch: int, payload: EncodedPayload) -> ServerReply:
        del epoch
        self.asked.set()
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if self.error is not None:
            raise self.error
        output = self.server.tail(cut, unpack(codec.decode(payload), "cpu"))
        reduced = [dict(one) for one in self.server.reduce(output)]
        reply = Reply(id=0, stages={"tail": 1.0, "reduce": 0.5}, receiving_ms=2.0, batch=1)
        return ServerReply(reply, codec.encode(pack([reduced])), sent=payload.nbytes + 50, size=90)


def samples(count: int, first: int = 0) -> list[Sample]:
    """Samples that the small network takes."""
    return [Tensors().load(first + i) for i in range(count)]


def given(count: int) -> Given:
    """The same, as the first value of a frame."""
    return Given(Batch(count), samples(count))


def pipeline(own: ProvenNetwork, *, raw: bool = False) -> Pipeline:
    """Stages without labels."""
    return Pipeline(own, Counts(), raw, unlabelled)


def frame(own: ProvenNetwork, decision: Decision) -> Frame:
    """A frame that starts now."""
    cut = own.proof.cuts[decision.cut]
    return Frame(cut, decision, due=0.0, started_at=0.0, watch=Stopwatch(own.device))
