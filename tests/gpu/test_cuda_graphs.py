"""CUDA graphs on a GPU: the same bits as eager at every cut, in threads, and out of memory."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from splittracr.backends.protocol import Part
from splittracr.backends.torch.cuda_graphs import CudaNetwork, build
from splittracr.backends.torch.proven import ProvenNetwork
from splittracr.experiment.errors import FrameFailed
from splittracr.experiment.spec import ExperimentSpec
from splittracr.splitting.compare import same
from tests.backends.recording import recorded
from tests.workers.pair import instead_of_last

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
PARTS: tuple[Part, ...] = ("head", "tail")
NETWORKS = ("alexnet", "resnet18", "mobilenet_v3_small")


def built(name: str, **server: Any) -> CudaNetwork:
    data = {
        "model": {"name": name, "weights": "none"},
        "partition": {"mode": "Sweep"},
        "server": {"runtime": "CudaGraphs", "sessionMebibytes": 16384, **server},
    }
    return build(ExperimentSpec.model_validate(data, by_alias=True), "server", Path())


def sent(own: ProvenNetwork, cut: int, seed: int) -> Any:
    """Live values as an edge sends them."""
    return own.pack(ProvenNetwork.head(own, cut, own.example(seed)))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_cut_gives_the_bits_of_eager(name: str) -> None:
    own = built(name)
    for cut in range(own.proof.last + 1):
        for part in PARTS:
            own.make_ready(part, cut)
            assert own.graphs.refused(part, cut) is None, cut
        for seed in (5, 6, 7):  # the first real values are compared once more
            head = own.head(cut, own.example(seed))
            assert same(head, ProvenNetwork.head(own, cut, own.example(seed))), cut
            payload = own.pack(head)
            output = own.tail(cut, own.unpack(payload))
            assert same(output, ProvenNetwork.tail(own, cut, own.unpack(payload))), cut


def test_an_operation_that_waits_is_refused_and_others_go_on() -> None:
    own = built("alexnet")
    last = own.proof.last

    def waits(run: Any) -> None:
        run()
        torch.cuda.current_stream().synchronize()  # nothing that the screening sees

    instead_of_last(own, waits)
    own.make_ready("tail", last - 1)
    assert own.graphs.refused("tail", last - 1) is not None
    own.make_ready("head", last - 1)
    assert own.graphs.refused("head", last - 1) is None
    payload = sent(own, last - 1, 3)
    expected = ProvenNetwork.tail(own, last - 1, own.unpack(payload))
    before = torch.cuda.memory_allocated()
    for _ in range(50):
        assert same(own.tail(last - 1, own.unpack(payload)), expected)
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() - before < 2**20, "unpacked values are freed"


def test_threads_compute_while_graphs_are_recorded_and_dropped() -> None:
    own = built("resnet18", sessionMebibytes=256)
    cuts = [own.proof.last * k // 6 for k in range(1, 6)]
    payloads = {(cut, seed): sent(own, cut, seed) for cut in cuts for seed in range(3)}
    expected = {
        key: ProvenNetwork.tail(own, key[0], own.unpack(one)) for key, one in payloads.items()
    }
    wrong: list[Any] = []
    ended = threading.Event()

    def frames(shift: int) -> None:
        try:
            for i in range(200):
                key = cuts[(i + shift) % len(cuts)], i % 3
                found = own.tail(key[0], own.unpack(payloads[key]))
                own.device.synchronise()
                if not same(found, expected[key]):
                    wrong.append(key)
        except Exception as error:  # noqa: BLE001 - shown below
            wrong.append(error)

    def switches() -> None:
        for i in range(10**6):
            own.make_ready("tail", cuts[i % len(cuts)])
            if ended.is_set():
                return

    threads = [threading.Thread(target=frames, args=(shift,)) for shift in range(3)]
    maker = threading.Thread(target=switches)
    for thread in (*threads, maker):
        thread.start()
    for thread in threads:
        thread.join()
    ended.set()
    maker.join()
    recorded()
    assert wrong == []
    assert all(own.graphs.refused("tail", cut) is None for cut in cuts)


def test_a_lack_of_memory_fails_the_frame_only() -> None:
    own = built("alexnet")
    own.make_ready("tail", 3)
    payload = sent(own, 5, 1)
    expected = ProvenNetwork.tail(own, 5, own.unpack(payload))
    much = [True]

    def allocates(run: Any) -> None:
        if much and threading.current_thread().name != "record":
            much.clear()
            torch.empty(2**50, dtype=torch.uint8, device="cuda")
        run()

    instead_of_last(own, allocates)
    with pytest.raises(FrameFailed, match="is out of memory"):
        own.tail(5, own.unpack(payload))
    recorded()
    assert len(own.graphs) == 0
    for _ in range(3):
        assert same(own.tail(5, own.unpack(payload)), expected)


def test_a_copy_does_not_wait_for_what_another_thread_computes() -> None:
    own = built("alexnet")
    payload = sent(own, 5, 1)
    own.unpack(payload)
    own.device.synchronise()
    x = torch.randn(8192, 8192, device="cuda")
    torch.cuda.synchronize()
    running = torch.cuda.Event()  # type: ignore[no-untyped-call]
    for _ in range(60):
        x = x @ x
    running.record()
    found: list[bool] = []

    def copies() -> None:
        own.unpack(payload)
        own.device.synchronise()
        found.append(running.query())  # type: ignore[no-untyped-call]

    thread = threading.Thread(target=copies)
    thread.start()
    thread.join()
    torch.cuda.synchronize()
    assert found == [False]
