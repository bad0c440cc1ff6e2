"""Runs the frames of a study that is ready, and writes its records, environment and pictures."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from splittracr import process
from splittracr.edge.drawing import Drawings
from splittracr.edge.metering import Meter, Snapshots
from splittracr.edge.reporting import Reporter
from splittracr.edge.study import StudyRunner
from splittracr.experiment.errors import InvalidInput, SplittracrError, Stopped
from splittracr.experiment.spec import Mode
from splittracr.experiment.types import Cut, Record
from splittracr.measure.metrics import EdgeMetrics
from splittracr.planning.schedule import Step
from splittracr.results.basis import Basis, write_basis
from splittracr.results.environment import EndTimes, Environment, write_environment
from splittracr.results.journal import FILE, Journal
from splittracr.results.labels import write_labels

_PROGRESS_SECONDS = 0.1


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
class Run:
    """A study that is ready to be measured. `schedule` has the frames without records."""

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


async def measure(run: Run) -> None:
    """Warm up, run all frames of the schedule, and write the files of the results folder."""
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


async def _record(run: Run, journal: Journal) -> None:
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


async def _meter(run: Run, start: Snapshots) -> None:
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
