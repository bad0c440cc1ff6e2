"""The generated JSON: what Grafana needs, and that all queries fit the metric table."""

import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import promql_parser as pql
import pytest

from splittracr.experiment import metrics
from splittracr.experiment.metrics import Metric, Type
from splittracr.experiment.status import CONDITION_TYPES
from splittracr.monitoring import dashboards, panels
from splittracr.monitoring.panels import fill
from splittracr.monitoring.promql import PROCESS

ROOT = Path(__file__).parents[2]
DOCUMENTS = {name: json.loads(dashboards.document(name)) for name in panels.NAMES}
GRAFANAS_OWN = {"__interval": "15s", "__rate_interval": "1m", "__range": "1h"}
TABLE: tuple[Metric, ...] = (
    *metrics.WORKER,
    *metrics.EDGE,
    *metrics.SERVER,
    *metrics.OPERATOR,
    *PROCESS,
)
WORKER_LABELS = {"study_namespace", "study", "role"}

Json = dict[str, Any]


def every_panel() -> Iterator[tuple[str, Json]]:
    for name, document in DOCUMENTS.items():
        yield from ((name, one) for one in document["panels"] if one["type"] != "row")


PANELS = [pytest.param(one, id=f"{name}: {one['title']}") for name, one in every_panel()]


def every_query() -> Iterator[tuple[str, str, str]]:
    """Name, expression and legend of all queries of panels and annotations."""
    for name, one in every_panel():
        for target in one["targets"]:
            yield f"{name}: {one['title']}", target["expr"], target["legendFormat"]
    for name, document in DOCUMENTS.items():
        for one in document["annotations"]["list"]:
            yield f"{name}: {one['name']}", one["expr"], one["textFormat"]


QUERIES = [pytest.param(expr, legend, id=name) for name, expr, legend in every_query()]


def exposed(metric: Metric) -> set[str]:
    if metric.type is Type.HISTOGRAM:
        return {f"{metric.exposed}_{part}" for part in ("bucket", "sum", "count")}
    return {metric.exposed}


def labels_of(name: str) -> set[str]:
    """Labels that series of this name have, as the table and its docstring say."""
    (metric,) = (one for one in TABLE if name in exposed(one))
    labels = set(metric.labels)
    if name.endswith("_bucket"):
        labels.add("le")
    if metric in metrics.OPERATOR:
        return labels | {"instance"}
    if metric in PROCESS:
        return labels | WORKER_LABELS | {"edge", "instance"}
    return labels | WORKER_LABELS | ({"edge"} if metric not in metrics.SERVER else set())


def labels(node: Any) -> set[str]:
    """Labels of what an expression gives. Fails on a label that cannot be there."""
    match node:
        case pql.VectorSelector():
            known = labels_of(node.name or "")
            assert {one.name for one in node.matchers.matchers} <= known
            return known
        case pql.MatrixSelector():
            return labels(node.vector_selector)
        case pql.AggregateExpr():
            inner = labels(node.expr)
            by = set(node.modifier.labels) if node.modifier else set()
            assert by <= inner, f"by ({by}) of {inner}"
            return inner if str(node.op) == "topk" else by
        case pql.Call():
            found = [labels(one) for one in node.args if not isinstance(one, pql.NumberLiteral)]
            spent = {"le"} if node.func.name == "histogram_quantile" else set()
            return set[str]().union(*found) - spent
        case pql.BinaryExpr():
            return binary(node)
        case pql.ParenExpr():
            return labels(node.expr)
        case pql.NumberLiteral():
            return set()
    raise AssertionError(f"not expected: {type(node)}")


def binary(node: Any) -> set[str]:
    left, right = labels(node.lhs), labels(node.rhs)
    if node.modifier and node.modifier.matching:
        on = set(node.modifier.matching.labels)
        assert on <= left & right
        return left | set(node.modifier.group_labels or ())
    scalar = isinstance(node.lhs, pql.NumberLiteral | pql.Call) or isinstance(
        node.rhs, pql.NumberLiteral
    )
    assert left == right or scalar, f"{node} never matches"
    return left | right


@pytest.mark.parametrize(("expr", "legend"), QUERIES)
def test_query_is_promql_on_metrics_and_labels_of_the_table(expr: str, legend: str) -> None:
    variables = {"namespace": "a", "study": "b", "edge": ["c", "d"], "instance": ["e"]}
    found = labels(pql.parse(fill(expr, {**variables, **GRAFANAS_OWN})))
    assert set(re.findall(r"\{\{(\w+)\}\}", legend)) <= found


@pytest.mark.parametrize("name", panels.NAMES)
def test_variables_exist_and_ask_for_labels_of_the_table(name: str) -> None:
    document = DOCUMENTS[name]
    known = {one["name"] for one in document["templating"]["list"]}
    assert "datasource" in known
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(document)))
    assert used - GRAFANAS_OWN.keys() - {"__all"} == known
    for one in panels.parse(document).variables:
        assert one.label in labels(pql.parse(fill(one.match, {"namespace": "a", "study": "b"})))


@pytest.mark.parametrize("one", PANELS)
def test_panel_is_complete(one: Json) -> None:
    defaults = one["fieldConfig"]["defaults"]
    assert one["title"]
    assert len(one["title"]) <= 40
    assert one["description"].endswith(".")
    assert defaults["unit"]
    assert defaults["noValue"]
    assert one["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert one["targets"]
    references = [target["refId"] for target in one["targets"]]
    assert len(references) == len(set(references))
    for target in one["targets"]:
        assert target["datasource"] == one["datasource"]
        assert bool(target.get("instant")) != bool(target.get("range"))
        named = bool(target["legendFormat"])
        assert named or one["type"] == "table"


@pytest.mark.parametrize("one", PANELS)
def test_empty_state_gives_a_reason(one: Json) -> None:
    text = one["fieldConfig"]["defaults"]["noValue"]
    if one["type"] == "stat":  # drawn in large letters
        assert text in ("not scraped", "no frame")
    else:
        assert text.startswith(("No data: ", "No such event"))


@pytest.mark.parametrize("name", panels.NAMES)
def test_panels_do_not_overlap_and_fill_their_rows(name: str) -> None:
    places = [one["gridPos"] for one in DOCUMENTS[name]["panels"]]
    for place in places:
        assert place["x"] + place["w"] <= 24
    for a, b in combinations(places, 2):
        apart = (
            a["x"] + a["w"] <= b["x"]
            or b["x"] + b["w"] <= a["x"]
            or a["y"] + a["h"] <= b["y"]
            or b["y"] + b["h"] <= a["y"]
        )
        assert apart, f"{a} overlaps {b}"
    assert sum(p["w"] * p["h"] for p in places) == 24 * max(p["y"] + p["h"] for p in places)


@pytest.mark.parametrize("name", panels.NAMES)
def test_titles_are_unique(name: str) -> None:
    titles = [one["title"] for one in DOCUMENTS[name]["panels"]]
    assert len(titles) == len(set(titles))


def test_the_manual_of_empty_panels_uses_titles_of_panels() -> None:
    text = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    section = text.partition("### What can be empty, and why\n")[2]
    rows = re.findall(r"^\| ([^|]+) \|", section, re.MULTILINE)
    assert rows[0] == "Panels"
    titles = {title for row in rows[1:] for title in row.split(", ")}
    assert titles
    assert titles <= {one["title"] for _, one in every_panel()}


def test_identities_are_unique_and_stable() -> None:
    assert {document["uid"] for document in DOCUMENTS.values()} == {
        "splittracr-study",
        "splittracr-fleet",
        "splittracr-operator",
    }
    for document in DOCUMENTS.values():
        found = [one["id"] for one in document["panels"]]
        assert len(found) == len(set(found))


@pytest.mark.parametrize("name", panels.NAMES)
def test_dashboard_as_a_whole(name: str) -> None:
    document = DOCUMENTS[name]
    assert document["tags"] == ["splittracr"]
    assert document["schemaVersion"] == 38
    assert document["refresh"] == "30s"
    (link,) = document["links"]
    assert (link["type"], link["tags"], link["keepTime"]) == ("dashboards", ["splittracr"], True)
    assert "placement" not in link
    assert document["annotations"]["list"]
    assert "description" in document


def test_rates_use_grafanas_window() -> None:
    for name, expr, _ in every_query():
        windows = set(re.findall(r"\[([^\]]+)\]", expr))
        assert windows <= {"$__rate_interval", "$__range"}, name


def test_chart_has_the_same_files() -> None:
    for name in panels.NAMES:
        ours = ROOT / "workers/splittracr/monitoring/dashboards" / f"{name}.json"
        assert (ROOT / "charts/splittracr/dashboards" / ours.name).read_bytes() == ours.read_bytes()


def test_the_fleet_shows_each_condition() -> None:
    (table,) = [p for p in panels.load("fleet").panels if p.title == "Conditions and progress"]
    asked = " ".join(query.expression for query in table.targets)
    for kind in CONDITION_TYPES:
        assert f'type="{kind}", status="True"' in asked
