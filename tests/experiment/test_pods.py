from decimal import Decimal

import pytest

from splittracr.experiment import document, manifest
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.pods import Quantity, amount
from tests.experiment.apiserver import Refused, admit
from tests.experiment.definition import SCHEMA

STUDY = """
kind: SplitExperiment
apiVersion: splittracr.io/v1alpha1
metadata: {name: study}
spec:
  model: {name: alexnet}
  partition: {cut: 5}
  edge: {pod: {resources: %s}}
"""


@pytest.mark.parametrize(
    ("quantity", "value"),
    [
        (3, Decimal(3)),
        ("0", Decimal(0)),
        ("250m", Decimal("0.25")),
        ("1.5Gi", Decimal(3 * 2**29)),
        ("2k", Decimal(2000)),
        ("1E", Decimal(10**18)),
        ("1Ei", Decimal(2**60)),
        ("+1", Decimal(1)),
        (".5", Decimal("0.5")),
        ("5.", Decimal(5)),
        ("1e3", Decimal(1000)),
        ("1E2", Decimal(100)),
        ("1.5e-3", Decimal("0.0015")),
        ("7u", Decimal("0.000007")),
        ("7n", Decimal("0.000000007")),
    ],
)
def test_amounts(quantity: Quantity, value: Decimal) -> None:
    assert amount(quantity) == value


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("0.5", "0.5"),
        (".25", "0.25"),
        ("1.0", 1),
        ("1.5e9", 1_500_000_000),
        ("2", 2),
        ("0.0005", "0.0005"),
        ("1e-9", "1e-09"),
        ("123.5e10", 1_235_000_000_000),
        ("'0.5'", "0.5"),
        ("'1e3'", "1e3"),
        ("500m", "500m"),
        ("1.5Gi", "1.5Gi"),
    ],
)
@pytest.mark.parametrize("key", ["cpu", "memory", "ephemeral-storage", "example.com/part"])
@pytest.mark.parametrize("kind", ["limits", "requests"])
def test_quantities_are_read_as_kubernetes_reads_them(
    written: str, read: object, key: str, kind: str
) -> None:
    text = STUDY % f"{{{kind}: {{{key}: {written}}}}}"
    pod = manifest.parse(text).spec.edge.pod
    assert getattr(pod.resources, kind) == {key: read}
    admit(next(document.load(text)), SCHEMA)


@pytest.mark.parametrize(
    "written", ["-0.5", "-1", "true", "false", "{}", "[]", "[1]", "{a: 1}", "1x", "''", "1e"]
)
def test_other_values_are_no_quantities(written: str) -> None:
    text = STUDY % f"{{limits: {{cpu: {written}}}}}"
    with pytest.raises(InvalidInput, match=r"limits\.cpu"):
        manifest.parse(text)
    with pytest.raises(Refused, match=r"limits.*cpu"):
        admit(next(document.load(text)), SCHEMA)


@pytest.mark.parametrize("written", ["null", "~", ""])
@pytest.mark.parametrize("kind", ["limits", "requests"])
def test_a_quantity_without_a_value_is_left_out(written: str, kind: str) -> None:
    text = STUDY % f"{{{kind}: {{cpu: {written}, memory: 1Gi}}}}"
    pod = manifest.parse(text).spec.edge.pod
    assert getattr(pod.resources, kind) == {"memory": "1Gi"}
    stored = admit(next(document.load(text)), SCHEMA)
    assert manifest.from_object(stored) == manifest.parse(text)
