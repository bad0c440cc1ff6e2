"""A real Prometheus scrapes operator and workers; dashboards and alerts find their metrics."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest

from splittracr.monitoring.alerts import ALERTS
from tests.e2e.cluster import Study, fault, paced, start, until
from tests.e2e.conftest import scratch
from tests.e2e.prometheus import IMAGE, Prometheus, prometheus
from tests.e2e.test_cascade import cascade
from tests.monitoring.servers import check_queries
from tests.monitoring.test_alerts import selectors

PICTURES = "SPLITTRACR_E2E_PICTURES"
"""Variable with a folder in which these tests leave their dashboards for review."""

ADAPTIVE: dict[str, Any] = {
    "model": {"name": "mobilenet_v3_small", "weights": "none"},
    "partition": {
        "mode": "Adaptive",
        "adaptive": {"codecs": ["raw", "uint8"], "agreementPercent": 1, "policy": "Hedge"},
    },
    "transport": {
        "link": {
            "phases": [
                {
                    "durationSeconds": 18,
                    "uplinkKilobitsPerSecond": kilobits,
                    "downlinkKilobitsPerSecond": 50_000,
                    "roundTripMilliseconds": 20,
                }
                for kilobits in (50_000, 2_000, 20_000, 50_000, 2_000)
            ]
        }
    },
    "workload": paced(300, 200),
    "results": {"pictures": 0},
    "edge": {"device": "cpu", "slowdownPercent": 2000},
    "server": {"device": "cpu"},
}
"""A study of 90 seconds whose link changes, so that its cut does."""

EMPTY = {
    "study": {"Energy per sample", "Power"},
    "fleet": set[str](),
    "operator": set[str](),
}
"""Panels without data, by dashboard: no node of a test cluster has an energy sensor."""

BY_MACHINE = {"Temperature", "Clock"}
"""Panels that have data only if the system of the nodes shows it; virtual machines may not."""


@pytest.fixture
def scraper(operator: None) -> Iterator[Prometheus]:
    if IMAGE not in os.environ:
        pytest.skip(f"no image of Prometheus: {IMAGE}")
    with scratch() as space, prometheus(space) as made:
        yield made


def test_dashboards_and_alerts_of_a_real_study(
    scraper: Prometheus, faults: None, namespace: str, tmp_path: Path
) -> None:
    study = start(namespace, "moving", ADAPTIVE)
    study.wait_done(150, 240)
    fault("pods-kill", "gpu-1", namespace, "moving-server")
    finish_scraped(scraper, study)
    with scraper.at_loopback() as url:
        variables = {"namespace": namespace, "study": study.name}
        empty = check_queries(url, variables)
        assert {name: set(panels) - BY_MACHINE for name, panels in empty.items()} == EMPTY
        for name in EMPTY:
            drawn = draw(url, study, name, tmp_path)
            assert drawn.read_bytes().startswith(b"\x89PNG")
    other = start(namespace, "cascade", cascade("small", 300, 1))
    other.wait_done(20, 240)
    finish_scraped(scraper, other)
    for alert in ALERTS:
        for selector in selectors(promql.parse(alert.expr)):
            found = scraper.query(f"count(last_over_time({selector}[1h]))")
            assert found, f"{alert.name}: no series {selector}"


def finish_scraped(scraper: Prometheus, study: Study) -> None:
    """Wait for the end of the study, during which all of its workers were scraped."""
    names = {pod["metadata"]["name"] for pod in study.pods()}
    assert len(names) == 2
    up = f'up{{namespace="{study.namespace}"}} == 1'

    def scraped() -> bool:
        return names <= {series["metric"]["pod"] for series in scraper.query(up)}

    until("a scrape of edge and server", scraped, 60)
    status = study.wait_for("Succeeded", "Failed", seconds=300)
    assert status["state"] == "Succeeded", status


def draw(url: str, study: Study, dashboard: str, folder: Path) -> Path:
    """What `splittracr dashboard` draws of the study."""
    out = Path(os.environ.get(PICTURES, folder)) / f"{dashboard}.png"
    command = [sys.executable, "-m", "splittracr", "dashboard", study.name, "--prometheus", url]
    options = ["--namespace", study.namespace, "--dashboard", dashboard, "-o", str(out)]
    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return out
