"""The CUDA paths, where there is a GPU: same contracts, another device."""

import asyncio

import pytest
import torch

from splittracr.backends.torch.build import assemble
from splittracr.backends.torch.device import TorchDevice, resolve
from splittracr.backends.torch.proven import ProvenNetwork
from splittracr.experiment.types import STAGES
from splittracr.measure.metrics import ServerMetrics
from splittracr.server.worker import Server
from splittracr.splitting.prove import same, through_wire
from tests.scrape import scraped
from tests.workers.pair import Small, Tensors, proven, run_frames, serving, spec

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA = torch.device("cuda")
HERE = TorchDevice(CUDA)


def on_gpu(of: ProvenNetwork) -> ProvenNetwork:
    return assemble(of.network, spec(), CUDA)


def test_auto_takes_the_gpu() -> None:
    assert resolve("auto", "spec.server.device") == CUDA
    assert "sm_" in HERE.capability


def test_the_gpu_and_its_memory_are_in_the_metrics() -> None:
    metrics = ServerMetrics(max_edges=1)
    metrics.loaded("small", "sha256:a", "sha256:b", HERE)
    held = torch.ones(2**20, device=CUDA)
    seen = scraped(metrics.exposition)
    memory = seen.of("splittracr_device_memory_bytes", "state")
    assert memory["peak",] >= memory["current",] >= held.nbytes
    assert seen.one("splittracr_device_info", device="cuda", name=HERE.name) == 1


def test_every_cut_is_exact_on_the_gpu_against_itself() -> None:
    own = on_gpu(proven(spec()))
    assert own.proof.refused == {}
    x = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8, device=CUDA)
    with torch.inference_mode():
        expected = own.network.module(x)
        for cut in range(own.proof.last + 1):
            assert same(own.tail(cut, through_wire(own.head(cut, x))), expected)


def test_an_edge_on_the_cpu_and_a_server_on_the_gpu() -> None:
    async def body() -> None:
        of = spec()
        edge = proven(of)
        async with serving(Server(on_gpu(proven(of)), of, None)) as (url, _):
            split = await run_frames(url, edge, of, range(edge.proof.last), frames=3)
        with torch.inference_mode():
            module = Small().eval()
            for frame in split.frames:
                data = Tensors().load(frame.step.frame).data
                assert data is not None
                scores = module(data.unsqueeze(0)).softmax(1)
                best = frame.result.predictions[0].reduced
                assert int(best["classes"][0]) == int(scores.argmax())
                torch.testing.assert_close(
                    best["scores"][0].float(), scores.max(), rtol=1e-3, atol=1e-4
                )
                assert set(frame.result.stages) <= set(STAGES)
                assert sum(frame.result.stages.values()) == pytest.approx(frame.result.total_ms)

    asyncio.run(body())
