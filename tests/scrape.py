"""A scrape as Prometheus reads it, in either text format."""

import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pytest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from splittracr.experiment.metrics import Metric, Type
from splittracr.exposition import Exposition

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
"""What Prometheus sends as `Accept`."""

COMMON = ("study_namespace", "study", "role", "edge")
"""Labels of each series of a worker."""


@dataclass(frozen=True)
class Scrape:
    """All samples of one scrape."""

    samples: Sequence[Sample]

    @property
    def names(self) -> set[str]:
        return {sample.name for sample in self.samples}

    def one(self, name: str, /, **labels: str) -> float:
        """The value of the one series with this name and at least these labels."""
        (value,) = [
            sample.value
            for sample in self.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        return float(value)

    def of(self, name: str, *labels: str) -> dict[tuple[str, ...], float]:
        """Values by the values of these labels."""
        return {
            tuple(sample.labels[label] for label in labels): sample.value
            for sample in self.samples
            if sample.name == name
        }


def parsed(text: str) -> Scrape:
    """A scrape in Prometheus' older text format."""
    return _scrape(text_string_to_metric_families(text))


def parsed_openmetrics(text: str) -> Scrape:
    """A scrape in OpenMetrics; ValueError where it is none."""
    return _scrape(openmetrics.text_string_to_metric_families(text))  # type: ignore[no-untyped-call]


def scraped(exposition: Exposition) -> Scrape:
    """What an exposition shows now. Both formats have to show the same."""
    older = parsed(exposition.render("")[0].decode())
    newer = parsed_openmetrics(exposition.render(OPENMETRICS)[0].decode())
    assert _without_process(older) == _without_process(newer)
    return older


def complaints(text: str) -> str:
    """What `promtool check metrics` says of a scrape; skips the test where there is no promtool."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not here: on Debian it comes with the package prometheus")
    command = [promtool, "check", "metrics"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def exposed_names(metric: Metric) -> set[str]:
    """Names of the series of a metric."""
    if metric.type is Type.HISTOGRAM:
        return {f"{metric.name}_{part}" for part in ("bucket", "sum", "count")}
    return {metric.exposed}


def _scrape(families: Iterable[Family]) -> Scrape:
    return Scrape([sample for family in families for sample in family.samples])


def _without_process(scrape: Scrape) -> set[str]:
    return {name for name in scrape.names if name.startswith("splittracr_")}
