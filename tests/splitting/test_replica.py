"""A replica's identity says what both ends share; a bad network is the user's error."""

import dataclasses

import pytest
import torch

from splittracr.experiment.errors import InvalidInput
from splittracr.replica import assemble, proven
from tests.workers.pair import replica, spec


def settings(**parts: object) -> str:
    return replica(spec(**parts)).identity.settings


@pytest.mark.parametrize(
    "parts",
    [
        {"postprocess": {"topK": 3}},
        {"model": {"name": "small", "inputSize": [32, 32]}},
        {"model": {"name": "small", "args": {"width": 2}}},
    ],
)
def test_settings_that_change_results_are_in_the_identity(parts: dict[str, object]) -> None:
    assert settings() == settings() != settings(**parts)


def test_where_a_machine_keeps_its_weights_is_not() -> None:
    here, there = ({"model": {"name": "small", "weightsFile": f}} for f in ("a.pt", "b/c.pt"))
    assert settings(**here) == settings(**there)


def test_class_names_are() -> None:
    one = replica(spec())
    named = dataclasses.replace(one.network, classes=tuple("abcdefghij"))
    assert assemble(named, spec(), one.device).identity.settings != one.identity.settings


def test_a_shape_that_does_not_fit_is_named() -> None:
    network = dataclasses.replace(replica(spec()).network, shape=(3, 9, 9))
    expected = r"spec\.model\.name: got 'small', expected .* input \[2, 3, 9, 9\] \(RuntimeError: "
    with pytest.raises(InvalidInput, match=expected):
        proven(network, 2, torch.device("cpu"))
