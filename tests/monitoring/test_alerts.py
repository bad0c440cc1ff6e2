"""The alerts: promtool reads the rules and runs the series in `alerts/`, one file an alert."""

import re
import shutil
import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml

from splittracr.experiment.metrics import TABLES, Metric, Type
from splittracr.monitoring import alerts
from splittracr.monitoring.alerts import ALERTS, Alert

ROOT = Path(__file__).parents[2]
RULES = ROOT / "charts" / "splittracr" / "files" / "alerts.yaml"
CASES = Path(__file__).parent / "alerts"

promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs promtool (on Debian: apt install prometheus)"
)
each = pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)


def run_promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = ["promtool", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def series_of(metric: Metric) -> set[str]:
    """Names of a metric's series."""
    if metric.type is Type.HISTOGRAM:
        return {f"{metric.name}_{part}" for part in ("bucket", "sum", "count")}
    return {metric.exposed}


BY_SERIES = {name: m for table in TABLES.values() for m in table for name in series_of(m)}


def nodes(expression: Any) -> list[Any]:
    """The expression and all expressions in it."""
    found: list[Any] = []
    promql.walk(expression, found.append)
    return found


def selectors(expression: Any) -> list[Any]:
    return [node for node in nodes(expression) if isinstance(node, promql.VectorSelector)]


def cases(alert: Alert) -> list[Any]:
    loaded = yaml.safe_load((CASES / f"{alert.name}.yaml").read_text(encoding="utf-8"))
    tests: list[Any] = loaded["tests"]
    return tests


def fires_in(case: Any) -> bool:
    return any(check["exp_alerts"] for check in case["alert_rule_test"])


# --------------------------------------------------------------------------------- the rule file


@promtool
def test_promtool_accepts_the_rules() -> None:
    done = run_promtool("check", "rules", RULES)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"SUCCESS: {len(ALERTS)} rules found" in done.stdout


def test_the_file_has_all_alerts_and_leaves_templates_to_prometheus() -> None:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert rules == [alert.rule() for alert in ALERTS]
    assert "{{ $labels.study }}" in rules[0]["annotations"]["summary"]


@each
def test_expression_uses_series_and_labels_of_the_table(alert: Alert) -> None:
    expression = promql.parse(alert.expr)
    assert selectors(expression)
    for selector in selectors(expression):
        known = alerts.labels(BY_SERIES[selector.name])
        for matcher in selector.matchers.matchers:
            assert matcher.name in known, f"{selector.name} has no label {matcher.name}"


@each
def test_expression_groups_by_labels_that_its_series_have(alert: Alert) -> None:
    aggregates = [
        node for node in nodes(promql.parse(alert.expr)) if isinstance(node, promql.AggregateExpr)
    ]
    assert aggregates
    for aggregate in aggregates:
        assert aggregate.modifier is not None
        grouped = set(aggregate.modifier.labels)
        assert not {"pod", "instance", "job"} & grouped
        for selector in selectors(aggregate.expr):
            assert grouped <= set(alerts.labels(BY_SERIES[selector.name])), selector.name


@each
def test_one_event_leaves_the_window_before_the_alert_fires(alert: Alert) -> None:
    windows = [
        promql.parse_duration(window)
        for window in re.findall(r"\[(\w+)\]", alert.expr)
        if window != alerts.DOWN_MEMORY
    ]
    assert all(2 * window <= promql.parse_duration(alert.hold) for window in windows)
    assert promql.parse_duration(alert.hold) >= timedelta(minutes=5)


def test_a_renamed_metric_label_or_part_is_refused() -> None:
    with pytest.raises(KeyError, match="splittracr_study_sample'"):
        alerts.selector("splittracr_study_sample")
    with pytest.raises(ValueError, match="splittracr_study_samples has no label result"):
        alerts.selector("splittracr_study_samples", result="ok")
    with pytest.raises(ValueError, match="is a counter"):
        alerts.selector("splittracr_study_samples", "count")
    with pytest.raises(ValueError, match="is a histogram"):
        alerts.selector("splittracr_frame_latency_seconds")


# ------------------------------------------------------------------------------- what fires them


@promtool
@each
def test_promtool_runs_the_cases(alert: Alert) -> None:
    done = run_promtool("test", "rules", CASES / f"{alert.name}.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


@each
def test_cases_fire_the_alert_and_miss_it_with_series_of_the_table(alert: Alert) -> None:
    for case in cases(alert):
        expected = case["alert_rule_test"]
        assert {check["alertname"] for check in expected} == {alert.name}
        for entry in case["input_series"]:
            (selector,) = selectors(promql.parse(entry["series"]))
            names = {matcher.name for matcher in selector.matchers.matchers}
            assert names <= set(alerts.labels(BY_SERIES[selector.name])), entry["series"]
    assert {fires_in(case) for case in cases(alert)} == {True, False}


LOOSER = [
    ("SplittracrStudyStalled", "for", "13m"),
    ("SplittracrStudyStalled", 'type="Succeeded",status="Unknown"', 'type="Stalled",status="True"'),
    ("SplittracrStudyStalled", 'outcome=~"ok|failed"', 'outcome="ok"'),
    ("SplittracrEdgeSilent", "for", "4m"),
    ("SplittracrEdgeSilent", "== 1", ">= 0"),
    ("SplittracrPredictionsOff", "> 0.5", "> 0.4"),
    ("SplittracrPredictionsOff", ">= 30", ">= 25"),
    ("SplittracrPredictionsOff", "for", "4m"),
    ("SplittracrReconnectStorm", ">= 4", ">= 3"),
    ("SplittracrReconnectStorm", "for", "4m"),
    ("SplittracrReconnectStorm", "increase(", "max_over_time("),
    ("SplittracrDeadlineMisses", "> 0.1", "> 0.08"),
    ("SplittracrDeadlineMisses", ">= 30", ">= 25"),
    ("SplittracrDeadlineMisses", "for", "7m"),
    ("SplittracrServerSaturated", "> 4", "> 3.5"),
    ("SplittracrServerSaturated", "> 0.9", "> 0.8"),
    ("SplittracrServerSaturated", "for", "9m"),
    ("SplittracrResultsStoreNearlyFull", "< 0.1", "< 0.13"),
    ("SplittracrResultsStoreNearlyFull", "for", "8m"),
    ("SplittracrOperatorErrors", "for", "7m"),
    ("SplittracrOperatorErrors", "increase(", "max_over_time("),
    ("SplittracrOperatorDown", "for", "8m"),
    ("SplittracrOperatorDown", "present_over_time(", "absent_over_time("),
]


@promtool
@pytest.mark.parametrize(("name", "old", "new"), LOOSER)
def test_a_looser_rule_fires_in_a_near_miss(name: str, old: str, new: str, tmp_path: Path) -> None:
    """So that each near miss is near: a case that misses by far would hold nothing."""
    (alert,) = (alert for alert in ALERTS if alert.name == name)
    if old == "for":
        looser = replace(alert, hold=new)
    else:
        assert old in alert.expr
        looser = replace(alert, expr=alert.expr.replace(old, new))
    changed = {"groups": [{"name": "looser", "rules": [looser.rule()]}]}
    misses = [case for case in cases(alert) if not fires_in(case)]
    file = {"rule_files": ["rules.yaml"], "evaluation_interval": "30s", "tests": misses}
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(changed), encoding="utf-8")
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(file), encoding="utf-8")
    done = run_promtool("test", "rules", tmp_path / "tests.yaml")
    assert done.returncode == 1
    assert f'alertname="{name}"' in done.stdout + done.stderr
