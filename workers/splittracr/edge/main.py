"""The edge worker as a process: one study from its manifest to its records."""

import asyncio
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from aiohttp import web

from splittracr import process, replica
from splittracr.data import datasets
from splittracr.edge.link import Link
from splittracr.edge.worker import EdgeWorker
from splittracr.experiment.errors import CutRefused, InvalidInput
from splittracr.experiment.spec import ExperimentSpec, SplitExperiment
from splittracr.experiment.types import Cut
from splittracr.measure.health import add_health
from splittracr.measure.metrics import Metrics
from splittracr.planning.schedule import Step, chosen, order, trials
from splittracr.replica import Replica
from splittracr.results.environment import End, Environment, write_environment
from splittracr.results.journal import FILE, Journal
from splittracr.wire.messages import Hello

_PROGRESS_SECONDS = 0.1


@dataclass(frozen=True)
class Plan:
    """The frames of a study and the cuts they use."""

    cuts: dict[int, Cut]
    steps: list[Step]


async def study(
    experiment: SplitExperiment,
    base: Path,
    out: Path,
    url: str | None,
    token: str | None,
    stop: asyncio.Event,
) -> None:
    """Run the whole study and leave records, environment and pictures in `out`.

    `url` may be None only where every cut stays on the edge. Nothing is written before the
    handshake has succeeded. Raises a SplittracrError for whatever ends the study early.
    """
    spec = experiment.spec
    uid, edge = experiment.metadata.uid or experiment.metadata.name, "edge-0"
    dataset = datasets.open_dataset(spec.dataset, base)
    own = await process.unless(stop, asyncio.to_thread(replica.build, spec, "edge", base))
    plan = make_plan(spec, own, len(dataset))
    metrics = Metrics("edge")
    runner = await _serve_health(spec, metrics)
    try:
        hello = Hello(uid=uid, edge=edge, identity=own.identity)
        link = await process.unless(stop, _connect(spec, own, plan, hello, url, token))
        try:
            worker = EdgeWorker(own, spec, dataset, link, metrics)
            environment = describe(experiment, uid, own, link)
            await _measure(worker, plan, environment, out, uid, edge, stop)
        finally:
            if link is not None:
                await link.close()
    finally:
        await runner.cleanup()


def make_plan(spec: ExperimentSpec, own: Replica, dataset_size: int) -> Plan:
    """Which cuts, which frames, in which order. InvalidInput and CutRefused name a bad cut."""
    if spec.partition.cut is not None:
        named = [own.cut(spec.partition.cut)]
    else:
        named = [own.cut(c, f"spec.partition.cuts.{i}") for i, c in enumerate(spec.partition.cuts)]
    offered = list(own.proof.offered().values())
    indices = chosen(spec.partition, offered, [cut.index for cut in named])
    frames = math.ceil((spec.workload.samples or dataset_size) / spec.workload.batch_size)
    steps = order(trials(indices, spec.partition.repeats), frames, spec.partition.seed)
    return Plan({i: own.cut(i) for i in indices}, steps)


async def _connect(
    spec: ExperimentSpec, own: Replica, plan: Plan, hello: Hello, url: str | None, token: str | None
) -> Link | None:
    """The link, where a cut needs one; the server must offer every cut of the plan."""
    if all(index == own.last for index in plan.cuts):
        return None
    if url is None:
        raise InvalidInput(
            "--server", url, f"the server's URL, mode {spec.partition.mode} needs it"
        )
    link = await Link.connect(url, hello, token, spec.transport)
    for cut in plan.cuts.values():
        reason = link.welcome.refused.get(cut.name)
        if reason is not None and cut.index != own.last:
            await link.close()
            raise CutRefused(f"the server refuses cut {cut.name}: {reason}")
    return link


async def _serve_health(spec: ExperimentSpec, metrics: Metrics) -> web.AppRunner:
    app = web.Application()
    add_health(app, metrics)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", spec.edge.metrics_port)
    try:
        await site.start()
    except OSError as error:
        await runner.cleanup()
        raise InvalidInput(
            "spec.edge.metricsPort", spec.edge.metrics_port, f"a free port ({error.strerror})"
        ) from error
    return runner


async def _measure(
    worker: EdgeWorker,
    plan: Plan,
    environment: Environment,
    out: Path,
    uid: str,
    edge: str,
    stop: asyncio.Event,
) -> None:
    await worker.warm_up(list(plan.cuts.values()))
    out.mkdir(parents=True, exist_ok=True)
    progress = _Progress(len(plan.steps))
    write_environment(out, environment)
    with Journal(out / FILE) as journal:
        async for frame in worker.run(plan.steps, plan.cuts, stop):
            for record in worker.records(frame, uid, edge):
                journal.append(record)
            progress.step(frame.cut.name, bool(frame.errors))
    finished = environment.model_copy(update={"finished_at": datetime.now(UTC)})
    write_environment(out, finished)
    await asyncio.to_thread(_draw, worker, out / "pictures")
    process.emit("finished", records=str(out / FILE))


def describe(experiment: SplitExperiment, uid: str, own: Replica, link: Link | None) -> Environment:
    """What the study runs on and with, as of now."""
    slowdown = experiment.spec.edge.slowdown_percent
    return Environment(
        uid=uid,
        manifest=experiment,
        weights=own.network.weights,
        emulated=f"edge slowed to {slowdown} % of its own time" if slowdown > 100 else None,
        edge=own.end(),
        server=End.model_validate(link.welcome.end) if link is not None else None,
        cuts=own.proof.cuts,
        refused=own.proof.refused,
        started_at=datetime.now(UTC),
    )


class _Progress:
    """Progress events, a few a second."""

    def __init__(self, total: int) -> None:
        self._total, self._done, self._failed, self._next = total, 0, 0, 0.0

    def step(self, cut: str, failed: bool) -> None:
        self._done += 1
        self._failed += failed
        now = asyncio.get_running_loop().time()
        if now >= self._next or self._done == self._total:
            self._next = now + _PROGRESS_SECONDS
            process.emit(
                "progress", done=self._done, total=self._total, failed=self._failed, cut=cut
            )


def _draw(worker: EdgeWorker, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for number, drawable in sorted(worker.drawables.items()):
        name = f"{number:04d}-{Path(drawable.sample.name).stem}.jpg"
        worker.draw(drawable).convert("RGB").save(folder / name, quality=90)
