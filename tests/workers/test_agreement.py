"""What a lossy codec does to the results is measured against the network without it."""

import asyncio

import pytest
import torch
from torch import Tensor

from splittracr.edge.agreement import measure
from splittracr.experiment.codec import Codec
from splittracr.results.words import agreement
from splittracr.server.worker import Server
from tests.workers.pair import Tensors, proven, run_frames, serving, spec


def batches(count: int = 6) -> list[Tensor]:
    found = (Tensors().load(i).data for i in range(count))
    return [torch.stack([data]) for data in found if data is not None]


def test_coarser_codecs_change_more_and_a_lossless_one_nothing() -> None:
    own = proven(spec())
    cut = own.proof.cut(2)
    errors = [
        measure(own, cut, Codec.parse(name), batches()).largest_error
        for name in ("raw+zstd1", "float16", "uint8", "uint4")
    ]
    assert errors[0] == 0
    assert 0 < errors[1] < errors[2] < errors[3] < 0.5


def test_the_share_of_equal_first_classes_is_counted() -> None:
    own = proven(spec())
    found = measure(own, own.proof.cut(2), Codec.parse("uint8"), batches())
    assert found.samples == 6
    assert found.top1 is not None
    assert found.top1 >= 5 / 6
    assert agreement(found).startswith(f"uint8 at {own.proof.cut(2).name}: same first class for ")


@pytest.mark.parametrize(("codec", "expected"), [("uint8", {2, 5}), ("raw+zstd1", set())])
def test_a_run_measures_the_cuts_where_its_codec_was_used(codec: str, expected: set[int]) -> None:
    async def body() -> None:
        of = spec(transport={"codec": codec})
        edge = proven(of)
        async with serving(Server(proven(of), of, None)) as (url, _):
            result = await run_frames(url, edge, of, [0, 2, 5, edge.proof.last], frames=2)
        found = result.worker.agreement()
        assert {edge.proof.cut(a.cut).index for a in found} == expected
        assert {a.codec for a in found} <= {codec}

    asyncio.run(body())
