"""The runbooks: a page for each alert, and every command and query in them exists."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import promql_parser as promql
import pytest
import typer
from typer.core import TyperGroup

from splittracr.cli import chart
from splittracr.cli.main import app
from splittracr.experiment import crd
from splittracr.experiment.metrics import TABLES, Type
from splittracr.experiment.spec import ExperimentSpec
from splittracr.monitoring import alerts
from splittracr.monitoring.alerts import ALERTS, Alert

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "runbooks"
HEADINGS = ["Meaning", "Check", "Action"]
KINDS = {"nodes", "pods", "pvc", "deployment"} | set(
    crd.definition()["spec"]["names"]["shortNames"]
)

VALUES = chart.read((ROOT / chart.CHART / "values.yaml").read_text(encoding="utf-8"))

each = pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)


def page(alert: Alert) -> str:
    return (ROOT / alert.runbook).read_text(encoding="utf-8")


def blocks(alert: Alert, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page(alert), re.DOTALL | re.MULTILINE)


def commands(alert: Alert) -> list[list[str]]:
    """Commands in blocks and in the text."""
    lines = [line for block in blocks(alert, "sh") for line in block.splitlines()]
    lines += re.findall(r"`((?:splittracr|kubectl) [^`\n]+)`", page(alert))
    return [shlex.split(line) for line in lines]


@each
def test_page_has_the_headings_a_command_and_a_query(alert: Alert) -> None:
    assert page(alert).startswith(f"# {alert.name}\n")
    assert re.findall("^## (.*)$", page(alert), re.MULTILINE) == HEADINGS
    assert commands(alert)
    assert blocks(alert, "promql")
    assert set(re.findall("^```(.+)$", page(alert), re.MULTILINE)) == {"sh", "promql"}


def test_there_is_no_page_without_an_alert_and_the_list_has_all() -> None:
    pages = {path.stem for path in FOLDER.glob("*.md")} - {"README"}
    assert pages == {alert.name for alert in ALERTS}
    listed = re.findall(r"^\| \[(\w+)\]\(\1\.md\)", alerts.index(), re.MULTILINE)
    assert listed == [alert.name for alert in ALERTS]


@each
def test_commands_exist(alert: Alert) -> None:
    known = typer.main.get_command(app)
    assert isinstance(known, TyperGroup)
    for program, *arguments in commands(alert):
        if program == "kubectl":
            assert KINDS & set(re.split(r"[ /]", " ".join(arguments))), arguments
            continue
        assert program == "splittracr"
        # Reads options and arguments as a call does, and raises for unknown ones.
        group = known.make_context("splittracr", list(arguments))
        name, command, rest = known.resolve_command(group, list(arguments))
        assert command is not None
        command.make_context(name, rest, parent=group)


@each
def test_queries_use_series_and_labels_of_the_table(alert: Alert) -> None:
    metrics = {metric.exposed: metric for table in TABLES.values() for metric in table}
    for block in blocks(alert, "promql"):
        found: list[object] = []
        promql.walk(promql.parse(block), found.append)
        selectors = [node for node in found if isinstance(node, promql.VectorSelector)]
        assert selectors
        for selector in selectors:
            name = re.sub("_(sum|count)$", "", selector.name or "")
            metric = metrics[name]
            assert (name == selector.name) == (metric.type is not Type.HISTOGRAM)
            used = {matcher.name for matcher in selector.matchers.matchers}
            assert used <= set(alerts.labels(metric)), block


def values(group: Sequence[chart.Value]) -> set[str]:
    """Paths of the chart's values."""
    paths = {value.path for value in group}
    return paths.union(*(values(value.children) for value in group))


def fields(schema: crd.Schema, path: str = "spec") -> set[str]:
    """Paths of a manifest's fields, such as `spec.edge.replicas`."""
    found = {path}
    for name, field in schema.get("properties", {}).items():
        found |= fields(field, f"{path}.{name}")
    return found


def test_names_are_values_of_the_chart_or_fields_of_a_manifest() -> None:
    pages = "".join(map(page, ALERTS))
    assert "SPLITTRACR_" not in pages
    known = values(VALUES) | fields(crd.structural(ExperimentSpec))
    names = re.findall(r"`([a-z]\w*(?:\.\w+)+)[`:]", pages)
    assert names
    assert [name for name in names if not {name, f"spec.{name}"} & known] == []


def test_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#]+)", "".join(map(page, ALERTS)))
    assert targets
    assert [target for target in targets if not (FOLDER / target).exists()] == []
