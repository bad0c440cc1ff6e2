import numpy as np
import pytest

from splittracr.planning.audit import CONFIDENCE, WINDOW, Audit, is_audited
from splittracr.planning.binomial import distribution

PROMISED = 0.05


def audit(answers: str) -> Audit:
    """The audits of answers that agree (`.`) or disagree (`x`)."""
    made = Audit(PROMISED)
    for answer in answers:
        made.add(agrees=answer == ".")
    return made


def drifts_after(before: float, later: float, seed: int, audits: int) -> int | None:
    """The audits that are needed to see that the share of disagreements rose from one share to
    another after 300 audits; 0 for an alarm before that, None without one.
    """
    random, made = np.random.default_rng(seed), Audit(PROMISED)
    for i in range(300 + audits):
        made.add(agrees=bool(random.random() >= (before if i < 300 else later)))
        if made.drifted:
            return max(0, i - 299)
    return None


@pytest.mark.parametrize(
    ("answers", "drifted"),
    # 0.05 ** 2 is above one in a thousand, 0.05 ** 3 is not.
    [("", False), ("." * 200, False), ("x", False), ("xx", False), ("xxx", True)],
)
def test_a_drift_is_a_refuted_promise(answers: str, drifted: bool) -> None:
    assert audit(answers).drifted is drifted


def test_the_bound_is_above_the_promise_exactly_if_it_is_refuted() -> None:
    least = next(k for k in range(WINDOW) if distribution(k - 1, WINDOW, PROMISED) >= CONFIDENCE)
    for count in (least - 1, least):
        made = audit("x" * count + "." * (WINDOW - count))
        assert (made.audited, made.disagreeing) == (WINDOW, count)
        assert made.drifted is (made.bound > PROMISED) is (count == least)
    unpromised = Audit(None)
    for _ in range(50):
        unpromised.add(agrees=False)
    assert not unpromised.drifted
    assert audit("x").bound == pytest.approx(0.001)  # of one trial: the least share with that


def test_only_the_newest_audits_count() -> None:
    made = audit("x" * 30 + "." * (WINDOW - 30))
    assert made.drifted
    for _ in range(30):
        made.add(agrees=True)
    assert (made.audited, made.disagreeing, made.drifted) == (WINDOW, 0, False)
    assert made.bound == 0


def test_a_kept_promise_is_rarely_called_broken_and_a_broken_one_is_seen_as_documented() -> None:
    kept = [drifts_after(PROMISED, PROMISED, seed, 700) for seed in range(40)]
    assert sum(one is not None for one in kept) <= 6  # documented: at most one in twenty
    for later, documented in ((0.5, 60), (0.3, 110)):
        seen = [drifts_after(PROMISED / 2, later, seed, 200) for seed in range(40)]
        late = [one for one in seen if one is None or one > documented]
        assert len(late) <= 3


@pytest.mark.parametrize("percent", [0, 5, 50, 100])
def test_audits_are_the_share_that_was_asked_for_and_the_same_at_each_start(percent: int) -> None:
    chosen = [is_audited(0, sample, percent, seed=7) for sample in range(4000)]
    deviation = (percent * (100 - percent) / 4000) ** 0.5  # in per cent
    assert abs(sum(chosen) / 40 - percent) <= 4 * deviation
    assert chosen == [is_audited(0, sample, percent, seed=7) for sample in range(4000)]
    if 0 < percent < 100:
        assert chosen != [is_audited(1, sample, percent, seed=7) for sample in range(4000)]
        assert chosen != [is_audited(0, sample, percent, seed=8) for sample in range(4000)]
