"""From the manifest to the frames of a study: trials, their order and when each is due."""

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
    """One frame to run: which trial, and which frame of the workload."""

    trial: Trial
    frame: int


def trials(cuts: Sequence[int], repeats: int) -> list[Trial]:
    """Every cut in every repeat, numbered repeat by repeat."""
    pairs = [(cut, repeat) for repeat in range(repeats) for cut in cuts]
    return [Trial(number, cut, repeat) for number, (cut, repeat) in enumerate(pairs)]


def total(planned: Sequence[Trial], frames: int) -> int:
    """How many steps `order` yields."""
    return len(planned) * frames


def order(planned: Sequence[Trial], frames: int, seed: int) -> Iterator[Step]:
    """All frames of all trials; within a repeat in seeded random order over cuts and frames.

    Interleaving spreads a drift of the machine (heat, other load) evenly over the cuts; repeats
    stay in sequence so that each is a measurement of its own. A single cut keeps the frames in
    order, as there is nothing to interleave. No more than one repeat's steps exist at once.
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
    """Seconds from the start at which each frame of an open loop is due, without end."""
    gap = 60 / arrival.frames_per_minute
    if arrival.process == "Regular":
        yield from (i * gap for i in count())
    draw = random.Random(arrival.seed)
    at = 0.0
    while True:
        yield at
        at += draw.expovariate(1 / gap)


MOST_IN_FLIGHT = 256
"""Frames under way at once that nothing may exceed; an open loop has no other bound."""


def lanes(stages: Mapping[str, float], transfer_ms: float) -> dict[str, float]:
    """Milliseconds that a frame occupies each thing that works on one frame at a time.

    `transfer_ms` is how long the frame's bytes occupy the link.
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
    """Frames under way that keep the slowest lane busy all the time.

    A frame takes `latency_ms` when it waits for no other: while the slowest lane works on one, the
    rest of the latency is that of frames before and after it.
    """
    slowest = max(busy.values())
    if slowest <= 0:
        return 1
    return min(1 + math.ceil(latency_ms / slowest), MOST_IN_FLIGHT)


def spread(cuts: Sequence[Cut], count: int) -> list[int]:
    """Up to `count` cut indices spread evenly over the head's share of work.

    The first and the last of `cuts` are always among them: full offload and edge only, where
    these were not refused. Of the cuts that fall into the same stretch of work the one that sends
    least is taken, the later one where they send the same (after a ReLU a codec does better).
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
    """The cuts that a study runs, by index.

    `offered` are the cuts that were not refused, `named` the indices of those that the manifest
    names, and `last` is the number of the network's operations, the index of edge only: refused
    or not, no other cut stands in for it. Raises CutRefused where a sweep has none to choose from.
    """
    match partition.mode:
        case Mode.EDGE_ONLY | Mode.ADAPTIVE:  # where the latter begins; it decides as it goes
            return [last]
        case Mode.SERVER_ONLY:
            return [0]
        case Mode.SWEEP if not named and not offered:
            raise CutRefused("every cut of the network was refused, a sweep has none to run")
        case Mode.SWEEP if not named:
            return spread(offered, partition.max_cuts)
        case _:
            return list(dict.fromkeys(named))
