"""The edge worker as a process: one study from its manifest to its records."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from aiohttp import web

from splittracr import process
from splittracr.backends import measuring
from splittracr.backends.protocol import Backend, Builder
from splittracr.backends.session_memory import check_session_memory
from splittracr.data import datasets
from splittracr.data.contracts import Dataset
from splittracr.edge import accuracy, cascade, exits, handover, model, own_policy, truths
from splittracr.edge.agreement import SAMPLES
from splittracr.edge.cascade import First
from splittracr.edge.describing import based_on, describe
from splittracr.edge.dial import Endpoint
from splittracr.edge.drawing import Drawings
from splittracr.edge.learner import learnt_exits, small_model
from splittracr.edge.link import Link
from splittracr.edge.metering import Meter, Spent, measured_power
from splittracr.edge.readiness import Readiness
from splittracr.edge.reporting import Reporter, Surroundings
from splittracr.edge.run import Run, Schedule, measure
from splittracr.edge.sending import sending
from splittracr.edge.steering import Steered
from splittracr.edge.study import StudyRunner, class_names, labelled
from splittracr.edge.timing import operation_times
from splittracr.experiment.codec import optional_part
from splittracr.experiment.contracts import METRICS_PATH
from splittracr.experiment.contracts import Runtime as RuntimeName
from splittracr.experiment.errors import CutRefused, InvalidInput, SplittracrError
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
from splittracr.planning.learner import Learner
from splittracr.planning.schedule import chosen, order, total, trials
from splittracr.results import basis
from splittracr.results.basis import Basis
from splittracr.results.environment import Environment, continued
from splittracr.transport.emulate import sender_conditions
from splittracr.wire import registry
from splittracr.wire.messages import Hello

log = logging.getLogger(__name__)

_PROFILED = 3  # batches
_NEED_SERVER = (Mode.SWEEP, Mode.SERVER_ONLY, Mode.ADAPTIVE)


@dataclass(frozen=True)
class _Job:
    """A study, its inputs and its outputs. Relative paths start at the folder `base`."""

    experiment: SplitExperiment
    runtime: Builder
    base: Path
    out: Path
    endpoint: Endpoint | None
    stop: asyncio.Event
    metrics: EdgeMetrics
    reporter: Reporter

    @property
    def spec(self) -> ExperimentSpec:
        """The study itself."""
        return self.experiment.spec

    @property
    def uid(self) -> str:
        """The uid of the study, or its name if it has none."""
        return self.experiment.metadata.uid or self.experiment.metadata.name

    @property
    def edge(self) -> str:
        """The name of this edge."""
        return self.reporter.surroundings.edge


async def study(
    experiment: SplitExperiment,
    runtime: Builder,
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
    job = _Job(experiment, runtime, base, out, endpoint, stop, metrics, reporter)
    runner = await _serve_health(experiment.spec, metrics, reporter)
    ending: Exception | None = None
    try:
        async with sending(reporter, job.uid, stop) as sender:
            try:
                await _study(job)
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


async def _study(job: _Job) -> None:
    spec, stop, metrics, reporter = job.spec, job.stop, job.metrics, job.reporter
    codecs = registry.used(spec)
    own_policy.find(spec)  # a bad one is an error now, not after the proof
    dataset = datasets.open_dataset(spec.dataset, job.base)
    own = labelled(await _built(job), spec, dataset)
    in_use = spec.workload.samples or len(dataset)
    checking = process.in_thread(truths.check_masks, own, dataset, in_use)
    await process.unless(stop, checking)
    metrics.loaded(own.network.name, own.identity.fingerprint, own.identity.weights, own.device)
    named = named_cuts(spec.partition, own)
    async with AsyncExitStack() as stack:
        sensors = stack.enter_context(instruments(spec.results, own.device))
        metrics.machine(sensors.latest, sensors.energy.watts)
        first = await _first(job, own, dataset)
        profile = await _profile(job, own, dataset, sensors)
        if profile is not None:
            metrics.profiled(profile)
        link: Link | None = None
        if any(cut.index != own.proof.last for cut in named) or spec.partition.mode in _NEED_SERVER:
            hello = Hello(uid=job.uid, edge=job.edge, identity=own.identity, codecs=codecs)
            link = await _open(stack, job, hello)
        refused = link.welcome.refused if link and link.welcome else {}
        schedule = make_schedule(spec, own, named, refused, len(dataset))
        cuts = list(schedule.cuts)
        checking = process.in_thread(check_session_memory, own, spec, "edge", cuts)
        await process.unless(stop, checking)
        before = handover.earlier(job.out, reporter.surroundings, job.uid)
        earlier = await process.unless(stop, before)
        samples = schedule.total * spec.workload.batch_size
        reporter.running(samples, earlier)
        if first is not None:
            _watch(first, earlier, metrics, reporter)
        metrics.planned(samples, earlier)
        spent = Spent(sensors.energy.joules, spec.declared_power)
        reporter.use_energy(spent.total)
        metrics.energy(spent.joules)
        ready = _ready(stack, spec, own, link)
        check = first.check_cut if first else _any_cut
        learner = await _learner(job, first, dataset, profile, earlier)
        chooser = await _chooser(job, own, link, profile, named, ready, check, learner)
        runner = StudyRunner(own, spec, dataset, link, metrics, chooser, first)
        stack.callback(runner.close)
        environment, defined = await _described(
            job, own, dataset, link, first, samples, sensors.problems, continues=bool(earlier)
        )
        await measure(
            Run(
                runner=runner,
                schedule=schedule.without(earlier, spec.workload.batch_size),
                drawings=Drawings(dataset, own.postprocessor, spec.results),
                environment=environment,
                basis=defined,
                meter=Meter(job.edge, sensors, link, spent),
                times=partial(operation_times, own, link, job.edge),
                metrics=metrics,
                reporter=reporter,
                out=job.out,
                stop=stop,
            )
        )


def _ready(stack: AsyncExitStack, spec: ExperimentSpec, own: Backend, link: Link | None) -> Ready:
    """The readiness of decisions: in mode Adaptive both ends make cuts ready beside frames."""
    if link is None or spec.partition.mode is not Mode.ADAPTIVE:
        return always
    readiness = Readiness(own, link)
    stack.push_async_callback(readiness.close)
    return readiness


async def _described(
    job: _Job,
    own: Backend,
    dataset: Dataset,
    link: Link | None,
    first: First | None,
    samples: int,
    problems: tuple[str, ...],
    *,
    continues: bool,
) -> tuple[Environment, Basis]:
    """The environment and the basis of the study.

    If it `continues` the one in the results folder, they have to belong to it: raises InvalidInput.
    """
    environment = describe(job.experiment, job.uid, own, link, job.edge, samples, problems)
    served = link is not None
    listing = process.in_thread(based_on, own, dataset, job.spec, served, job.base, first)
    defined = await process.unless(job.stop, listing)
    if continues:
        environment = continued(environment, job.out)
        defined = basis.continued(defined, job.out)
    return environment, defined


async def _first(job: _Job, own: Backend, dataset: Dataset) -> First | None:
    """The small model or the exits of a cascade; None without one."""
    spec, base = job.spec, job.base
    wanted = spec.partition.cascade
    if wanted is None:
        return None
    if wanted.exits is not None:
        return await process.unless(job.stop, process.in_thread(exits.built, spec, own, base))
    names = class_names(own, spec, dataset)
    making = process.in_thread(cascade.built, spec, own, names, job.runtime, base)
    return await process.unless(job.stop, making)


async def _learner(
    job: _Job,
    first: First | None,
    dataset: Dataset,
    profile: Profile | None,
    earlier: Sequence[Record],
) -> Learner | None:
    """The small model or the exits that mode Adaptive decides on.

    None without a cascade, and in other modes, which have no profile.
    """
    learning: Callable[[], Learner]
    if profile is None:
        return None
    if isinstance(first, cascade.Small):
        learning = partial(small_model, first, job.spec, dataset, earlier)
    elif isinstance(first, exits.AtExits):
        learning = partial(learnt_exits, first, job.spec, dataset, profile, earlier)
    else:
        return None
    return await process.unless(job.stop, process.in_thread(learning))


async def _profile(
    job: _Job, own: Backend, dataset: Dataset, sensors: Instruments
) -> Profile | None:
    """The profile of mode Adaptive, with its accuracy if a file names it; None in other modes."""
    if job.spec.partition.mode is not Mode.ADAPTIVE:
        return None
    measured = process.in_thread(profiled, own, job.spec, dataset, sensors)
    return accuracy.measured(await process.unless(job.stop, measured), job.spec, job.base)


def _watch(
    first: First, earlier: Sequence[Record], metrics: EdgeMetrics, reporter: Reporter
) -> None:
    """Continue threshold and audits of a cascade, and show and report them."""
    first.calibrated.resume(earlier)
    metrics.cascade(first.calibrated, first.kind)
    reporter.use_cascade(first.calibrated)


async def _built(job: _Job) -> Backend:
    """The network of this edge, whose files come from the server if they are needed."""
    here = await process.unless(job.stop, model.received(job.spec, job.endpoint))
    building = process.in_thread(job.runtime.build, here, "edge", job.base)
    own = await process.unless(job.stop, building)
    if job.spec.edge.runtime is RuntimeName.ONNX_RUNTIME:  # sessions that tried the model are gone
        process.release_freed_memory()
    return own


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

    Raises InvalidInput for an unknown cut, CutRefused for a refused one.
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


async def _open(stack: AsyncExitStack, job: _Job, hello: Hello) -> Link:
    spec, endpoint = job.spec, emulated(job.endpoint, job.spec, job.base, job.edge)
    if endpoint is None:
        raise InvalidInput(
            "--server", None, f"the server's URL, mode {spec.partition.mode} needs it"
        )
    opening = Link.open(endpoint, hello, spec.transport, spec.partition.server_loss)
    return await process.unless(job.stop, stack.enter_async_context(opening))


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
    job: _Job,
    own: Backend,
    link: Link | None,
    profile: Profile | None,
    named: Sequence[Cut],
    ready: Ready,
    check: Callable[[Cut], None],
    learner: Learner | None,
) -> Chooser:
    """The chooser of the study: a policy if there is a profile, else the settings."""
    spec = job.spec
    if profile is not None and link is not None:
        indices = [cut.index for cut in named]
        return await _adapting(spec, profile, link, indices, job.metrics, ready, learner)
    resolve, usable = partial(_live_cut, own, link, check), partial(_live_codecs, link)
    return Steered(spec, own.network.pictures, job.reporter.settings, resolve, usable)


async def _adapting(
    spec: ExperimentSpec,
    profile: Profile,
    link: Link,
    named: Sequence[int],
    metrics: EdgeMetrics,
    ready: Ready,
    learner: Learner | None,
) -> Adapting:
    """The chooser of mode Adaptive, after it has measured the link.

    Without a server yet, the edge's profile stands for the server's; its real times are learnt.
    """
    server = link.welcome.profile if link.welcome else None
    own = own_policy.find(spec)
    chooser = adapting(spec, profile, server or profile, named, own, ready, learner)
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
