"""Batches of real requests are compared with single ones, and end where they differ."""

import dataclasses
import logging
import queue
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from splittracr.measure.metrics import ServerMetrics
from splittracr.replica import Replica, assemble
from splittracr.server.engine import Engine, Job, Outcome
from splittracr.splitting.live import pack, unpack
from splittracr.wire import codec
from splittracr.wire.messages import Reply, Request, decode, encode
from splittracr.wire.session import Parts
from tests.workers.pair import replica, spec

OF = spec(server={"maxBatch": 4}, postprocess={"name": "raw"})


class ByLargest(nn.Module):
    """Divides by the largest value of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.float() + 0.0
        return (x / (x.max() + 1e-3)).mean((2, 3))


class ByOwnLargest(nn.Module):
    """Divides by the largest value of each picture."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.float().mul_(1.0)
        return (x / (x.amax((1, 2, 3), keepdim=True) + 1e-3)).mean((2, 3))


def taken_for_batchable(module: nn.Module) -> Replica:
    """A replica that is said to be batchable, as one is that no example gave away."""
    network = dataclasses.replace(replica(spec()).network, module=module.eval())
    own = assemble(network, OF, torch.device("cpu"))
    return dataclasses.replace(own, batchable=frozenset(range(len(own.tape) + 1)))


def picture(level: int) -> Tensor:
    return torch.full((1, 3, 8, 8), level, dtype=torch.uint8)


@contextmanager
def engine_of(own: Replica) -> Iterator[Engine]:
    engine = Engine(own, OF, ServerMetrics(None, max_edges=1))
    try:
        yield engine
    finally:
        engine.stop()
        assert engine.join(60)


def answers(engine: Engine, own: Replica, levels: list[int], first: int = 0) -> list[Reply]:
    """The replies to pictures of these levels that wait together, each checked against alone."""
    done: queue.Queue[tuple[int, Reply, list[float]]] = queue.Queue()

    def finished(job: Job, parts: Parts, outcome: Outcome) -> None:
        assert outcome == "ok", parts
        message, payload = decode(b"".join(parts))
        assert isinstance(message, Reply)
        ((result,),) = unpack(codec.decode(payload))
        done.put((job.request.id, message, result["output:first"].tolist()))

    for i, level in enumerate(levels):
        payload = codec.encode(pack(own.head(0, picture(level))))
        _, received = decode(b"".join(encode(Request(id=first + i, cut=0), payload)))
        engine.submit(Job(0, Request(id=first + i, cut=0), received, 0.0, 0.0, finished))
    engine._decoder.submit(int).result()  # what waits has been decoded
    if not engine._thread.is_alive():
        engine.start()
    found = sorted((done.get(timeout=60) for _ in levels), key=lambda one: one[0])
    for (_, _, values), level in zip(found, levels, strict=True):
        assert values == own.network.module(picture(level))[0].tolist()
    return [reply for _, reply, _ in found]


def test_a_batch_that_mixes_its_requests_is_computed_again_and_the_last_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    own = taken_for_batchable(ByLargest())
    with engine_of(own) as engine, caplog.at_level(logging.WARNING):
        assert [reply.batch for reply in answers(engine, own, [3, 250, 9])] == [1, 1, 1]
        assert not engine._batching
        for start in (10, 20):
            assert {r.batch for r in answers(engine, own, [3, 250, 9], start)} == {1}
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning == (
        "at cut input a request gives another result in a batch than alone: spec.server.maxBatch "
        "has no effect from now on"
    )


def test_a_batch_that_mixes_nothing_stays_one(caplog: pytest.LogCaptureFixture) -> None:
    own = taken_for_batchable(ByOwnLargest())
    with engine_of(own) as engine, caplog.at_level(logging.WARNING):
        assert [reply.batch for reply in answers(engine, own, [3, 250, 9])] == [3, 3, 3]
        assert engine._batching
    assert caplog.records == []
