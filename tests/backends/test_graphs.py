"""The cache of graphs: what it keeps, refuses and drops, with recordings on the processor."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch

from splittracr.backends.protocol import Part
from splittracr.backends.torch.buffers import Layout, copied, layout
from splittracr.backends.torch.graphs import Capturer, Function, Graphs
from splittracr.splitting.compare import same
from tests.backends.recording import ROOM, OneBitOff, OnProcessor, recorded

KIB = 256  # elements of four bytes


@pytest.fixture(autouse=True)
def end() -> Iterator[None]:
    """Let no recording go on into the next test."""
    yield
    recorded()


class Scaling:
    """A network whose tail at a cut multiplies by it and writes into its input."""

    def __init__(self, function: Callable[[int, Any], Any] | None = None) -> None:
        self._function = function or (lambda cut, x: x.mul_(cut).add(1))

    def function(self, part: Part, cut: int) -> Function:
        del part
        return lambda values: self._function(cut, values[0])

    def examples(self, part: Part, cut: int, like: Layout | None) -> Sequence[list[Any]]:
        del part, cut
        count = like.tensors[0].shape[0] if like else 1
        return [[torch.arange(count * KIB).float().reshape(count, KIB) + seed] for seed in (1, 2)]


def graphs(capturer: Capturer, limit: int = ROOM, count: int = 9, source: Any = None) -> Graphs:
    return Graphs(source or Scaling(), capturer, limit, count)


def value(seed: int, count: int = 1) -> Any:
    return torch.rand(count, KIB, generator=torch.Generator().manual_seed(seed))


def run(of: Graphs, cut: int, x: Any, source: Any = None) -> Any:
    """What the graphs give for a tail, compared with what is right."""
    function = (source or Scaling()).function("tail", cut)
    right = function([x.clone()])
    found = of.run("tail", cut, [x], function)
    assert same(found, right)
    assert layout(found) == layout(right)
    return found


def test_a_graph_that_is_ready_is_replayed() -> None:
    capturer = OnProcessor()
    one = graphs(capturer)
    assert not one.ready("tail", 3)
    one.make_ready("tail", 3)
    assert one.ready("tail", 3)
    assert not one.ready("head", 3)
    checks = capturer.replays
    results = [run(one, 3, value(seed)) for seed in range(4)]
    assert capturer.replays == checks + 4
    assert len(capturer.made) == 1
    assert same(results[0], value(0) * 3 + 1)  # a later replay has not written into it


def test_what_a_frame_lacks_is_recorded_beside_it_and_never_waited_for() -> None:
    gate, reached = threading.Event(), threading.Event()

    def wait() -> None:
        reached.set()
        assert gate.wait(60)

    capturer = OnProcessor(before=wait)
    one = graphs(capturer)
    run(one, 3, value(0))
    assert reached.wait(60)
    for seed in range(3):
        run(one, 3, value(seed))
        run(one, 4, value(seed))  # one is recorded at a time
    assert capturer.made == []
    gate.set()
    recorded()
    assert len(capturer.made) == 1
    run(one, 3, value(1))
    assert capturer.replays == 3  # two seeded inputs and a real one
    run(one, 4, value(1))
    recorded()
    assert len(capturer.made) == len(one) == 2


def test_another_shape_has_another_graph() -> None:
    capturer = OnProcessor()
    one = graphs(capturer)
    one.make_ready("tail", 2)
    for count in (3, 1, 3, 2, 3):
        run(one, 2, value(count, count))
        recorded()
    assert len(one) == 3
    replays = capturer.replays
    for count in (1, 2, 3):
        run(one, 2, value(7, count))
    assert capturer.replays == replays + 3
    assert one.nbytes == 2 * 4 * KIB * (1 + 2 + 3)


def test_values_of_another_layout_than_any_example_are_computed_eagerly() -> None:
    capturer = OnProcessor()
    one = graphs(capturer)
    for _ in range(2):
        run(one, 2, value(0, 2)[:, ::2])
        recorded()
    one.run("tail", 2, [value(0), object()], lambda values: values[0])
    recorded()
    assert capturer.made == []
    assert one.refused("tail", 2) is None


def test_the_longest_unused_makes_room_for_one_that_is_asked_for() -> None:
    capturer = OnProcessor()
    one = graphs(capturer, limit=2 * 8 * KIB)
    for cut in (1, 2):
        one.make_ready("tail", cut)
    run(one, 1, value(0))
    one.make_ready("tail", 3)
    assert [one.ready("tail", cut) for cut in (1, 2, 3)] == [True, False, True]
    assert capturer.waits == 1  # for the one that was dropped
    run(one, 2, value(0))
    assert one.nbytes == one.limit


@pytest.mark.parametrize(("limit", "count"), [(2 * 8 * KIB, 9), (ROOM, 2)])
def test_a_frame_takes_no_room_of_others(
    limit: int, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    one = graphs(OnProcessor(), limit, count)
    for cut in (1, 2, 3, 4, 3, 4):
        run(one, cut, value(0))
        recorded()
    # `make_ready` was not called for them.
    assert [one.ready("tail", cut) for cut in (1, 2)] == [False, False]
    assert len(one) == 2
    (warned,) = caplog.messages
    assert "these are computed eagerly" in warned


def test_a_graph_larger_than_the_bound_is_refused_once(caplog: pytest.LogCaptureFixture) -> None:
    one = graphs(OnProcessor(), limit=8 * KIB - 1)
    for _ in range(2):
        one.make_ready("tail", 1)
        run(one, 1, value(0))
        recorded()
    assert one.ready("tail", 1)
    assert len(one) == 0
    assert one.refused("tail", 1) == (
        "its graph takes 0.0 MiB, and graphs may take 0.0 (sessionMebibytes)"
    )
    assert len(caplog.messages) == 1


def test_a_bit_that_differs_refuses_the_cut(caplog: pytest.LogCaptureFixture) -> None:
    one = graphs(OneBitOff())
    one.make_ready("tail", 1)
    for seed in range(2):
        run(one, 1, value(seed))
        recorded()
    assert len(one) == 0
    assert one.ready("tail", 1)
    assert caplog.messages == [
        "the tail at cut 1 has no graph and is computed eagerly: its graph computes other bits"
    ]


def test_a_bit_that_differs_on_real_values_only_is_found_before_it_is_used() -> None:
    one = graphs(OneBitOff(since=3))
    one.make_ready("tail", 1)
    assert len(one) == 1
    for seed in range(3):
        run(one, 1, value(seed))
    assert len(one) == 0
    assert one.refused("tail", 1) == "its graph computed other bits of real values"


def test_a_recording_that_fails_refuses_the_cut_only() -> None:
    errors = iter([RuntimeError("operation not permitted when stream is capturing")])

    def fail() -> None:
        for error in errors:
            raise error

    one = graphs(OnProcessor(before=fail))
    for cut in (1, 2):
        one.make_ready("tail", cut)
        run(one, cut, value(0))
    assert one.refused("tail", 1) == (
        "RuntimeError: operation not permitted when stream is capturing"
    )
    assert one.refused("tail", 2) is None
    assert len(one) == 1


def test_what_cannot_be_recorded_is_refused_before_it_is(caplog: pytest.LogCaptureFixture) -> None:
    source = Scaling(lambda cut, x: x[x > cut])
    capturer = OnProcessor()
    one = graphs(capturer, source=source)
    with torch.inference_mode():
        one.make_ready("tail", 1)
        run(one, 1, value(0), source)
    assert capturer.made == []
    (why,) = caplog.messages
    assert "aten.index.Tensor depends on the contents of a mask" in why


def test_a_lack_of_memory_drops_the_graphs_and_halves_their_bound(
    caplog: pytest.LogCaptureFixture,
) -> None:
    one = graphs(OnProcessor())
    for cut in (1, 2, 3, 4):
        one.make_ready("tail", cut)
    one.drop_all()
    assert (len(one), one.nbytes, one.limit) == (0, 0, 2 * 8 * KIB)
    assert caplog.messages == [
        "the device is out of memory: 4 graphs of 0 MiB are dropped, and new ones take at most "
        "0 MiB"
    ]
    for cut in (1, 2, 3, 4):
        run(one, cut, value(0))
        recorded()
    assert len(one) == 2


def test_a_recording_that_lacks_memory_drops_the_others() -> None:
    errors: list[Exception] = []

    def fail() -> None:
        for error in errors:
            raise error

    one = graphs(OnProcessor(before=fail))
    one.make_ready("tail", 1)
    one.make_ready("tail", 3)
    errors.append(torch.OutOfMemoryError("CUDA out of memory"))
    one.make_ready("tail", 2)
    assert len(one) == 0
    assert one.refused("tail", 2) == "OutOfMemoryError: CUDA out of memory"
    errors.clear()
    one.make_ready("tail", 1)
    assert len(one) == 1
    run(one, 1, value(0))
    run(one, 2, value(0))


def test_threads_replay_while_graphs_are_made_and_dropped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL)
    capturer = OnProcessor()
    one = graphs(capturer, count=2)
    wrong: list[str] = []
    ended = threading.Event()

    def frames(seed: int) -> None:
        for i in range(60):
            cut, x = 1 + (seed + i) % 4, value(100 * seed + i, 1 + i % 2)
            found = one.run("tail", cut, copied([x]), Scaling().function("tail", cut))
            if not same(found, x * cut + 1):
                wrong.append(f"thread {seed}, frame {i}, cut {cut}")

    def switches() -> None:
        for i in range(10**6):
            one.make_ready("tail", 1 + i % 4)
            if ended.is_set() and i > 8:
                return

    threads = [threading.Thread(target=frames, args=(seed,)) for seed in range(4)]
    maker = threading.Thread(target=switches)
    for thread in (*threads, maker):
        thread.start()
    for thread in threads:
        thread.join()
    ended.set()
    maker.join()
    recorded()
    assert wrong == []
    assert capturer.waits > 0
    assert len(one) <= 2
