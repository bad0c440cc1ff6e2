"""Frames between an edge in this process and servers: overhead, overlap, batches, pings."""

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from bench.engine import build
from bench.figure import Figure, figure
from bench.processes import serving
from splittracr import security
from splittracr.backends.torch.examples import example_batch
from splittracr.backends.torch.proven import ProvenNetwork
from splittracr.data.contracts import Sample
from splittracr.edge.dial import Endpoint
from splittracr.edge.link import Link
from splittracr.edge.result import Result
from splittracr.edge.study import StudyRunner
from splittracr.experiment.codec import Codec
from splittracr.experiment.spec import ExperimentSpec
from splittracr.measure.metrics import EdgeMetrics
from splittracr.planning.decision import Scheduled
from splittracr.planning.emulation import Direction, conditions
from splittracr.planning.schedule import order, trials
from splittracr.splitting.batching import joined
from splittracr.splitting.live import pack
from splittracr.wire import codec
from splittracr.wire.codec import EncodedPayload
from splittracr.wire.messages import Hello

ALEXNET_CUTS = (1, 3, 6, 13)
_OVERHEAD_ROUNDS, _OVERHEAD_FRAMES = 6, 8
_PLAIN_MS, _TLS_MS = 1.5, 3.0
_EDGES = (1, 4)
_BATCHING = {"alexnet": 1.6, "resnet18": 1.45}
_BATCH, _BATCH_ROUNDS, _BATCH_SECONDS = 8, 8, 1.5
_MAX_PING_MS = 20.0
_CROWD, _CROWD_SECONDS = 64, 6.0
_LINK = {
    "uplinkKilobitsPerSecond": 80_000,
    "downlinkKilobitsPerSecond": 80_000,
    "roundTripMilliseconds": 10,
}
_LINK_CUT = 3


class Ready:
    """A data set of prepared inputs."""

    classes: Sequence[str] | None = None

    def __init__(self, own: ProvenNetwork) -> None:
        self._inputs = [example_batch(own.network, 1, seed)[0] for seed in range(4)]

    def __len__(self) -> int:
        return len(self._inputs)

    def name(self, index: int) -> str:
        return str(index)

    def load(self, index: int) -> Sample:
        return Sample(str(index), data=self._inputs[index])


async def frames() -> list[Figure]:
    """Measure all figures of frames."""
    with TemporaryDirectory() as folder:
        return [
            *await _overhead(Path(folder) / "overhead"),
            *await _overlap(Path(folder) / "overlap"),
            *await _batching(Path(folder) / "batching"),
            await _crowd(Path(folder) / "crowd"),
        ]


# ------------------------------------------------------------------------------------ overhead


async def _overhead(folder: Path) -> list[Figure]:
    """Measure the overhead of a frame: its time without preparing its input, head and tail."""
    own = build("alexnet")
    taken: dict[tuple[str, int], list[float]] = {}
    async with AsyncExitStack() as stack:
        runs = {}
        for kind in ("plain", "tls"):
            spec = study("alexnet", security="TLS" if kind == "tls" else "Plain")
            link = await stack.enter_async_context(_linked(folder / kind, spec, own))
            runs[kind] = _Edge(own, spec, link)
        for number in range(_OVERHEAD_ROUNDS + 1):
            for cut in ALEXNET_CUTS:
                for kind, edge in runs.items():
                    done = await edge.run(cut, _OVERHEAD_FRAMES)
                    if number:  # the first round warms up
                        over = median(left_over(frame) for frame in done)
                        taken.setdefault((kind, cut), []).append(over)
    figures = []
    for (kind, cut), rounds in taken.items():
        goal = _PLAIN_MS if kind == "plain" else _TLS_MS
        sent = own.proof.cuts[cut].bytes / 1000
        title = f"overhead of a frame, AlexNet cut {cut} ({sent:.0f} kB), {kind}, best round"
        figures.append(figure(title, rounds, "ms", max_value=goal, value=min(rounds)))
    return figures


def left_over(frame: Result) -> float:
    """Return the overhead in ms: all stages except those of the data set and the link."""
    apart = ("load", "prepare", "head", "tail", "reduce")
    return frame.total_ms - sum(frame.stages.get(stage, 0.0) for stage in apart)


# ------------------------------------------------------------------------------------- overlap


async def _overlap(folder: Path) -> list[Figure]:
    """Measure single frames and a pipeline over an emulated link, against the computed times."""
    own = build("alexnet")
    alone = study("alexnet", link=_LINK)
    many = alone.model_copy(
        update={"workload": alone.workload.model_copy(update={"arrival": _closed(0)})}
    )
    async with _linked(folder, alone, own) as link:
        one = await _Edge(own, alone, link).run(_LINK_CUT, 20)
        edge = _Edge(own, many, link)
        await edge.run(_LINK_CUT, 20)  # measures its stages
        rates = [_rate_over_link(await edge.run(_LINK_CUT, 30)) for _ in range(5)]
    beyond = [left_over(frame) - _on_link(frame) - 10 for frame in one[2:]]
    return [
        figure(
            "beside computing and bytes/rate + RTT, 80 Mbit/s, RTT 10 ms",
            beyond,
            "ms",
            max_value=4,
        ),
        figure("pipelining: frames a second x slowest stage", rates, "share", min_value=0.95),
    ]


def _closed(in_flight: int) -> Any:
    sections = {"workload": {"arrival": {"mode": "Closed", "inFlight": in_flight}}}
    return study("alexnet", **sections).workload.arrival


def _on_link(frame: Result) -> float:
    """Return the milliseconds of the frame's bytes on the link, both ways."""
    return (frame.bytes_up + frame.bytes_down) * 8 / _LINK["uplinkKilobitsPerSecond"]


def _rate_over_link(done: Sequence[Result]) -> float:
    """Return the frame rate of the full pipeline, over that of its slowest stage."""
    ends = sorted(frame.due + frame.total_ms / 1e3 for frame in done)
    settled = ends[len(ends) // 3 :]
    per_frame = (settled[-1] - settled[0]) / (len(settled) - 1)
    slowest = median(frame.bytes_up * 8 / _LINK["uplinkKilobitsPerSecond"] for frame in done)
    stages = [median(frame.stages[name] for frame in done) for name in ("head", "tail")]
    return max(slowest, *stages) / 1e3 / per_frame


# ------------------------------------------------------------------------------------ batching


async def _batching(folder: Path) -> list[Figure]:
    """Measure frame rates of one and of four edges, with and without batches, and pings.

    The gain of batches depends on the processor and the network. For comparison the tail of a full
    batch is measured against that of one frame, without edges.
    """
    figures: list[Figure] = []
    pings: list[float] = []
    for name, goal in _BATCHING.items():
        own = build(name)
        cut = _small(own)
        live = own.head(cut, example_batch(own.network, 1))
        request = codec.encode(pack(live), Codec())
        ratios: dict[int, list[float]] = {edges: [] for edges in _EDGES}
        gains = []
        async with AsyncExitStack() as stack:
            links = {}
            for size in (1, _BATCH):
                spec = study(name, server={"maxBatch": size})
                links[size] = await stack.enter_async_context(
                    _many(folder / f"{name}-{size}", spec, own, max(_EDGES))
                )
            for number in range(_BATCH_ROUNDS + 1):
                gains.append(_gain(own, cut, live))
                for edges in _EDGES:
                    alone = await _saturate(links[1][:edges], cut, request)
                    batched = await _saturate(links[_BATCH][:edges], cut, request)
                    if number:
                        ratios[edges].append(batched.rate / alone.rate)
                        pings += batched.pings
        where = f"{name} at {own.proof.cuts[cut].name}"
        figures.append(figure(f"batching, {where}: tail alone, {_BATCH} / 1", gains[1:], "times"))
        for edges, rounds in ratios.items():
            lowest = goal if edges > 1 else 0.95
            title = f"batching, {where}, {edges} edge{'s' if edges > 1 else ''}: with / without"
            figures.append(figure(title, rounds, "times", min_value=lowest))
    worst = float(np.percentile(pings, 99))
    title = f"ping during inference, p99 of {len(pings)}"
    return [*figures, figure(title, pings, "ms", max_value=_MAX_PING_MS, value=worst)]


def _gain(own: ProvenNetwork, cut: int, live: Sequence[Any]) -> float:
    """Return the frame rate of a tail over `_BATCH` joined frames, over that of single frames."""
    rates = []
    for count in (1, _BATCH):
        taken = []
        for _ in range(3):
            joint = joined([list(live)] * count) if count > 1 else list(live)
            assert joint is not None
            started = time.perf_counter()
            own.tail(cut, joint)
            taken.append(time.perf_counter() - started)
        rates.append(count / median(taken))
    return rates[1] / rates[0]


def _small(own: ProvenNetwork) -> int:
    """Return the cut with the smallest live tensors that leaves work for the server."""
    offered = [cut for cut in own.proof.offered().values() if cut.work < 0.95]
    return min(offered, key=lambda cut: (cut.bytes, cut.index)).index


def _early(own: ProvenNetwork) -> int:
    """Return a cut that leaves at least half of the work for the server."""
    offered = [cut for cut in own.proof.offered().values() if 0.1 < cut.work < 0.5]
    return min(offered, key=lambda cut: (cut.bytes, cut.index)).index


@dataclass(frozen=True)
class _Saturated:
    """Frames a second, the server's tails in seconds and pings in ms."""

    rate: float
    tails: Sequence[float]
    pings: Sequence[float]


async def _saturate(
    links: Sequence[Link], cut: int, request: EncodedPayload, seconds: float = _BATCH_SECONDS
) -> _Saturated:
    """Keep two requests of every edge in flight."""
    started = time.perf_counter()
    ends = started + seconds
    tails: list[float] = []
    pings: list[float] = []

    async def ask(link: Link) -> None:
        while time.perf_counter() < ends:
            answer = await link.request(cut, 0, request)
            tails.append(answer.reply.stages["tail"] / 1e3)

    async def ping(link: Link) -> None:
        while time.perf_counter() < ends:
            pings.append(await link.probe(codec.encode(pack([]), Codec())) * 1e3)
            await asyncio.sleep(0.01)

    await asyncio.gather(*(ask(link) for link in links for _ in range(2)), ping(links[0]))
    return _Saturated(len(tails) / (time.perf_counter() - started), tails, pings)


async def _crowd(folder: Path) -> Figure:
    """Measure the frame rate of many edges, over that of a server that only runs tails."""
    own = build("resnet18")
    cut = _early(own)
    request = codec.encode(pack(own.head(cut, example_batch(own.network, 1))), Codec())
    async with _many(folder, study("resnet18"), own, _CROWD) as links:
        rounds = [await _saturate(links, cut, request, _CROWD_SECONDS) for _ in range(4)]
    shares = [one.rate * median(one.tails) for one in rounds[1:]]
    title = f"{_CROWD} edges: frames a second x tail, resnet18"
    return figure(title, shares, "share", min_value=0.9)


@asynccontextmanager
async def _many(
    folder: Path, spec: ExperimentSpec, own: ProvenNetwork, edges: int
) -> AsyncIterator[list[Link]]:
    """Yield links of several edges to one server."""
    async with server_process(folder, spec) as endpoint, AsyncExitStack() as stack:
        opening = (open_link(endpoint, spec, own, f"edge-{i}") for i in range(edges))
        yield [await stack.enter_async_context(link) for link in opening]


# ------------------------------------------------------------------------------------ both ends


class _Edge:
    """An edge in this process."""

    def __init__(self, own: ProvenNetwork, spec: ExperimentSpec, link: Link) -> None:
        chooser = Scheduled(spec, own.network.pictures)
        self._worker = StudyRunner(own, spec, Ready(own), link, EdgeMetrics(), chooser)

    async def run(self, cut: int, count: int) -> list[Result]:
        """Run `count` frames at `cut`, none of which may fail."""
        steps = order(trials([cut], 1), count, 0)
        finished = [one async for one in self._worker.run(steps, count, asyncio.Event())]
        for one in finished:
            assert not one.result.failures, one.result.failures
        return [one.result for one in finished]


def study(name: str, **sections: Any) -> ExperimentSpec:
    """Make a study of random weights; `sections` also takes fields of `transport`."""
    transport = {key: sections.pop(key) for key in ("security", "link", "codec") if key in sections}
    return ExperimentSpec.model_validate_json(
        json.dumps(
            {
                "model": {"name": name, "weights": "none"},
                "partition": {"mode": "Sweep"},
                "transport": {"security": "Plain", **transport},
                **sections,
            }
        ),
        by_alias=True,
    )


@asynccontextmanager
async def _linked(folder: Path, spec: ExperimentSpec, own: ProvenNetwork) -> AsyncIterator[Link]:
    async with (
        server_process(folder, spec) as endpoint,
        open_link(endpoint, spec, own, "edge-0") as link,
    ):
        yield link


def open_link(
    endpoint: Endpoint, spec: ExperimentSpec, own: ProvenNetwork, name: str
) -> contextlib.AbstractAsyncContextManager[Link]:
    """Open a link of this edge to the server at `endpoint`."""
    hello = Hello(uid="bench", edge=name, identity=own.identity)
    return Link.open(endpoint, hello, spec.transport, spec.partition.server_loss)


@asynccontextmanager
async def server_process(folder: Path, spec: ExperimentSpec) -> AsyncIterator[Endpoint]:
    """Run a server process for `spec`."""
    folder.mkdir(parents=True)
    _, edge_files, token = security.throw_away(folder / "credentials", ["127.0.0.1"])
    file = folder / "bench.yaml"
    body = spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    file.write_text(
        json.dumps(
            {
                "apiVersion": "splittracr.io/v1alpha1",
                "kind": "SplitExperiment",
                "metadata": {"name": "bench"},
                "spec": body,
            }
        )
    )
    secure = spec.transport.security == "TLS"
    options = ["--tls", str(folder / "credentials")] if secure else []
    environment = {**os.environ, "SPLITTRACR_TOKEN": token}
    command = ["-m", "splittracr", "server", str(file), "--with-parent", *options]
    async with serving(*command, environment=environment) as event:
        link = spec.transport.link
        yield Endpoint(
            event["url"],
            token,
            security.client_context(edge_files, datetime.now(UTC)) if secure else None,
            conditions(link, Direction.UP) if link else None,
        )


torch.set_grad_enabled(False)
