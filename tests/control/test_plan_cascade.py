"""Plans after audits of a cascade have shown a drift, or its end."""

from dataclasses import replace

import pytest

from splittracr.experiment.report import CascadeReport, Phase
from splittracr_operator import conditions
from splittracr_operator.reports import Reports
from splittracr_operator.state import Done, State
from tests.control.plan_states import (
    completed,
    degradation,
    running,
    settle,
    settled,
    with_report,
)


def drifting(*, drifted: bool) -> State:
    """The state after a report with audits."""
    seen = CascadeReport(audited=200, disagreeing=40, promised=0.05, drifted=drifted)
    return with_report(settled(running()), cascade=seen)


def test_a_drift_degrades_the_study_until_audits_agree_again() -> None:
    current, steps = settle(drifting(drifted=True))
    assert steps == ["status Running", "event CascadeDrifted"]
    (found,) = (c for c in current.study.status.conditions if c.type == conditions.DEGRADED)
    assert (found.status, found.reason) == ("True", "CascadeDrifted")
    assert found.message.startswith("Audits at edge-0 show that more of the answers there disagree")
    later = with_report(
        current, done=5, cascade=CascadeReport(audited=200, disagreeing=41, drifted=True)
    )
    assert "event CascadeDrifted" not in settle(later)[1]  # once
    again = with_report(current, done=6, cascade=CascadeReport(audited=200, disagreeing=2))
    assert degradation(settled(again)) == ("False", "AsSpecified")


def judging(judged: int, pictures: int | None = 400) -> CascadeReport:
    """The report of an edge that judges pictures for a new threshold."""
    return CascadeReport(
        audited=20, disagreeing=9, drifted=True, threshold_per_million=100_000, judged=judged,
        pictures=pictures,
    )  # fmt: skip


def test_a_drift_ends_with_a_new_threshold() -> None:
    current, steps = settle(with_report(settled(running()), cascade=judging(0)))
    assert steps == ["status Running", "event CascadeDrifted"]
    for judged, shown in ((39, 0), (40, 40), (399, 360)):
        current, steps = settle(with_report(current, done=judged, cascade=judging(judged)))
        assert "event CascadeDrifted" not in steps
        (found,) = (c for c in current.study.status.conditions if c.type == conditions.DEGRADED)
        assert found.message.endswith(
            "promises: the large model answers there. edge-0 judges pictures for a new threshold, "
            f"{shown} of 400."
        )
    new = CascadeReport(audited=0, disagreeing=0, threshold_per_million=930_000, recalibrations=1)
    current, steps = settle(with_report(current, done=500, cascade=new))
    assert degradation(current) == ("False", "AsSpecified")
    assert "event CascadeRecalibrated" in steps
    assert "event CascadeRecalibrated" not in settle(with_report(current, done=501, cascade=new))[1]
    assert conditions.recalibrated(current.reports.latest) == (
        "The cascade answers again with a new threshold: edge-0 from 930,000 millionths on."
    )


def test_a_drift_lasts_until_an_edge_reports_audits_again() -> None:
    current = settled(drifting(drifted=True))
    starting = with_report(current, phase=Phase.STARTING, done=0, total=None)
    unheard = replace(current, reports=Reports())
    for state_before in (starting, unheard):
        after, steps = settle(replace(state_before, done=Done()))
        assert degradation(after) == ("True", "CascadeDrifted")
        assert "event CascadeDrifted" not in steps


@pytest.mark.parametrize("drifted", [True, False])
def test_an_ended_study_says_whether_its_promise_was_broken(drifted: bool) -> None:
    seen = CascadeReport(audited=200, disagreeing=40, promised=0.05, drifted=drifted)
    last = with_report(settled(running()), phase=Phase.FINISHED, done=9, cascade=seen)
    after, steps = settle(completed(last))
    assert "status Succeeded" in steps
    assert ("event CascadeDrifted" in steps) is drifted
    expected = ("True", "CascadeDrifted") if drifted else ("False", "AsSpecified")
    assert degradation(after) == expected
