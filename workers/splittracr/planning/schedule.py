"""The frames of a study: trials, their order, and the time at which each frame is due."""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from splittracr.experiment.errors import CutRefused
from splittracr.experiment.spec import Mode, OpenLoop, PartitionSpec
from splittracr.experiment.types import Cut


@dataclass(frozen=True)
class Trial:
    """One cut in one repeat; `number` is its place in the study."""

    number: int
    cut: int
    repeat: int


@dataclass(frozen=True)
class Step:
    """One frame to run: the trial, and the number of the frame in the workload."""

    trial: Trial
    frame: int


def trials(cuts: Sequence[int], repeats: int) -> list[Trial]:
    """Return every cut in every repeat, numbered repeat by repeat."""
    pairs = [(cut, repeat) for repeat in range(repeats) for cut in cuts]
    return [Trial(number, cut, repeat) for number, (cut, repeat) in enumerate(pairs)]


def total(planned: Sequence[Trial], frames: int) -> int:
    """Return the number of steps that `order` yields."""
    return len(planned) * frames


def order(planned: Sequence[Trial], frames: int, seed: int) -> Iterator[Step]:
    """Yield all frames of all trials, in seeded random order within a repeat.

    Interleaving spreads a drift of the machine (heat, other load) evenly over the cuts. Repeats
    stay in sequence, so that each is a separate measurement. With a single cut the frames stay in
    order. At most one repeat's steps are in memory.
    """
    draw = random.Random(seed)
    repeats: dict[int, list[Trial]] = {}
    for trial in planned:
        repeats.setdefault(trial.repeat, []).append(trial)
    several = len({trial.cut for trial in planned}) > 1
    for _, group in sorted(repeats.items()):
        block = [Step(trial, frame) for frame in range(frames) for trial in group]
        if several:
            draw.shuffle(block)
        yield from block


def due_times(arrival: OpenLoop) -> Iterator[float]:
    """Yield, without end, the seconds from the start at which each frame of an open loop is due."""
    gap = 60 / arrival.frames_per_minute
    if arrival.process == "Regular":
        yield from (i * gap for i in count())
    draw = random.Random(arrival.seed)
    at = 0.0
    while True:
        yield at
        at += draw.expovariate(1 / gap)


MAX_IN_FLIGHT = 256
"""The maximum of frames in flight. It is the only bound of an open loop."""


def lanes(stages: Mapping[str, float], transfer_ms: float) -> dict[str, float]:
    """Return the milliseconds that a frame occupies each lane, which takes one frame at a time.

    `transfer_ms` is the time that the frame's bytes occupy the link.
    """
    parts = {
        "read": ("load", "prepare"),
        "head": ("head",),
        "code": ("encode", "finish"),
        "decode": ("decode",),
        "tail": ("tail", "reduce", "reply"),
    }
    busy = {lane: sum(stages.get(s, 0.0) for s in names) for lane, names in parts.items()}
    return busy | {"link": transfer_ms}


def window(busy: Mapping[str, float], latency_ms: float) -> int:
    """Return the number of frames in flight that keeps the slowest lane busy all the time.

    `latency_ms` is the latency of a frame that waits for no other.
    """
    slowest = max(busy.values())
    if slowest <= 0:
        return 1
    return min(1 + math.ceil(latency_ms / slowest), MAX_IN_FLIGHT)


def spread(cuts: Sequence[Cut], count: int) -> list[int]:
    """Return up to `count` cut indices, spread evenly over the head's share of work.

    The first and the last of `cuts` are always among them. Of the cuts within the same stretch of
    work the one with the fewest bytes is taken. If these are equal it is the later one, because
    codecs compress better after a ReLU.
    """
    if len(cuts) < 2:
        return [cut.index for cut in cuts]
    first, *inner, last = sorted(cuts, key=lambda cut: cut.index)
    best: dict[int, Cut] = {}
    for cut in inner:
        stretch = min(int(cut.work * (count - 2)), count - 3)
        if stretch >= 0 and (stretch not in best or cut.bytes <= best[stretch].bytes):
            best[stretch] = cut
    return [first.index, *sorted(cut.index for cut in best.values()), last.index]


def chosen(
    partition: PartitionSpec, offered: Sequence[Cut], named: Sequence[int], last: int
) -> list[int]:
    """Return the indices of the cuts that a study runs.

    `offered` are the cuts that were not refused, `named` the indices that the manifest names.
    `last` is the index of the edge alone, which is used even if it was refused. Raises CutRefused
    if a sweep has no cut to choose from.
    """
    match partition.mode:
        case Mode.EDGE_ONLY | Mode.ADAPTIVE:  # Adaptive begins there and decides by frame
            return [last]
        case Mode.SERVER_ONLY:
            return [0]
        case Mode.SWEEP if not named and not offered:
            raise CutRefused("every cut of the model was refused, a sweep has none to run")
        case Mode.SWEEP if not named:
            return spread(offered, partition.max_cuts)
        case _:
            return list(dict.fromkeys(named))
