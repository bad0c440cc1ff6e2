"""Networks with graphs compute the bits of PyTorch, with recordings on the processor."""

import asyncio
import dataclasses
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from splittracr.backends import registry, settings
from splittracr.backends.protocol import Part
from splittracr.backends.torch import build as torch_build
from splittracr.backends.torch.buffers import layout
from splittracr.backends.torch.cuda_graphs import CudaNetwork, with_graphs
from splittracr.backends.torch.proven import ProvenNetwork
from splittracr.edge.readiness import Readiness
from splittracr.experiment.contracts import Runtime
from splittracr.experiment.errors import FrameFailed, InvalidInput
from splittracr.experiment.spec import ExperimentSpec
from splittracr.planning.decision import Decision
from splittracr.server.worker import Server
from splittracr.splitting.compare import same
from splittracr.wire.identity import difference
from tests.backends.recording import ROOM, OneBitOff, OnProcessor, recorded
from tests.workers.pair import (
    Tensors,
    instead_of_last,
    opened,
    proven,
    run_frames,
    serving,
    spec,
    within,
)

PARTS: tuple[Part, ...] = ("head", "tail")
NETWORKS = {"alexnet": [64, 64], "resnet18": [32, 32]}


def built(name: str, **sections: Any) -> ProvenNetwork:
    model = {"name": name, "weights": "none", "inputSize": NETWORKS[name]}
    data = {"model": model, "partition": {"mode": "Sweep"}, **sections}
    return torch_build.build(ExperimentSpec.model_validate(data, by_alias=True), "edge", Path())


def graphed(own: ProvenNetwork, capturer: OnProcessor, limit: int = ROOM) -> CudaNetwork:
    return with_graphs(own, capturer, limit)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_cut_gives_the_bits_of_pytorch(name: str) -> None:
    own, capturer = built(name), OnProcessor()
    made = graphed(own, capturer)
    for cut in range(own.proof.last + 1):
        for part in PARTS:
            made.make_ready(part, cut)
            assert made.ready(part, cut)
            assert made.graphs.refused(part, cut) is None
        checks = capturer.replays
        for seed in (5, 6):  # the first real values are compared once more
            expected = own.head(cut, own.example(seed))
            live = made.head(cut, own.example(seed))
            assert same(live, expected)
            assert layout(live) == layout(expected)
            payload = own.pack(live)
            output = made.tail(cut, made.unpack(payload))
            assert same(output, own.tail(cut, own.unpack(payload)))
        parts = (cut > 0) + (cut < own.proof.last)
        assert capturer.replays == checks + 2 * parts, "every one was replayed"


def test_requests_in_one_batch_have_a_graph_too() -> None:
    own, capturer = built("resnet18"), OnProcessor()
    made = graphed(own, capturer)
    cut = own.proof.last // 2
    lives = [made.head(cut, own.example(seed)) for seed in (3, 4, 5)]
    recorded()  # of the head
    for _ in range(3):
        together = made.join([made.unpack(made.pack(live)) for live in lives])
        again = made.join([made.unpack(made.pack(live)) for live in lives])
        assert together is not None
        assert again is not None
        assert same(made.tail(cut, together), own.tail(cut, again))
        recorded()
    assert any(one.replays == 4 for one in capturer.made)  # two examples, and two batches


def test_a_network_without_a_usual_shape_is_computed_eagerly() -> None:
    own = proven(spec())
    own = dataclasses.replace(own, network=dataclasses.replace(own.network, variable_shape=True))
    made = graphed(own, OnProcessor())
    made.make_ready("head", 2)
    assert made.ready("head", 2)
    assert made.graphs.refused("head", 2) == "small keeps each picture's own size"
    assert same(made.head(2, own.example(0)), own.head(2, own.example(0)))


def test_timed_operations_run_one_by_one() -> None:
    own, capturer = proven(spec()), OnProcessor()
    made = graphed(own, capturer)
    made.make_ready("head", 3)
    checks = capturer.replays
    for _ in range(3):
        made.head(3, own.example(1), timed=True)
    assert capturer.replays == checks
    assert made.times()[0].readings == 3


def test_the_profile_has_every_head_and_tail() -> None:
    own = proven(spec())
    made = graphed(own, OnProcessor())
    profile = made.profile(spec(), [own.example(0)], ["raw"], [])
    assert profile.runtime is Runtime.CUDA_GRAPHS
    assert len(profile.heads_ms) == len(profile.tails_ms) == own.proof.last + 1
    assert profile.heads_ms[-1] > 0 < profile.tails_ms[0]
    assert len(made.graphs) == 0, "the study begins with room for its own"


# ------------------------------------------------------------------------------ out of memory


def runs_out(own: ProvenNetwork, times: int) -> None:
    """Let the last operation of a frame lack memory so often."""
    left = [times]

    def run(last: Any) -> None:
        if left[0] and threading.current_thread().name != "record":
            left[0] -= 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        last()

    instead_of_last(own, run)


def test_a_lack_of_memory_is_an_error_of_the_frame() -> None:
    own = proven(spec())
    runs_out(own, 1)
    live = own.head(1, own.example(0))
    with pytest.raises(FrameFailed, match=r"\(cpu\) is out of memory: .* allocate 2\.00 GiB"):
        own.tail(1, own.unpack(own.pack(live)))
    own.tail(1, own.unpack(own.pack(live)))


def test_a_lack_of_memory_drops_the_graphs() -> None:
    own = proven(spec())
    made = graphed(own, OnProcessor())
    for cut in (1, 2):
        made.make_ready("tail", cut)
    runs_out(own, 1)
    live = made.head(3, own.example(0))
    with pytest.raises(FrameFailed, match="is out of memory"):
        made.tail(3, made.unpack(made.pack(live)))
    recorded()
    assert [made.ready("tail", cut) for cut in (1, 2)] == [False, False]
    assert same(made.tail(3, made.unpack(made.pack(live))), own.tail(3, own.unpack(own.pack(live))))


@pytest.mark.parametrize("graphs", [False, True])
def test_a_server_that_lacks_memory_fails_the_frame_and_serves_the_next(graphs: bool) -> None:
    of = spec()
    edge, server = proven(of), proven(of)
    runs_out(server, 1)
    network = graphed(server, OnProcessor()) if graphs else server

    async def body() -> None:
        async with serving(Server(network, of, None)) as (url, _):
            done = (await run_frames(url, edge, of, [2], frames=5)).frames
        failures = [one.result.failures for one in done]
        assert [bool(one) for one in failures] == [True, False, False, False, False]
        assert "is out of memory" in failures[0][0]

    within(body())
    recorded()


# ------------------------------------------------------------------------------ both ends


@pytest.mark.parametrize("capturer", [OnProcessor, OneBitOff])
def test_an_edge_of_torch_gets_the_same_results_from_a_server_with_graphs(
    capturer: type[OnProcessor],
) -> None:
    of = spec()
    edge, server = proven(of), graphed(proven(of), capturer())

    async def body() -> None:
        async with serving(Server(server, of, None)) as (url, _):
            split = await run_frames(url, edge, of, range(edge.proof.last), frames=4)
        for frame in split.frames:
            data = frame.result.predictions[0].reduced
            alone = edge.reduce(edge.network.module(inputs(frame.step.frame)))
            assert same(dict(data), dict(alone[0]))

    within(body())
    recorded()


def inputs(index: int) -> Tensor:
    data = Tensors().load(index).data
    assert data is not None
    return data.unsqueeze(0)


@pytest.mark.parametrize("capturer", [OnProcessor, OneBitOff])
def test_a_policy_changes_to_a_cut_when_both_ends_are_ready(capturer: type[OnProcessor]) -> None:
    of, cut = spec(), 3
    edge, server = graphed(proven(of), capturer()), graphed(proven(of), capturer())

    async def body() -> None:
        async with serving(Server(server, of, None)) as (url, _), opened(url, edge, of) as link:
            ready = Readiness(edge, link)
            assert not ready(Decision(cut))
            while not ready(Decision(cut)):  # noqa: ASYNC110 - it is asked before each frame
                await asyncio.sleep(0)
            await ready.close()

    within(body())
    assert edge.ready("head", cut)
    assert server.ready("tail", cut)
    assert not server.ready("tail", cut + 1)
    assert (server.graphs.refused("tail", cut) is None) == (capturer is OnProcessor)


def test_the_other_end_need_not_know() -> None:
    plain = spec()
    there = spec(server={"runtime": "CudaGraphs"}, edge={"runtime": "CudaGraphs"})
    assert settings.text((), plain) == settings.text((), there)
    own = proven(plain)
    assert difference(own.identity, graphed(own, OnProcessor()).identity) is None
    mixed = spec(server={"runtime": "CudaGraphs"}, edge={"runtime": "OnnxRuntime"})
    assert settings.text((), mixed) != settings.text((), plain)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("auto", r"spec\.server\.runtime: got 'CudaGraphs', expected .*there is none here"),
        ("cuda:0", r"spec\.server\.device: got 'cuda:0', expected a CUDA device; there is none"),
    ],
)
def test_without_a_gpu_the_field_is_named(device: str, message: str) -> None:
    of = spec(server={"runtime": "CudaGraphs", "device": device})
    with pytest.raises(InvalidInput, match=message):
        registry.load(Runtime.CUDA_GRAPHS).build(of, "server", Path())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuts_without_a_gpu_names_the_runtime() -> None:
    with pytest.raises(InvalidInput, match="there is none here"):
        registry.load(Runtime.CUDA_GRAPHS).prove_cuts(spec().model, 1)


@pytest.mark.parametrize("side", ["edge", "server"])
@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_a_manifest_with_another_device_is_invalid(side: str, device: str) -> None:
    with pytest.raises(ValueError, match=rf"goes with device auto or cuda .*device is {device}"):
        spec(**{side: {"runtime": "CudaGraphs", "device": device}})
