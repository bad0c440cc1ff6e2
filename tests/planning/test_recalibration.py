"""A cascade that recalibrates: its states, what a restart repeats, and how often it errs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from splittracr.planning.binomial import distribution
from splittracr.planning.calibration import CONFIDENCE, min_pictures
from splittracr.planning.recalibration import RARELY, Calibrated, Change, confidence

PROMISED = 0.05
OLD, PICTURES = 100_000, 100
STREAMS = 2000
Answers = tuple[tuple[int, bool], ...]


@dataclass(frozen=True)
class Frame:
    """What a frame shows."""

    audit: str | None = None
    judged: Answers | None = None
    threshold: int | None = OLD


AGREES, DISAGREES = Frame("agrees"), Frame("disagrees")
GOOD, BAD = Frame(judged=((900_000, True),)), Frame(judged=((200_000, False),))
FAILED = Frame(judged=())


def calibrated(pictures: int | None = PICTURES) -> Calibrated:
    return Calibrated(OLD, PROMISED, pictures)


def drifted(pictures: int = PICTURES) -> Calibrated:
    """A cascade whose audits have refuted its promise."""
    made = calibrated(pictures)
    made.resume([DISAGREES] * 3)
    assert made.audit.judging
    return made


def state(one: Calibrated) -> tuple[object, ...]:
    """All that decides what follows, as far as it shows."""
    audit = one.audit
    return (
        (one.threshold, audit.audited, audit.disagreeing, audit.judging),
        (one.judged, one.pictures, one.proven, one.unproven),
    )


# --------------------------------------------------------------------------------------- states


@pytest.mark.parametrize(
    ("frames", "threshold", "judged", "pictures"),
    [
        ([AGREES, Frame("failed"), Frame()], OLD, 0, None),
        ([GOOD] * 200, OLD, 0, None),  # judged before the drift: not used
        ([DISAGREES] * 3, OLD, 0, PICTURES),
        ([DISAGREES] * 3 + [AGREES] * 500, OLD, 0, PICTURES),  # late audits end no drift
        ([GOOD] * 50 + [DISAGREES] * 3 + [GOOD] * 99, OLD, 99, PICTURES),
        ([DISAGREES] * 3 + [GOOD, FAILED, Frame()] * 99, OLD, 99, PICTURES),
        ([DISAGREES] * 3 + [GOOD] * 100, 900_000, 0, None),
        ([DISAGREES] * 3 + [BAD] * 100, OLD, 0, 120),  # 110 / 92 as many
    ],
)
def test_frames_lead_from_state_to_state(
    frames: Sequence[Frame], threshold: int, judged: int, pictures: int | None
) -> None:
    made = calibrated()
    made.resume(frames)
    assert (made.threshold, made.judged, made.pictures) == (threshold, judged, pictures)


def test_a_new_threshold_has_new_audits() -> None:
    made = drifted()
    changes = [made.observe(GOOD) for _ in range(PICTURES)]
    assert changes[:-1] == [None] * (PICTURES - 1)
    assert changes[-1] == Change(OLD, PICTURES, 900_000)
    assert str(changes[-1]) == "recalibrated on 100 pictures: threshold 0.1 -> 0.9"
    assert (made.audit.audited, made.audit.drifted, made.proven) == (0, False, 1)
    made.observe(DISAGREES)  # of a frame that began before the drift
    assert made.audit.audited == 0
    ours = Frame("disagrees", threshold=900_000)
    assert [made.observe(ours) for _ in range(3)] == [None, None, Change(900_000)]
    assert made.pictures == PICTURES  # a first attempt again
    assert str(Change(900_000)) == "audits refute the promise of threshold 0.9"


def test_after_a_failure_fewer_frames_are_judged_until_more_pictures_prove_a_threshold() -> None:
    made = drifted()
    for _ in range(PICTURES - 1):
        made.observe(BAD)
    change = made.observe(BAD)
    assert change == Change(OLD, PICTURES)
    assert str(change) == "100 judged pictures prove no threshold"
    assert (made.unproven, made.judged, made.audit.judging) == (1, 0, True)
    wanted = made.pictures
    assert wanted is not None
    begun = [frame for frame in range(wanted * RARELY * 2) if made.judges(0, frame, 7)]
    assert len(begun) == wanted
    assert 0.5 < begun[-1] / (wanted * RARELY) < 1.5
    assert begun != list(range(begun[0], begun[0] + RARELY * wanted, RARELY))  # drawn
    for _ in range(wanted):
        made.observe(GOOD)
    assert (made.threshold, made.pictures) == (900_000, None)


def test_exits_are_judged_together() -> None:
    made = drifted()
    # The first exit errs while it is unsure, the second one does not.
    sure: Answers = ((900_000, True), (950_000, True))
    unsure: Answers = ((300_000, False), (600_000, True))
    for number in range(PICTURES):
        made.observe(Frame(judged=sure if number % 2 else unsure))
    assert made.threshold == 600_000


def test_without_the_key_the_threshold_stays_and_later_audits_end_a_drift() -> None:
    made = calibrated(None)
    assert [made.observe(one) for one in [DISAGREES] * 5 + [GOOD] * 300] == [None] * 305
    assert (made.audit.drifted, made.audit.judging, made.pictures) == (True, False, None)
    assert not made.judges(0, 0, 0)
    made.resume([Frame("agrees", threshold=None)] * 200)  # records of earlier versions have none
    assert not made.audit.drifted


# ----------------------------------------------------------------------------------- invariants

FRAMES = st.lists(
    st.one_of(
        st.sampled_from([AGREES, DISAGREES, FAILED, Frame(), Frame("failed")]),
        st.builds(
            lambda sureness, agrees: Frame(judged=((sureness, agrees),)),
            st.sampled_from([0, 150_000, 900_000]),
            st.sampled_from([True] * 9 + [False]),
        ),
        st.builds(partial(Frame, "disagrees"), threshold=st.sampled_from([150_000, 900_000])),
    ),
    max_size=30,
)


def seen(made: Calibrated, number: int, frame: Frame) -> Frame:
    """What a frame shows as it runs: it is judged only if it is chosen."""
    if not made.judges(0, number, seed=7):
        return replace(frame, judged=None)
    return FAILED if frame.judged is None else frame


@given(blocks=st.lists(st.tuples(FRAMES, st.integers(1, 40)), max_size=6), kill=st.integers(0))
def test_a_restart_changes_nothing(blocks: list[tuple[list[Frame], int]], kill: int) -> None:
    frames = list(enumerate(frame for block, times in blocks for frame in block * times))
    kill %= len(frames) + 1
    whole, again, records = calibrated(), calibrated(), list[Frame]()
    for number, frame in frames[:kill]:
        records.append(seen(whole, number, frame))
        whole.observe(records[-1])
    again.resume(records)
    assert state(again) == state(whole)
    for number, frame in frames[kill:]:
        shown, earlier = seen(whole, number, frame), whole.threshold
        assert seen(again, number, frame) == shown
        change = whole.observe(shown)
        assert again.observe(shown) == change
        assert state(again) == state(whole)
        assert (whole.threshold != earlier) <= (change is not None)
        assert (whole.pictures is None) is not whole.audit.judging
        assert whole.judged < (whole.pictures or 1)


@given(waits=st.lists(st.integers(0, 12), min_size=400, max_size=400), window=st.integers(1, 8))
def test_the_frames_that_began_first_are_judged_however_late_they_end(
    waits: list[int], window: int
) -> None:
    """Slow frames may differ from quick ones, so none may be left out."""
    made, flying, begun = drifted(), dict[int, int](), list[int]()
    for number, wait in enumerate(waits):
        if made.audit.judging and made.judges(0, number, 0):
            begun.append(number)
            flying[number] = number + wait
        for done in sorted(flying, key=lambda one: flying[one]):
            if flying[done] <= number or len(flying) >= window:
                del flying[done]
                made.observe(FAILED if done % 10 == 0 else GOOD)
        if not made.audit.judging:
            break
    assert made.proven == 1
    assert not flying  # none was still on its way
    assert begun[:PICTURES] == list(range(PICTURES))
    assert sum(number % 10 != 0 for number in begun) == PICTURES


# ---------------------------------------------------------------------------------- the promise


@pytest.mark.parametrize("share", [1e-4, 1e-3, 0.01, 0.05, 0.17, 0.2, 0.5, 0.7, 0.9, 0.999])
def test_the_least_number_of_pictures_can_prove_the_promise(share: float) -> None:
    pictures = int(np.ceil(5 / share))
    assert pictures >= min_pictures(share, confidence(1))
    made = Calibrated(OLD, share, pictures)
    made.resume([DISAGREES] * 200)
    if made.audit.judging:  # no 200 audits refute the largest share
        assert made.pictures == pictures
        made.resume([GOOD] * pictures)
        assert made.threshold == 900_000


def test_all_attempts_together_have_the_confidence_of_a_calibration() -> None:
    doubts = [1 - confidence(attempt) for attempt in range(1, 1000)]
    assert sum(doubts) <= 1 - CONFIDENCE + 1e-6
    assert doubts[0] == pytest.approx(0.025)
    assert min(doubts) > 0


World = Callable[[np.ndarray], np.ndarray]
"""The probability of a disagreement by sureness, from 0 to 1, all equally likely."""


def just_above(surest: np.ndarray) -> np.ndarray:
    return np.full_like(surest, PROMISED * 1.001)


def wrong_when_sure(surest: np.ndarray) -> np.ndarray:
    return np.where(surest > 0.9, 0.15, 0.01)


def less_sure(surest: np.ndarray) -> np.ndarray:
    return 0.5 * (1 - surest) ** 2


def true_share(world: World, threshold: int) -> float:
    grid = np.linspace(0, 1, 10_001)
    return float(world(grid[grid >= threshold / 1e6]).mean())


def recalibrated(world: World, seed: int, attempts: int, pictures: int = PICTURES) -> Calibrated:
    """A stream of pictures that has turned into `world`, until a threshold is proven."""
    random, made = np.random.default_rng(seed), drifted(pictures)
    while made.pictures is not None and made.unproven < attempts:
        surest = random.random(made.pictures)
        agrees = random.random(made.pictures) >= world(surest)
        for s, a in zip(surest.tolist(), agrees.tolist(), strict=True):
            made.observe(Frame(judged=((int(1e6 * s), a),)))
    return made


def tolerated() -> int:
    """Violations that a promise of 95 % stays below, except in one of a million tests."""
    return next(most for most in range(STREAMS) if distribution(most, STREAMS, 0.05) > 1 - 1e-6)


@pytest.mark.parametrize("world", [just_above, wrong_when_sure])
def test_new_thresholds_break_the_promise_at_most_as_often_as_promised(world: World) -> None:
    found = [recalibrated(world, seed, attempts=3) for seed in range(STREAMS)]
    broken = sum(one.proven > 0 and true_share(world, one.threshold) > PROMISED for one in found)
    assert broken <= tolerated()
    if world is just_above:  # every threshold breaks it: the bound is used, not far from it
        assert broken >= STREAMS * 0.005


def test_a_small_model_that_has_become_less_sure_answers_again() -> None:
    found = [recalibrated(less_sure, seed, attempts=4, pictures=1000) for seed in range(20)]
    assert all(one.proven == 1 for one in found)
    assert sum(one.unproven == 0 for one in found) >= 10
