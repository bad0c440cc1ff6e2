"""One entry to the pipeline: samples and a decision in, a result out.

It needs no study: no data set, no schedule, no records.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TypeVar

from splittracr.backends.protocol import Backend
from splittracr.data.contracts import Sample
from splittracr.edge import stages
from splittracr.edge.frame import (
    AtExit,
    Batch,
    Begun,
    Encoded,
    Failed,
    Frame,
    Given,
    HeadDone,
    Loaded,
    LoadSample,
    Packed,
    Truth,
)
from splittracr.edge.lanes import Lanes
from splittracr.edge.race import Attempt, RequestLink, ServerTail
from splittracr.edge.result import Result, conclude
from splittracr.edge.stages import Counters, Pipeline, then
from splittracr.experiment.errors import InvalidInput, SplittracrError
from splittracr.experiment.spec import OnServerLoss
from splittracr.measure.stopwatch import Stopwatch
from splittracr.planning.decision import Decision

T = TypeVar("T")

ExitStage = Callable[[Pipeline, Frame, Loaded], AtExit]
"""Runs the head of a loaded sample up to an exit."""

NO_STAGES: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True)
class Options:
    """How frames are run.

    `pipelined` overlaps frames; without it there is one in flight at a time. `slowdown` multiplies
    the edge's computing time. `raw` has the server reply with the raw output.
    """

    pipelined: bool = True
    slowdown: float = 1.0
    raw: bool = False
    server_loss: OnServerLoss = OnServerLoss.WAIT


def unlabelled(sample: Sample) -> Truth:
    """Nothing is known of the sample."""
    del sample
    return Truth()


class Inferencer:
    """Runs frames on the edge and over the link. `link` is None if nothing leaves the edge.

    `truth` returns what is known of a sample; it may raise. `lanes` are the threads if several
    models of this process share them.
    """

    def __init__(
        self,
        backend: Backend,
        link: RequestLink | None,
        counters: Counters,
        options: Options,
        truth: Callable[[Sample], Truth] = unlabelled,
        lanes: Lanes | None = None,
    ) -> None:
        self._backend = backend
        self._options = options
        self._pipeline = Pipeline(backend, counters, options.raw, truth)
        self._lanes = lanes or Lanes(pipelined=options.pipelined)
        self._server: ServerTail | None = None
        if link is not None:
            self._server = ServerTail(self._pipeline, self._lanes, link, options.server_loss)

    async def infer(
        self,
        samples: Sequence[Sample | LoadSample] | Begun,
        decision: Decision,
        due: float | None = None,
        *,
        timed: bool = False,
        before: Mapping[str, float] = NO_STAGES,
    ) -> Result:
        """Run one frame by `decision`. There are as many samples as the model's batch has.

        A sample may be a function that loads it in the reading thread. Latency counts from `due`,
        on the scale of `time.perf_counter`; None is now. If a sample fails, the result's `failures`
        has the reason at its position. If `timed`, the head's operations are timed one by one.
        `before` are stages since `due`, in milliseconds, that are part of the latency. `Begun`
        samples have run up to a cut: those of `up_to_exit`.

        Raises InvalidInput for another number of samples. Raises SplittracrError if the cut needs a
        server and there is no link. Raises ServerLost if the server is lost and the edge must not
        finish the frame. Raises HandshakeRefused if another server took its place.
        """
        given = samples if isinstance(samples, Begun) else self._given(samples)
        frame = self._frame(decision, due, timed)
        for stage, elapsed in before.items():
            frame.watch.add(stage, elapsed)
        local = decision.cut == self._backend.proof.last
        attempt = await (self._local(frame, given) if local else self._split(frame, given))
        return conclude(attempt, given.batch.size, local=local)

    async def up_to_exit(
        self, load: LoadSample, decision: Decision, due: float | None, stage: ExitStage
    ) -> tuple[Result, AtExit | Failed]:
        """Run a sample up to an exit: load it, then run `stage`. This is the model of exits.

        The result has no prediction if no exit was sure.
        """
        frame, given = self._frame(decision, due, timed=False), self._given([load])
        run = partial(stage, self._pipeline, frame)
        end = await self._loaded(frame, given, lambda loaded: then(loaded, run))
        attempt = Attempt(frame, end if isinstance(end, Failed) else end.answered)
        return conclude(attempt, 1, local=True), end

    def close(self) -> None:
        """Release the threads."""
        self._lanes.close()

    def _given(self, samples: Sequence[Sample | LoadSample]) -> Given:
        size = self._backend.identity.batch
        if len(samples) != size:
            expected = f"{size}, the model's batch size"
            raise InvalidInput("number of samples", len(samples), expected)
        return Given(Batch(size), samples)

    def _frame(self, decision: Decision, due: float | None, timed: bool) -> Frame:
        now = time.perf_counter()
        start = now if due is None else due
        return Frame(
            cut=self._backend.proof.cuts[decision.cut],
            decision=decision,
            due=start,
            started_at=time.time() - (now - start),
            watch=Stopwatch(self._backend.device, self._options.slowdown),
            timed=timed,
        )

    async def _local(self, frame: Frame, given: Given | Begun) -> Attempt:
        """Run the whole model on the edge."""
        output = partial(stages.output, self._pipeline, frame)
        end = await self._started(
            frame, given, lambda loaded: then(self._head(frame, loaded), output)
        )
        return Attempt(frame, end)

    async def _split(self, frame: Frame, given: Given | Begun) -> Attempt:
        """Run the head on the edge and have the server run the tail."""
        if self._server is None:
            raise SplittracrError(f"cut {frame.cut.name} needs a server and this edge has no link")
        hedged = frame.decision.hedge_ms is not None  # the hedge does not wait for the encoder
        value = await (self._packed(frame, given) if hedged else self._encoded(frame, given))
        if isinstance(value, Failed):
            return Attempt(frame, value)
        return await self._server.finish(frame, value)

    async def _packed(self, frame: Frame, given: Given | Begun) -> Packed | Failed:
        """Run the head and keep the live tensors as they are."""
        pack = partial(stages.packed, self._pipeline, frame)
        return await self._started(
            frame, given, lambda loaded: then(self._head(frame, loaded), pack)
        )

    async def _encoded(self, frame: Frame, given: Given | Begun) -> Encoded | Failed:
        """Run the head and encode the live tensors, in the codec thread if frames overlap."""
        pack = partial(stages.packed, self._pipeline, frame)
        encode = partial(stages.encoded, self._pipeline, frame)

        def code(done: HeadDone | Failed) -> Encoded | Failed:
            return then(then(done, pack), encode)

        if not self._lanes.pipelined:
            return await self._started(frame, given, lambda loaded: code(self._head(frame, loaded)))
        done = await self._started(frame, given, partial(self._head, frame))
        return await self._lanes.run(self._lanes.code, frame.watch, lambda: code(done))

    async def _started(
        self, frame: Frame, given: Given | Begun, work: Callable[[Loaded | Begun | Failed], T]
    ) -> T:
        """Load the samples unless their head has begun, then run `work` in the model's thread."""
        if isinstance(given, Begun):
            return await self._lanes.run(self._lanes.model, frame.watch, lambda: work(given))
        return await self._loaded(frame, given, work)

    async def _loaded(self, frame: Frame, given: Given, work: Callable[[Loaded | Failed], T]) -> T:
        """Load the samples, then run `work` in the model's thread, which may be the same."""
        load = partial(stages.load, self._pipeline, frame)
        lanes = self._lanes
        if not lanes.pipelined:
            return await lanes.run(lanes.model, frame.watch, lambda: work(then(given, load)))
        loaded = await lanes.run(lanes.read, frame.watch, lambda: then(given, load))
        return await lanes.run(lanes.model, frame.watch, lambda: work(loaded))

    def _head(self, frame: Frame, value: Loaded | Begun | Failed) -> HeadDone | Failed:
        if isinstance(value, Begun):
            return then(value, partial(stages.onward, self._pipeline, frame))
        return then(value, partial(stages.head, self._pipeline, frame))
