"""The one entry to the pipeline, used without a study."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import torch
from PIL import Image

from splittracr.data.contracts import Sample
from splittracr.edge.infer import Inferencer, Options
from splittracr.edge.race import RequestLink
from splittracr.edge.result import Result
from splittracr.experiment.errors import InvalidInput, SplittracrError
from splittracr.experiment.spec import ExperimentSpec
from splittracr.experiment.types import Place
from splittracr.planning.decision import Decision
from splittracr.server.worker import Server
from tests.edge.local import Counts, FakeLink, samples
from tests.workers.pair import Small, opened, proven, serving, spec, within

CUT = 2


@asynccontextmanager
async def inferencer(
    of: ExperimentSpec, link: RequestLink | None = None, *, pipelined: bool = True
) -> AsyncIterator[Inferencer]:
    made = Inferencer(proven(of), link, Counts(), Options(pipelined=pipelined))
    try:
        yield made
    finally:
        made.close()


def best(result: Result, i: int = 0) -> int:
    found: int = result.predictions[i].described[0]["class"]
    return found


def expected(sample: Sample) -> int:
    assert sample.data is not None
    with torch.inference_mode():
        return int(Small().eval()(sample.data.unsqueeze(0)).argmax())


@pytest.mark.parametrize("pipelined", [True, False])
def test_a_sample_is_answered_on_the_edge_and_by_the_server(*, pipelined: bool) -> None:
    async def body() -> None:
        of = spec()
        async with (
            serving(Server(proven(of), of, None)) as (url, _),
            opened(url, proven(of), of) as link,
            inferencer(of, link, pipelined=pipelined) as runs,
        ):
            last = proven(of).proof.last
            for sample in samples(3):
                here = await runs.infer([sample], Decision(last))
                there = await runs.infer([sample], Decision(CUT))
                assert best(here) == best(there) == expected(sample)
                assert (here.finished_on, there.finished_on) == (Place.EDGE, Place.SERVER)
                assert here.bytes_up == 0 < there.bytes_up
                for result in (here, there):
                    assert sum(result.stages.values()) == pytest.approx(result.total_ms)

    within(body())


def test_calls_overlap_and_each_has_its_own_result() -> None:
    async def body() -> None:
        of = spec()
        link = FakeLink(proven(of))
        async with inferencer(of, link) as runs:
            pending = [asyncio.create_task(runs.infer([s], Decision(CUT))) for s in samples(8)]
            await link.asked.wait()
            assert not any(one.done() for one in pending)
            link.open.set()
            found = [best(result) for result in await asyncio.gather(*pending)]
        assert found == [expected(sample) for sample in samples(8)]

    within(body())


def test_a_picture_at_hand_needs_no_data_set() -> None:
    async def body() -> None:
        of = spec()
        async with inferencer(of) as runs:
            sample = Sample("picture", picture=Image.new("RGB", (20, 10)))
            result = await runs.infer([sample], Decision(proven(of).proof.last))
        assert result.failures == {}
        assert result.predictions[0].geometry.picture == (10, 20)
        assert result.predictions[0].geometry.network == (8, 8)
        assert result.predictions[0].truth.label is None

    within(body())


def test_a_sample_that_fails_leaves_the_others_of_its_batch() -> None:
    def broken() -> Sample:
        raise ValueError("broken")

    async def body() -> None:
        of = spec(workload={"batchSize": 3})
        first, last = samples(2)
        async with inferencer(of) as runs:
            result = await runs.infer([first, broken, last], Decision(proven(of).proof.last))
        assert result.failures == {1: "ValueError: broken"}
        assert [best(result, i) for i in (0, 2)] == [expected(first), expected(last)]
        assert not result.outcome().ok

    within(body())


def test_latency_counts_from_the_time_that_is_given() -> None:
    async def body() -> None:
        of = spec()
        async with inferencer(of) as runs:
            now = asyncio.get_running_loop().time()
            late = await runs.infer(samples(1), Decision(proven(of).proof.last), due=now - 1.0)
            soon = await runs.infer(samples(1), Decision(proven(of).proof.last))
        assert late.total_ms > 1000 > soon.total_ms
        assert late.started_at < soon.started_at

    within(body())


def test_what_cannot_be_run_is_refused() -> None:
    async def body() -> None:
        of = spec(workload={"batchSize": 2})
        async with inferencer(of) as runs:
            with pytest.raises(InvalidInput, match=r"samples: got 1, expected 2, the model's"):
                await runs.infer(samples(1), Decision(CUT))
            with pytest.raises(SplittracrError, match=r"needs a server and this edge has no link"):
                await runs.infer(samples(2), Decision(CUT))

    within(body())
