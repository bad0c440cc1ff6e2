"""An edge and a server with a small network, in one process, over real websockets."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import torch
from aiohttp import web
from torch import Tensor, nn

from splittracr.backends.torch.build import assemble
from splittracr.backends.torch.proven import ProvenNetwork
from splittracr.data.contracts import Sample
from splittracr.edge.dial import Endpoint
from splittracr.edge.link import Link
from splittracr.edge.recording import Finished
from splittracr.edge.study import StudyRunner
from splittracr.experiment.spec import ExperimentSpec, Source
from splittracr.measure.metrics import EdgeMetrics
from splittracr.models.network import Network, Task
from splittracr.planning.decision import Scheduled
from splittracr.planning.schedule import order, trials
from splittracr.server.worker import Server
from splittracr.splitting.tape import Op
from splittracr.wire.messages import SESSION_PATH, Hello


class Small(nn.Module):
    """Three convolutions and a classifier for pictures of 3x8x8."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(8, 4, 3), nn.ReLU()
        )
        self.fc = nn.Linear(4 * 36, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x / 255).flatten(1))  # type: ignore[no-any-return]


class Tensors:
    """A data set of seeded uint8 tensors; every index in `broken` cannot be read, and every one
    in `odd` has another shape."""

    classes: Sequence[str] | None = None

    def __init__(self, size: int = 8, broken: Sequence[int] = (), odd: Sequence[int] = ()) -> None:
        self._size, self._broken, self._odd = size, broken, odd

    def __len__(self) -> int:
        return self._size

    def name(self, index: int) -> str:
        return f"tensor-{index}"

    def load(self, index: int) -> Sample:
        if index in self._broken:
            raise ValueError(f"tensor-{index} is broken")
        generator = torch.Generator().manual_seed(index)
        width = 9 if index in self._odd else 8
        data = torch.randint(0, 256, (3, 8, width), dtype=torch.uint8, generator=generator)
        return Sample(self.name(index), data=data, label=index % 10)


class Counted(Tensors):
    """Counts how often each sample is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.loads = [0] * len(self)

    def load(self, index: int) -> Sample:
        self.loads[index] += 1
        return super().load(index)


def spec(**parts: object) -> ExperimentSpec:
    """A spec for the small network; keyword arguments replace whole sections."""
    sections: dict[str, object] = {
        "model": {"name": "small"},
        "partition": {"mode": "Sweep"},
        "transport": {"connectTimeoutSeconds": 10},
        **parts,
    }
    return ExperimentSpec.model_validate(sections, by_alias=True)


def proven(of: ExperimentSpec, seed: int = 0) -> ProvenNetwork:
    """The small network, proven."""
    network = Network(
        name="small",
        source=Source.CUSTOM,
        task=Task.CLASSIFY,
        module=Small(seed).eval(),
        prepare=lambda picture: torch.zeros(3, 8, 8, dtype=torch.uint8),
        shape=(3, 8, 8),
        postprocessor="classification",
        weights=f"none (random, seed {seed})",
    )
    return assemble(network, of, torch.device("cpu"))


def count_operations(of: ProvenNetwork, ran: list[str]) -> None:
    """Append the name of every operation that this network runs from now on to `ran`."""

    def counted(op: Op) -> Op:
        def run(registers: list[object]) -> None:
            ran.append(op.name)
            op.run(registers)

        return Op(op.name, op.target, op.source, run)

    of.tape.ops = tuple(counted(op) for op in of.tape.ops)


def instead_of_last(of: ProvenNetwork, run: Callable[[Callable[[], None]], None]) -> None:
    """From now on this network calls `run` instead of its last operation, with that operation."""
    *before, last = of.tape.ops

    def wrapped(registers: list[object]) -> None:
        run(lambda: last.run(registers))

    of.tape.ops = (*before, Op(last.name, last.target, last.source, wrapped))


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[tuple[str, web.AppRunner]]:
    """The server on a free port of loopback."""
    runner = web.AppRunner(server.app())
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        yield f"ws://127.0.0.1:{port}{SESSION_PATH}", runner
    finally:
        await runner.cleanup()


@dataclass
class Result:
    """What a run left."""

    worker: StudyRunner
    frames: list[Finished]


async def run_frames(
    url: str | None,
    edge: ProvenNetwork,
    of: ExperimentSpec,
    cuts: Sequence[int],
    frames: int,
    dataset: Tensors | None = None,
    token: str | None = None,
    on_frame: Callable[[Finished], None] = lambda _: None,
    name: str = "edge-0",
) -> Result:
    """Run `frames` frames at each cut and return them in order of completion."""
    async with AsyncExitStack() as stack:
        link = None
        if url is not None:
            link = await stack.enter_async_context(opened(url, edge, of, token, name))
        worker = edge_worker(edge, of, dataset or Tensors(), link)
        stack.callback(worker.close)
        planned, done = trials(cuts, 1), []
        steps, total = order(planned, frames, 0), len(planned) * frames
        async for frame in worker.run(steps, total, asyncio.Event()):
            done.append(frame)
            on_frame(frame)
    return Result(worker, done)


def opened(
    url: str,
    edge: ProvenNetwork,
    of: ExperimentSpec,
    token: str | None = None,
    name: str = "edge-0",
) -> AbstractAsyncContextManager[Link]:
    """A link of this edge."""
    hello = Hello(uid="u", edge=name, identity=edge.identity)
    return Link.open(Endpoint(url, token), hello, of.transport, of.partition.server_loss)


def edge_worker(
    edge: ProvenNetwork, of: ExperimentSpec, dataset: Tensors, link: Link | None
) -> StudyRunner:
    """A worker that follows its schedule."""
    chooser = Scheduled(of, edge.network.pictures)
    return StudyRunner(edge, of, dataset, link, EdgeMetrics(), chooser)


def within(work: Coroutine[Any, Any, None], seconds: float = 60) -> None:
    """Run `work` to its end, which has to come in time."""

    async def limited() -> None:
        await asyncio.wait_for(work, seconds)

    asyncio.run(limited())
