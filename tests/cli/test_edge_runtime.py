"""The runtime of an edge is refused before anything is built or downloaded."""

from typing import Any

import pytest

from splittracr.backends import registry
from splittracr.cli import inputs
from splittracr.experiment import manifest
from splittracr.experiment.errors import InvalidInput
from tests.experiment.studies import study

CASCADE = {"model": {"name": "alexnet"}, "statistic": "Margin", "thresholdPerMillion": 1}


@pytest.mark.parametrize(
    "partition",
    [
        {"mode": "Cascade", "cut": 1, "cascade": CASCADE},
        {"mode": "Adaptive", "cascade": CASCADE},
        {"mode": "Cascade", "cut": "input", "cascade": CASCADE | {"statistic": "MeanScore"}},
    ],
)
def test_a_cascade_needs_pytorch_on_the_edge(
    monkeypatch: pytest.MonkeyPatch, partition: dict[str, Any]
) -> None:
    monkeypatch.setattr(registry, "has_torch", lambda: False)
    experiment = manifest.from_object(study(partition=partition, edge={"runtime": "OnnxRuntime"}))
    expected = "spec.edge.runtime: got 'OnnxRuntime', expected an edge with PyTorch: a cascade"
    with pytest.raises(InvalidInput, match=expected):
        inputs.edge_runtime(experiment)


def test_a_study_without_a_cascade_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "has_torch", lambda: False)
    experiment = manifest.from_object(study(edge={"runtime": "OnnxRuntime"}))
    assert inputs.edge_runtime(experiment) is registry.load_edge(experiment.spec.edge.runtime)
