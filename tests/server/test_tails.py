"""Batches of real requests are compared with single ones, and end where they differ."""

import dataclasses
import logging

import pytest
import torch
from torch import Tensor, nn

from splittracr.backends.torch.build import assemble
from splittracr.backends.torch.proven import ProvenNetwork
from splittracr.measure.metrics import ServerMetrics
from splittracr.server.job import Job, Outcome
from splittracr.server.tails import Tails
from splittracr.splitting.live import pack, unpack
from splittracr.wire import codec
from splittracr.wire.messages import Reply, Request, decode, encode
from splittracr.wire.session import Parts
from tests.workers.pair import proven, spec

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


def taken_for_batchable(module: nn.Module) -> ProvenNetwork:
    """A network that is said to be batchable, as one is that no example gave away."""
    network = dataclasses.replace(proven(spec()).network, module=module.eval())
    own = assemble(network, OF, torch.device("cpu"))
    return dataclasses.replace(own, batchable=frozenset(range(len(own.tape) + 1)))


def picture(level: int) -> Tensor:
    return torch.full((1, 3, 8, 8), level, dtype=torch.uint8)


def answers(tails: Tails, own: ProvenNetwork, levels: list[int]) -> list[Reply]:
    """The replies to pictures of these levels, computed together if they may be.

    Each result is compared with that of the whole model.
    """
    replies: list[tuple[Reply, list[float]]] = []

    def done(job: Job, parts: Parts, outcome: Outcome) -> None:
        assert outcome == "ok", parts
        message, payload = decode(b"".join(parts))
        assert isinstance(message, Reply)
        ((result,),) = unpack(codec.decode(payload))
        replies.append((message, result["output:first"].tolist()))

    jobs = []
    for i, level in enumerate(levels):
        payload = codec.encode(pack(own.head(0, picture(level))))
        _, received = decode(b"".join(encode(Request(id=i, cut=0), payload)))
        jobs.append(Job(0, Request(id=i, cut=0), received, 0.0, 0.0, done))
        assert tails.decode(jobs[-1])
    together = all(tails.fit(jobs[0], job) for job in jobs)
    for batch in [jobs] if together else [[job] for job in jobs]:
        tails.answer(batch)
    for (_, values), level in zip(replies, levels, strict=True):
        assert values == own.network.module(picture(level))[0].tolist()
    return [reply for reply, _ in replies]


def tails_of(own: ProvenNetwork) -> Tails:
    return Tails(own, OF, ServerMetrics(None, max_edges=1))


def test_a_batch_with_other_results_is_computed_again_and_the_last_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    own = taken_for_batchable(ByLargest())
    tails = tails_of(own)
    with caplog.at_level(logging.WARNING):
        assert [reply.batch for reply in answers(tails, own, [3, 250, 9])] == [1, 1, 1]
        assert not tails.batching
        assert [reply.batch for reply in answers(tails, own, [3, 250, 9])] == [1, 1, 1]
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning == (
        "at cut input a request gives another result in a batch than alone: spec.server.maxBatch "
        "has no effect from now on"
    )


def test_a_batch_with_the_same_results_stays_one(caplog: pytest.LogCaptureFixture) -> None:
    own = taken_for_batchable(ByOwnLargest())
    tails = tails_of(own)
    with caplog.at_level(logging.WARNING):
        assert [reply.batch for reply in answers(tails, own, [3, 250, 9])] == [3, 3, 3]
        assert tails.batching
    assert caplog.records == []
