"""Exposes the metrics of a table for Prometheus, in both of its text formats.

Each metric is made from its entry in the table (`experiment/metrics.py`): there is no other way to
expose one. A metric is exposed from the time it is first asked for.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

from prometheus_client import Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from splittracr.experiment.metrics import Metric, Type

_OPENMETRICS = "application/openmetrics-text"

Values = Mapping[tuple[str, ...], float]
"""Values of a metric by the values of its labels."""

T = TypeVar("T", Counter, Gauge, Histogram)


class Exposition:
    """The metrics of one process, and those of the process itself.

    `labels` are added to each series. No series says when it was created: Prometheus does not
    need them and they double the number of series.
    """

    def __init__(self, table: Iterable[Metric], labels: Mapping[str, str] | None = None) -> None:
        self._table = {metric.name: metric for metric in table}
        self._labels = dict(labels or {})
        self._families: dict[str, Collector] = {}
        self._process = ProcessCollector(registry=None)

    def counter(self, name: str) -> Counter:
        """The counter `name`, with the series that its entry lists."""
        metric = self._metric(name, Type.COUNTER)
        return self._keep(metric, Counter(*_identity(metric), registry=None, unit=_unit(metric)))

    def gauge(self, name: str) -> Gauge:
        """The gauge `name`, with the series that its entry lists."""
        metric = self._metric(name, Type.GAUGE)
        return self._keep(metric, Gauge(*_identity(metric), registry=None, unit=_unit(metric)))

    def histogram(self, name: str) -> Histogram:
        """The histogram `name`, with the series that its entry lists."""
        metric = self._metric(name, Type.HISTOGRAM)
        made = Histogram(
            *_identity(metric), registry=None, unit=_unit(metric), buckets=metric.buckets
        )
        return self._keep(metric, made)

    def counters(self, name: str) -> dict[str, Counter]:
        """The series of the counter `name`, which has one label, by the values that are listed."""
        made = self.counter(name)
        return {value: made.labels(value) for value in self._listed(name)}

    def histograms(self, name: str) -> dict[str, Histogram]:
        """The series of the histogram `name`, which has one label, by the values listed."""
        made = self.histogram(name)
        return {value: made.labels(value) for value in self._listed(name)}

    def read(self, name: str, values: Callable[[], Values]) -> None:
        """Expose what `values` returns at each scrape as the metric `name`, no histogram."""
        metric = self._table[name]
        if metric.type is Type.HISTOGRAM:
            raise ValueError(f"{name} is a histogram, which has to be observed")
        self._expose(name, _Read(metric, values))

    def read_one(self, name: str, value: Callable[[], float | None]) -> None:
        """The same of a metric without labels; it is absent while `value` returns None."""

        def values() -> Values:
            now = value()
            return {} if now is None else {(): now}

        self.read(name, values)

    def collect(self) -> Iterator[Family]:
        """All families that have series, in the order of the table."""
        for name in self._table:
            if name in self._families:
                yield from self._labelled(self._families[name])
        yield from self._labelled(self._process)

    def render(self, accept: str) -> tuple[bytes, str]:
        """The exposition and its content type, for a request's header `Accept`.

        The format is OpenMetrics if the client accepts it, else Prometheus' older text format.
        """
        encode, content_type = choose_encoder(_OPENMETRICS if _OPENMETRICS in accept else "")
        return encode(self), content_type

    def _listed(self, name: str) -> list[str]:
        return [value for (value,) in self._table[name].values]

    def _metric(self, name: str, kind: Type) -> Metric:
        metric = self._table[name]
        if metric.type is not kind:
            raise ValueError(f"{name} is a {metric.type}, not a {kind}")
        return metric

    def _keep(self, metric: Metric, made: T) -> T:
        for values in metric.values:
            made.labels(*values)
        self._expose(metric.name, made)
        return made

    def _expose(self, name: str, family: Collector) -> None:
        if name in self._families:
            raise ValueError(f"{name} is exposed already")
        self._families[name] = family

    def _labelled(self, collector: Collector) -> Iterator[Family]:
        for family in collector.collect():
            family.samples = [
                sample._replace(labels={**sample.labels, **self._labels})
                for sample in family.samples
                if not sample.name.endswith("_created")
            ]
            if family.samples:
                yield family


class _Read(Collector):
    """A metric whose values are read at each scrape."""

    def __init__(self, metric: Metric, values: Callable[[], Values]) -> None:
        self._metric, self._values = metric, values

    def collect(self) -> Iterable[Family]:
        metric = self._metric
        family = Family(metric.name, metric.help, metric.type.value, _unit(metric))
        for labels, value in self._values().items():
            family.add_sample(metric.exposed, dict(zip(metric.labels, labels, strict=True)), value)
        return [family]


def _identity(metric: Metric) -> tuple[str, str, tuple[str, ...]]:
    return metric.name, metric.help, metric.labels


def _unit(metric: Metric) -> str:
    return metric.unit.replace(" ", "_")
