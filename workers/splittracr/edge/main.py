"""The edge worker as a process: one study from its manifest to its records."""

import asyncio
import contextlib
import logging
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from aiohttp import web

from splittracr import process
from splittracr.backends import measuring
from splittracr.backends.protocol import Backend, Runtime
from splittracr.data import datasets
from splittracr.data.contracts import Dataset
from splittracr.edge import accuracy, cascade, exits, handover, model, own_policy, truths
from splittracr.edge.agreement import SAMPLES
from splittracr.edge.cascade import First
from splittracr.edge.describing import based_on, describe
from splittracr.edge.dial import Endpoint
from splittracr.edge.drawing import Drawings
from splittracr.edge.link import Link
from splittracr.edge.live_settings import SettingsInUse
from splittracr.edge.metering import Meter, Snapshots, Spent, measured_power
from splittracr.edge.readiness import Readiness
from splittracr.edge.reporting import Reporter, Surroundings
from splittracr.edge.sending import sending
from splittracr.edge.steering import Steered
from splittracr.edge.study import StudyRunner, class_names, labelled
from splittracr.edge.timing import operation_times
from splittracr.experiment.codec import optional_part
from splittracr.experiment.contracts import METRICS_PATH
from splittracr.experiment.contracts import Runtime as RuntimeName
from splittracr.experiment.errors import CutRefused, InvalidInput, SplittracrError, Stopped
from splittracr.experiment.profile import Profile
from splittracr.experiment.spec import (
    ExperimentSpec,
    Mode,
    PartitionSpec,
    SplitExperiment,
    StaticCut,
    TransportSpec,
)
from splittracr.experiment.types import Cut, Record
from splittracr.measure.health import add_health, add_metrics, serve
from splittracr.measure.instruments import NO_INSTRUMENTS, Instruments, instruments
from splittracr.measure.metrics import EdgeMetrics
from splittracr.planning.adapt import (
    HANDSHAKE_BYTES,
    Adapting,
    Ready,
    adapting,
    always,
    objective,
)
from splittracr.planning.decision import Chooser
from splittracr.planning.emulation import Direction, seed
from splittracr.planning.schedule import Step, chosen, order, total, trials
from splittracr.results import basis
from splittracr.results.basis import Basis, write_basis
from splittracr.results.environment import EndTimes, Environment, continued, write_environment
from splittracr.results.journal import FILE, Journal
from splittracr.results.labels import write_labels
from splittracr.transport.emulate import sender_conditions
from splittracr.wire import registry
from splittracr.wire.messages import Hello

log = logging.getLogger(__name__)

_PROGRESS_SECONDS = 0.1
_PROFILED = 3  # batches
_NEED_SERVER = (Mode.SWEEP, Mode.SERVER_ONLY, Mode.ADAPTIVE)


@dataclass(frozen=True)
class Schedule:
    """The frames of a study and the cuts they use."""

    cuts: dict[int, Cut]
    steps: Iterable[Step]
    total: int

    def without(self, earlier: Sequence[Record], batch: int) -> "Schedule":
        """The schedule without the frames all of whose `batch` samples are among the records."""
        counts = Counter((record.trial, record.sample // batch) for record in earlier)
        complete = {frame for frame, count in counts.items() if count == batch}
        steps = (step for step in self.steps if (step.trial.number, step.frame) not in complete)
        return replace(self, steps=steps, total=self.total - len(complete))


@dataclass(frozen=True)
class _Run:
    """A study that is ready to be measured. `schedule` holds the frames that are not
    recorded yet.
    """

    runner: StudyRunner
    schedule: Schedule
    drawings: Drawings
    environment: Environment
    basis: Basis
    meter: Meter
    times: Callable[[], Awaitable[tuple[EndTimes, ...]]]
    metrics: EdgeMetrics
    reporter: Reporter
    out: Path
    stop: asyncio.Event


async def study(
    experiment: SplitExperiment,
    runtime: Runtime,
    base: Path,
    out: Path,
    endpoint: Endpoint | None,
    stop: asyncio.Event,
    surroundings: Surroundings,
) -> None:
    """Run the whole study and leave records, environment and pictures in `out`.

    `endpoint` may be None only if every cut stays on the edge. Nothing is written before the
    handshake has succeeded. The reporter gets the outcome, and the results go to the store or the
    claim. Raises a SplittracrError if the study ends early or its results cannot be stored.
    """
    for sentence in experiment.spec.deprecations:
        log.warning("%s", sentence)
    adaptive = experiment.spec.partition.mode is Mode.ADAPTIVE
    metrics = EdgeMetrics(experiment.metadata, surroundings.edge, adaptive=adaptive)
    reporter = Reporter(surroundings, experiment.spec)
    runner = await _serve_health(experiment.spec, metrics, reporter)
    ending: Exception | None = None
    try:
        async with sending(reporter, _uid(experiment), stop) as sender:
            try:
                await _study(experiment, runtime, base, out, endpoint, stop, metrics, reporter)
            except Exception as error:  # noqa: BLE001 - it is raised below
                ending = error
            if ending is not None and sender is not None:
                ending = sender.ended or ending
            reporter.ended(ending)
            try:
                await handover.hand_over(out, experiment.spec.results, reporter, stop)
                if sender is not None:
                    await sender.send_last(stopped=stop.is_set())
            except SplittracrError as error:
                log.error("the results stay here: %s", error)
                ending = ending or error
            reporter.ended(ending)
    finally:
        await runner.cleanup()
    if ending is not None:
        raise ending


async def _study(
    experiment: SplitExperiment,
    runtime: Runtime,
    base: Path,
    out: Path,
    endpoint: Endpoint | None,
    stop: asyncio.Event,
    metrics: EdgeMetrics,
    reporter: Reporter,
) -> None:
    spec, edge = experiment.spec, reporter.surroundings.edge
    uid = _uid(experiment)
    codecs = registry.used(spec)
    own_policy.find(spec)  # a bad one is an error now, not after the proof
    dataset = datasets.open_dataset(spec.dataset, base)
    own = await _built(spec, runtime, base, endpoint, stop)
    own = labelled(own, spec, dataset)
    in_use = spec.workload.samples or len(dataset)
    checking = process.in_thread(truths.check_masks, own, dataset, in_use)
    await process.unless(stop, checking)
    metrics.loaded(own.network.name, own.identity.fingerprint, own.identity.weights, own.device)
    named = named_cuts(spec.partition, own)
    async with AsyncExitStack() as stack:
        sensors = stack.enter_context(instruments(spec.results, own.device))
        metrics.machine(sensors.latest, sensors.energy.watts)
        first = await _first(spec, own, dataset, runtime, base, stop)
        profile = await _profile(spec, own, dataset, sensors, base, stop)
        if profile is not None:
            metrics.profiled(profile)
        link: Link | None = None
        if any(cut.index != own.proof.last for cut in named) or spec.partition.mode in _NEED_SERVER:
            hello = Hello(uid=uid, edge=edge, identity=own.identity, codecs=codecs)
            link = await _open(stack, spec, emulated(endpoint, spec, base, edge), hello, stop)
        refused = link.welcome.refused if link and link.welcome else {}
        schedule = make_schedule(spec, own, named, refused, len(dataset))
        earlier = await process.unless(stop, handover.earlier(out, reporter.surroundings, uid))
        samples = schedule.total * spec.workload.batch_size
        reporter.running(samples, earlier)
        if first is not None:
            _watch(first, earlier, metrics, reporter)
        metrics.planned(samples, earlier)
        spent = Spent(sensors.energy.joules, spec.declared_power)
        reporter.use_energy(spent.total)
        metrics.energy(spent.joules)
        settings = reporter.settings
        ready: Ready = always
        if link is not None and spec.partition.mode is Mode.ADAPTIVE:
            ready = readiness = Readiness(own, link)
            stack.push_async_callback(readiness.close)
        check = first.check_cut if first else _any_cut
        chooser = await _chooser(spec, own, link, profile, named, metrics, settings, ready, check)
        runner = StudyRunner(own, spec, dataset, link, metrics, chooser, first)
        stack.callback(runner.close)
        drawings = Drawings(dataset, own.postprocessor, spec.results)
        environment = describe(experiment, uid, own, link, edge, samples, sensors.problems)
        listing = process.in_thread(based_on, own, dataset, spec, link is not None, base, first)
        defined = await process.unless(stop, listing)
        if earlier:
            environment = continued(environment, out)
            defined = basis.continued(defined, out)
        run = _Run(
            runner=runner,
            schedule=schedule.without(earlier, spec.workload.batch_size),
            drawings=drawings,
            environment=environment,
            basis=defined,
            meter=Meter(edge, sensors, link, spent),
            times=partial(operation_times, own, link, edge),
            metrics=metrics,
            reporter=reporter,
            out=out,
            stop=stop,
        )
        await _measure(run)


async def _first(
    spec: ExperimentSpec,
    own: Backend,
    dataset: Dataset,
    runtime: Runtime,
    base: Path,
    stop: asyncio.Event,
) -> First | None:
    """The small model or the exits of mode Cascade; None in other modes."""
    wanted = spec.partition.cascade
    if wanted is None:
        return None
    if wanted.exits is not None:
        return await process.unless(stop, process.in_thread(exits.built, spec, own, base))
    names = class_names(own, spec, dataset)
    making = process.in_thread(cascade.built, spec, own, names, runtime, base)
    return await process.unless(stop, making)


async def _profile(
    spec: ExperimentSpec,
    own: Backend,
    dataset: Dataset,
    sensors: Instruments,
    base: Path,
    stop: asyncio.Event,
) -> Profile | None:
    """The profile of mode Adaptive, with its accuracy if a file names it; None in other modes."""
    if spec.partition.mode is not Mode.ADAPTIVE:
        return None
    measured = process.in_thread(profiled, own, spec, dataset, sensors)
    return accuracy.measured(await process.unless(stop, measured), spec, base)


def _watch(
    first: First, earlier: Sequence[Record], metrics: EdgeMetrics, reporter: Reporter
) -> None:
    """Continue the audits of a cascade, and show and report them."""
    first.audit.resume(record.audit for record in earlier)
    metrics.audits(first.audit, first.kind)
    reporter.use_audit(first.audit)


async def _built(
    spec: ExperimentSpec,
    runtime: Runtime,
    base: Path,
    endpoint: Endpoint | None,
    stop: asyncio.Event,
) -> Backend:
    """The network of this edge, whose files come from the server if they are needed."""
    here = await process.unless(stop, model.received(spec, endpoint))
    own = await process.unless(stop, process.in_thread(runtime.build, here, "edge", base))
    if spec.edge.runtime is RuntimeName.ONNX_RUNTIME:  # sessions that tried the model are gone
        process.release_freed_memory()
    return own


def _uid(experiment: SplitExperiment) -> str:
    return experiment.metadata.uid or experiment.metadata.name


def profiled(
    own: Backend, spec: ExperimentSpec, dataset: Dataset, sensors: Instruments = NO_INSTRUMENTS
) -> Profile:
    """The profile of the network on this edge.

    It has the agreement of lossy codecs if the manifest sets a minimum, and the power of the edge
    if energy counts.
    """
    adaptive = spec.partition.adaptive
    judges = adaptive is not None and accuracy.judges_codecs(adaptive)
    judged = measuring.frames(own, min(SAMPLES, len(dataset)), dataset) if judges else []
    batches = measuring.frames(own, _PROFILED, dataset)
    made = measuring.measured(own, spec, batches, judged)
    if adaptive is None or not objective(adaptive).energy:
        return made
    work = partial(own.head, own.proof.last, batches[0])
    drawn = measured_power(sensors.energy.snapshot, work, time.sleep)
    return made.model_copy(update={"power": drawn})


def named_cuts(partition: PartitionSpec, own: Backend) -> list[Cut]:
    """The cuts that the manifest names.

    Raises InvalidInput for an unknown cut, CutRefused for one that is not exact.
    """
    if partition.static_cut is not None:
        return [own.cut(partition.static_cut)]
    return [own.cut(cut, f"spec.partition.cuts[{i}]") for i, cut in enumerate(partition.cuts)]


def make_schedule(
    spec: ExperimentSpec,
    own: Backend,
    named: Sequence[Cut],
    refused: Mapping[str, str],
    dataset_size: int,
) -> Schedule:
    """The cuts in use, and the frames in order. `refused` are the cuts that the server refuses.

    Raises CutRefused if the manifest names one of them.
    """
    for cut in named:
        if cut.name in refused and cut.index != own.proof.last:
            raise CutRefused(f"the server refuses cut {cut.name}: {refused[cut.name]}")
    offered = [cut for cut in own.proof.offered().values() if cut.name not in refused]
    indices = chosen(spec.partition, offered, [cut.index for cut in named], own.proof.last)
    frames = math.ceil((spec.workload.samples or dataset_size) / spec.workload.batch_size)
    planned = trials(indices, spec.partition.repeats)
    return Schedule(
        cuts={i: own.cut(i) for i in indices},
        steps=order(planned, frames, spec.partition.seed),
        total=total(planned, frames),
    )


def emulated(
    endpoint: Endpoint | None, spec: ExperimentSpec, base: Path, edge: str
) -> Endpoint | None:
    """The endpoint with the manifest's emulated link, if there is one."""
    link = spec.transport.link
    if endpoint is None or link is None:
        return endpoint
    uplink = sender_conditions(link, Direction.UP, base)
    return replace(endpoint, uplink=uplink, seed=seed(link, Direction.UP, edge))


async def _open(
    stack: AsyncExitStack,
    spec: ExperimentSpec,
    endpoint: Endpoint | None,
    hello: Hello,
    stop: asyncio.Event,
) -> Link:
    if endpoint is None:
        raise InvalidInput(
            "--server", None, f"the server's URL, mode {spec.partition.mode} needs it"
        )
    opening = Link.open(endpoint, hello, spec.transport, spec.partition.server_loss)
    return await process.unless(stop, stack.enter_async_context(opening))


def _any_cut(_: Cut) -> None:
    """Take any cut of a study without a cascade."""


def _live_cut(own: Backend, link: Link | None, check: Callable[[Cut], None], cut: StaticCut) -> Cut:
    """A cut that settings name while the study runs. Raises InvalidInput or CutRefused.

    `check` raises InvalidInput for a cut that a cascade cannot have.
    """
    found = own.cut(cut)
    check(found)
    if found.index == own.proof.last:
        return found
    if link is None:
        raise InvalidInput("spec.partition.cut", cut, "output, this study began without a server")
    refused = link.welcome.refused if link.welcome else {}
    if found.name in refused:
        raise CutRefused(f"the server refuses cut {found.name}: {refused[found.name]}")
    return found


def _live_codecs(link: Link | None, transport: TransportSpec) -> None:
    """Raise InvalidInput for a codec, named while the study runs, that one of the ends lacks."""
    named = {"codec": transport.codec, "pictureCodec": transport.picture_codec}
    for key, name in named.items():
        field, part = f"spec.transport.{key}", optional_part(name)
        registry.check(name, field)
        if part is not None and link is not None and link.welcome is not None:
            lacking = registry.mismatch({part: registry.installed()[part]}, link.welcome.codecs)
            if lacking is not None:
                raise InvalidInput(field, name, f"a codec that both ends have ({lacking})")


async def _chooser(
    spec: ExperimentSpec,
    own: Backend,
    link: Link | None,
    profile: Profile | None,
    named: Sequence[Cut],
    metrics: EdgeMetrics,
    settings: SettingsInUse,
    ready: Ready,
    check: Callable[[Cut], None],
) -> Chooser:
    """The chooser of the study: a policy if there is a profile, else the settings."""
    if profile is not None and link is not None:
        return await _adapting(spec, profile, link, [cut.index for cut in named], metrics, ready)
    resolve, usable = partial(_live_cut, own, link, check), partial(_live_codecs, link)
    return Steered(spec, own.network.pictures, settings, resolve, usable)


async def _adapting(
    spec: ExperimentSpec,
    profile: Profile,
    link: Link,
    named: Sequence[int],
    metrics: EdgeMetrics,
    ready: Ready,
) -> Adapting:
    """The chooser of mode Adaptive, after it has measured the link.

    Without a server yet, the edge's profile stands for the server's; its real times are learnt.
    """
    server = link.welcome.profile if link.welcome else None
    chooser = adapting(spec, profile, server or profile, named, own_policy.find(spec), ready)
    metrics.decides(lambda: chooser.beliefs(time.perf_counter()))
    link.observer = chooser
    chooser.connection(alive=link.connected)
    if link.connected:
        for size in HANDSHAKE_BYTES:
            await link.learn(size)
    return chooser


async def _serve_health(
    spec: ExperimentSpec, metrics: EdgeMetrics, reporter: Reporter
) -> web.AppRunner:
    app = web.Application()
    add_health(app)
    add_metrics(app, metrics.exposition)
    reporter.add_routes(app)
    field = "spec.edge.metricsPort"
    runner, url = await serve(app, spec.edge.host, spec.edge.metrics_port, field)
    process.emit("metrics", url=f"{url}{METRICS_PATH}")
    return runner


async def _measure(run: _Run) -> None:
    await process.unless(run.stop, run.runner.warm_up(list(run.schedule.cuts.values())))
    await process.unless(run.stop, run.meter.idle())
    run.out.mkdir(parents=True, exist_ok=True)
    with Journal(run.out / FILE) as journal:
        if len(journal) and not run.reporter.surroundings.resume:  # written since the start
            expected = f"a folder without {FILE}: another run has written its records there"
            raise InvalidInput("--out", str(run.out), expected)
        write_environment(run.out, run.environment)
        write_labels(run.out, run.runner.labels)
        write_basis(run.out, run.basis)
        start = await run.meter.snapshots()
        await _record(run, journal)
    await _meter(run, start)
    times = await run.times()
    finished = run.environment.model_copy(
        update={
            "finished_at": datetime.now(UTC),
            "energy": (*run.environment.energy, *run.meter.windows),
            "usage": run.meter.usage(),
            "operation_times": times,
        }
    )
    write_environment(run.out, finished)
    with contextlib.suppress(Stopped):  # all is measured but the agreement of codecs
        agreed = await process.unless(run.stop, process.in_thread(run.runner.agreement))
        for one in agreed:
            if one.share is not None:
                run.metrics.agreed(one.cut, one.codec, one.share)
        by_codec = {(one.cut, one.codec): one for one in (*finished.agreement, *agreed)}
        agreement = {"agreement": tuple(by_codec.values())}
        write_environment(run.out, finished.model_copy(update=agreement))
    await asyncio.to_thread(run.drawings.write, run.out / "pictures")
    process.emit("finished", records=str(run.out / FILE))
    run.reporter.raise_if_all_failed()


async def _record(run: _Run, journal: Journal) -> None:
    """Run the frames and write their records to the journal."""
    edge, progress = run.reporter.surroundings.edge, _Progress(run.schedule.total)
    resumed = len(journal) > 0
    running = run.runner.run(run.schedule.steps, run.schedule.total, run.stop)
    async with contextlib.aclosing(running) as frames:
        async for done in frames:
            run.drawings.keep(done)
            for record in run.runner.records(done, run.environment.uid, edge):
                if journal.append(record):
                    run.reporter.add(record)
                    run.metrics.recorded(record)
                elif not resumed:
                    raise SplittracrError(
                        f"{run.out / FILE} has sample {record.sample} of trial {record.trial} of "
                        f"{record.edge} already: each is recorded once"
                    )
            run.reporter.decided(done.result.decision, done.result.total_ms)
            run.meter.count(done.result)
            progress.step(done.result.cut.name, bool(done.result.failures))


async def _meter(run: _Run, start: Snapshots) -> None:
    """Close the window of the recorded frames; in a sweep, take a window at each cut."""
    mode = run.environment.manifest.spec.partition.mode
    cuts = list(run.schedule.cuts.values())
    mixed = mode in (Mode.ADAPTIVE, Mode.CASCADE)
    only = cuts[0] if len(cuts) == 1 and not mixed else None
    await run.meter.close(start, only)
    if mode is Mode.SWEEP and only is None:
        with contextlib.suppress(Stopped):  # all is measured but the energy of some cuts
            await process.unless(run.stop, run.meter.measure(cuts, run.runner.repeat))


class _Progress:
    """Emits progress events, a few a second."""

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
