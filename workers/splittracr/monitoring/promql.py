"""Builds PromQL expressions from the metric table and checks their labels.

A metric, label or value that the table does not have raises BadQuery. Without the check its panel
would be empty.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from splittracr.experiment import metrics
from splittracr.experiment.errors import SplittracrError
from splittracr.experiment.metrics import Metric, Type
from splittracr.experiment.rules import unwrapped

WORKER_LABELS = ("study_namespace", "study", "role")
"""Labels of each series of a worker. An edge has `edge` as well."""

PROCESS: tuple[Metric, ...] = (
    Metric(
        "process_resident_memory_bytes",
        "Resident memory of the process.",
        type=Type.GAUGE,
        absent="Only on Linux.",
    ),
    Metric(
        "process_cpu_seconds",
        "User and system CPU time of the process.",
        type=Type.COUNTER,
        absent="Only on Linux.",
    ),
)
"""Metrics of every process. Those of a worker have the worker's labels as well."""

STUDY = ('study_namespace="$namespace"', 'study="$study"')
"""Matchers that select one study."""

RATE = "$__rate_interval"
RANGE = "$__range"


class BadQuery(SplittracrError):
    """An expression names a metric or label that is not in the table."""


@dataclass(frozen=True)
class Vector:
    """An instant vector: its text, its labels, and why it may have no series.

    `labels` holds only the labels of the metric table; Prometheus may add others. Each method is
    one operation of PromQL. They are many, but they share the checks and nothing else, so that the
    class reads better whole.
    """

    text: str
    labels: frozenset[str]
    absent: str = ""
    counter: bool = False

    def rate(self) -> "Vector":
        """Increase per second over Grafana's rate window."""
        return self._over("rate", RATE)

    def increase(self) -> "Vector":
        """Increase over the whole time range."""
        return self._over("increase", RANGE)

    def events(self, *by: str) -> "Vector":
        """Increase per minute, summed; only series that increase in the time range."""
        some = f"sum by ({_list(by)}) (increase({self.text}[{RANGE}] @ end())) > 0"
        rates = self.rate().sum(*by).times(60)
        return replace(rates, text=f"({rates.text} and on ({_list(by)}) {some})")

    def gained(self) -> "Vector":
        """Increase since the step before; only series with a positive one."""
        self._must_count("offset")
        return replace(
            self, text=f"(({self.text} - {self.text} offset $__interval) > 0)", counter=False
        )

    def sum(self, *by: str) -> "Vector":
        """Sum by labels; over all series if none are given."""
        return self._aggregated("sum", by)

    def max(self, *by: str) -> "Vector":
        """Maximum by labels; over all series if none are given."""
        return self._aggregated("max", by)

    def mean(self, *by: str) -> "Vector":
        """Mean by labels; over all series if none are given."""
        return self._aggregated("avg", by)

    def count(self, *by: str) -> "Vector":
        """Number of series."""
        return self._aggregated("count", by)

    def quantile(self, share: float) -> "Vector":
        """Quantile of a histogram's buckets; no series without observations."""
        self._must_have(["le"])
        text = f"(histogram_quantile({share:g}, {self.text}) >= 0)"  # NaN without observations
        return replace(self, text=text, labels=self.labels - {"le"})

    def top(self, count: int) -> "Vector":
        """The largest series of each moment."""
        return replace(self, text=f"topk({count}, {unwrapped(self.text)})")

    def longest(self, count: int, *by: str) -> "Vector":
        """The `count` series with the largest number of samples in the whole time range."""
        self._must_have(by)
        samples = f"count_over_time({self.text}[{RANGE}] @ end())"
        longest = f"topk({count}, sum by ({_list(by)}) ({samples}))"
        return replace(self, text=f"({self.text} and on ({_list(by)}) {longest})")

    def per(self, other: "Vector") -> "Vector":
        """Quotient; no series where the divisor is 0."""
        divisor = f"({other.text} > 0)"
        if other.labels == self.labels:
            return replace(self, text=f"({self.text} / {divisor})")
        if other.labels:
            raise BadQuery(f"{sorted(self.labels)} cannot be divided by {sorted(other.labels)}")
        return replace(self, text=f"({self.text} / on () group_left () {divisor})")

    def plus(self, other: "Vector") -> "Vector":
        """Sum of two vectors with the same labels."""
        if other.labels != self.labels:
            raise BadQuery(f"{sorted(self.labels)} cannot be added to {sorted(other.labels)}")
        return replace(self, text=f"({self.text} + {other.text})")

    def times(self, factor: float) -> "Vector":
        """Product with a number."""
        return replace(self, text=f"({self.text} * {factor:g})")

    def age(self) -> "Vector":
        """Seconds since the timestamp that is the value."""
        return replace(self, text=f"(time() - {self.text})")

    def above_zero(self) -> "Vector":
        """Only series whose value is above 0."""
        return replace(self, text=f"({self.text} > 0)")

    def named(self, info: "Vector", *on: str) -> "Vector":
        """The same with the labels of an info metric, matched by the labels `on`."""
        self._must_have(on)
        extra = sorted(info.labels - set(on))
        newest = f"topk by ({_list(on)}) (1, {info.text})"  # two for a moment after a restart
        text = f"({self.text} * on ({_list(on)}) group_left ({_list(extra)}) {newest})"
        return replace(self, text=text, labels=self.labels | info.labels)

    def _over(self, function: str, window: str) -> "Vector":
        self._must_count(function)
        return replace(self, text=f"{function}({self.text}[{window}])", counter=False)

    def _aggregated(self, function: str, by: tuple[str, ...]) -> "Vector":
        self._must_have(by)
        if self.counter and function == "sum":
            raise BadQuery(f"a sum of {self.text} would fall when a worker starts again")
        grouped = f" by ({_list(by)}) " if by else ""
        text = f"{function}{grouped}({unwrapped(self.text)})"
        return replace(self, text=text, labels=frozenset(by), counter=False)

    def _must_have(self, labels: Iterable[str]) -> None:
        missing = sorted(set(labels) - self.labels)
        if missing:
            raise BadQuery(f"{self.text} has no label {', '.join(missing)}")

    def _must_count(self, function: str) -> None:
        if not self.counter:
            raise BadQuery(f"{function} needs a counter: {self.text}")


def edge(name: str, part: str = "", **matchers: str) -> Vector:
    """Series of the selected edges of the selected study."""
    known, labels = (*metrics.of("edge"), *PROCESS), (*WORKER_LABELS, "edge")
    return _series(name, part, known, labels, (*STUDY, 'role="edge"', 'edge=~"$edge"'), matchers)


def server(name: str, part: str = "", **matchers: str) -> Vector:
    """Series of the servers of the selected study."""
    known = (*metrics.of("server"), *PROCESS)
    return _series(name, part, known, WORKER_LABELS, (*STUDY, 'role="server"'), matchers)


def workers(name: str, part: str = "", **matchers: str) -> Vector:
    """Series of all workers of the selected study, regardless of the selected edges."""
    known = (*metrics.WORKER, *metrics.EDGE, *metrics.SERVER)
    return _series(name, part, known, WORKER_LABELS, STUDY, matchers)


def fleet(name: str, part: str = "", **matchers: str) -> Vector:
    """Series of all selected studies: of their workers, and of the operator about them."""
    studies = ('study_namespace=~"$namespace"', 'study=~"$study"')
    known = (*metrics.WORKER, *metrics.EDGE, *metrics.SERVER, *metrics.OPERATOR)
    metric = _metric(name, known)
    if metric in metrics.OPERATOR:
        scope = studies if "study" in metric.labels else ()
        return _series(name, part, known, (), scope, matchers)
    labels = (*WORKER_LABELS, *(("edge",) if metric in metrics.EDGE else ()))
    return _series(name, part, known, labels, studies, matchers)


def operator(name: str, part: str = "", **matchers: str) -> Vector:
    """Series of the selected operators about themselves."""
    known = (*metrics.OPERATOR, *PROCESS)
    # Exclude workers that are scraped at the same address, through a proxy.
    not_workers = ('study=""',) if name.startswith("process_") else ()
    scope = ('instance=~"$instance"', *not_workers)
    return _series(name, part, known, ("instance",), scope, matchers)


def about_study(name: str, **matchers: str) -> Vector:
    """Series of the operator about the selected study."""
    return _series(name, "", metrics.OPERATOR, (), STUDY, matchers)


def label_values(label: str, name: str, *matchers: str) -> str:
    """Return the query of a variable: the values of a label of a metric."""
    known = (*metrics.WORKER, *metrics.EDGE, *metrics.SERVER, *metrics.OPERATOR)
    selected = f"{{{', '.join(matchers)}}}" if matchers else ""
    return f"label_values({_metric(name, known).exposed}{selected}, {label})"


def _series(
    name: str,
    part: str,
    known: Iterable[Metric],
    labels: tuple[str, ...],
    scope: tuple[str, ...],
    matchers: dict[str, str],
) -> Vector:
    """Make a selector. `part` is `bucket`, `sum` or `count`. A value after `~` is a regex."""
    metric = _metric(name, known)
    if (part in ("bucket", "sum", "count")) != (metric.type is Type.HISTOGRAM):
        raise BadQuery(f"{name} is a {metric.type}: {part or 'no part'} does not fit")
    own = {*labels, *metric.labels}
    wrong = sorted(matchers.keys() - own)
    if wrong:
        raise BadQuery(f"{name} has no label {', '.join(wrong)}")
    _check_values(metric, matchers)
    chosen = [*scope, *(_matcher(label, value) for label, value in matchers.items())]
    suffix = f"_{part}" if part else ""
    selected = f"{{{', '.join(chosen)}}}" if chosen else ""
    return Vector(
        f"{metric.exposed}{suffix}{selected}",
        frozenset(own | ({"le"} if part == "bucket" else set())),
        metric.absent,
        counter=metric.type is not Type.GAUGE,
    )


def _check_values(metric: Metric, matchers: dict[str, str]) -> None:
    """Refuse values that are not in the table, if it lists the values of the label."""
    for label, value in matchers.items():
        if label in metric.labels and metric.values:
            known = {row[metric.labels.index(label)] for row in metric.values}
            wrong = set(value.lstrip("~").split("|")) - known
            if wrong:
                raise BadQuery(f"{metric.name}: {label} is never {', '.join(sorted(wrong))}")


def _metric(name: str, known: Iterable[Metric]) -> Metric:
    found = next((metric for metric in known if metric.name == name), None)
    if found is None:
        raise BadQuery(f"the table has no metric {name} here")
    return found


def _matcher(label: str, value: str) -> str:
    return f'{label}=~"{value[1:]}"' if value.startswith("~") else f'{label}="{value}"'


def _list(labels: Iterable[str]) -> str:
    return ", ".join(labels)
