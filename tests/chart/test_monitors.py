"""Values for monitors, alerts and dashboards."""

import shutil
from pathlib import Path

import pytest
import yaml

from tests.chart.render import (
    FOLDER,
    MONITORING,
    Refused,
    config_of,
    needs_helm,
    of_kind,
    one,
    pod_of,
    render,
)

pytestmark = needs_helm

MONITORS = {
    "serviceMonitor": "ServiceMonitor",
    "podMonitor": "PodMonitor",
    "prometheusRule": "PrometheusRule",
}


@pytest.fixture(scope="module")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart with alerts and dashboards of this test."""
    folder = tmp_path_factory.mktemp("chart") / "splittracr"
    shutil.copytree(FOLDER, folder)
    for made in ("files", "dashboards"):
        shutil.rmtree(folder / made, ignore_errors=True)
        (folder / made).mkdir()
    rule = {"alert": "Late", "expr": "a > 1", "annotations": {"summary": "{{ $labels.study }}"}}
    recorded = {"record": "a:b", "expr": "sum(a)"}
    groups = [{"name": "studies", "rules": [{**rule, "labels": {"severity": "page"}}, recorded]}]
    (folder / "files" / "alerts.yaml").write_text(yaml.safe_dump({"groups": groups}))
    (folder / "dashboards" / "my_board.json").write_text('{"title": "{{study}} $x"}')
    return folder


@pytest.mark.parametrize(("value", "kind"), MONITORS.items())
def test_render_modes(value: str, kind: str, stocked: Path) -> None:
    def shown(mode: str, api_versions: tuple[str, ...]) -> int:
        values = {value: {"enabled": True, "renderMode": mode}}
        return len(of_kind(render(values, api_versions=api_versions, folder=stocked), kind))

    assert of_kind(render(api_versions=MONITORING, folder=stocked), kind) == []
    for mode in ("skipIfMissing", "failIfMissing", "alwaysRender"):
        assert shown(mode, MONITORING) == 1
    assert shown("skipIfMissing", ()) == 0
    assert shown("alwaysRender", ()) == 1
    with pytest.raises(Refused, match=f"The cluster has no kind {kind}"):
        shown("failIfMissing", ())


@pytest.mark.parametrize("on", [(), ("serviceMonitor",), ("podMonitor",), tuple(MONITORS)])
def test_annotations_or_monitors_never_both(on: tuple[str, ...]) -> None:
    bodies = render({value: {"enabled": True} for value in on}, api_versions=MONITORING)
    monitors = of_kind(bodies, "ServiceMonitor") + of_kind(bodies, "PodMonitor")
    annotations = {
        key: text
        for key, text in pod_of(bodies)["metadata"]["annotations"].items()
        if key.startswith("prometheus.io/")
    }
    scraped = {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": "8080",
        "prometheus.io/path": "/metrics",
    }
    assert annotations == ({} if monitors else scraped)
    assert config_of(bodies)["scrapeAnnotations"] is not bool(monitors)


def test_monitors_select_operator_and_workers() -> None:
    more = {
        "interval": "30s",
        "scrapeTimeout": "5s",
        "honorLabels": True,
        "relabelings": [{"targetLabel": "a"}],
        "metricRelabelings": [{"action": "drop"}],
    }
    given = {"enabled": True, "labels": {"release": "prometheus"}, **more}
    values = {"serviceMonitor": given, "podMonitor": {**given, "podTargetLabels": ["site"]}}
    bodies = render(values, api_versions=MONITORING)
    service = one(bodies, "ServiceMonitor")
    labels = one(bodies, "Service")["metadata"]["labels"]
    assert service["metadata"]["labels"]["release"] == "prometheus"
    assert service["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert service["spec"]["endpoints"] == [{"port": "metrics", "path": "/metrics", **more}]
    pods = one(bodies, "PodMonitor")["spec"]
    assert pods["podMetricsEndpoints"] == [{"port": "metrics", "path": "/metrics", **more}]
    assert pods["podTargetLabels"] == ["site"]
    assert pods["namespaceSelector"] == {"any": True}
    watching = render({**values, "watchNamespaces": ["team-a"]}, api_versions=MONITORING)
    spec = one(watching, "PodMonitor")["spec"]
    assert spec["namespaceSelector"] == {"matchNames": ["team-a"]}


def test_alerts_come_from_the_file(stocked: Path) -> None:
    given = {"enabled": True, "labels": {"release": "p"}, "additionalLabels": {"team": "edge"}}
    body = one(
        render({"prometheusRule": given}, api_versions=MONITORING, folder=stocked), "PrometheusRule"
    )
    assert body["metadata"]["labels"]["release"] == "p"
    (group,) = body["spec"]["groups"]
    alert, recorded = group["rules"]
    assert alert["labels"] == {"severity": "page", "team": "edge"}
    assert alert["annotations"] == {"summary": "{{ $labels.study }}"}
    assert recorded == {"record": "a:b", "expr": "sum(a)"}


def test_dashboards_come_from_the_files(stocked: Path) -> None:
    given = {"enabled": True, "folder": "Split", "annotations": {"a": "b"}}
    bodies = render({"grafanaDashboard": given}, folder=stocked)
    body = one(bodies, "ConfigMap", "splittracr-dashboard-my-board")
    assert body["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert body["metadata"]["annotations"] == {"a": "b", "grafana_folder": "Split"}
    assert body["data"] == {"my_board.json": '{"title": "{{study}} $x"}'}
    assert len(of_kind(render(folder=stocked), "ConfigMap")) == 1
