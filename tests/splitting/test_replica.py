"""A replica's identity says what both ends share; a bad network is the user's error."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from splittracr.experiment.errors import FrameFailed, InvalidInput
from splittracr.replica import assemble, proven
from splittracr.wire.identity import difference
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


def test_the_setting_that_differs_is_named_with_both_values() -> None:
    one, other = replica(spec()), replica(spec(postprocess={"topK": 3}))
    assert difference(one.identity, other.identity) == (
        "spec.postprocess.topK: the edge has 5, the server 3"
    )


def test_an_identity_fits_a_message_whatever_the_manifest_holds() -> None:
    long = {"model": {"name": "x" * 253, "args": {"a" * 99: ["b" * 9999] * 99}}}
    assert len(replica(spec(**long)).identity.settings) < 4096


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["classification", "semantic-segmentation", "raw"])
def test_an_output_that_is_not_finite_is_no_prediction(
    name: str, dtype: torch.dtype, wrong: float
) -> None:
    one = replica(spec(postprocess={"name": name}))
    output = torch.zeros(1, 10, 3, 3, dtype=dtype)
    assert len(one.reduce((output, {"aux": torch.zeros(1, 0), "n": torch.tensor([3])}))) == 1
    output[0, 4, 1, 2] = wrong
    with pytest.raises(FrameFailed, match="the network's output is not finite"):
        one.reduce((output, {"aux": torch.zeros(1, 0), "n": torch.tensor([3])}))


def test_a_shape_that_does_not_fit_is_named() -> None:
    network = dataclasses.replace(replica(spec()).network, shape=(3, 9, 9))
    expected = r"spec\.model\.name: got 'small', expected .* input \[2, 3, 9, 9\] \(RuntimeError: "
    with pytest.raises(InvalidInput, match=expected):
        proven(network, 2, torch.device("cpu"))


class Listed(nn.Module):
    """Returns a list of batches, `parts` of them; the mean of a picture comes first in each."""

    def __init__(self, parts: int) -> None:
        super().__init__()
        self.parts = parts

    def forward(self, x: Tensor) -> list[Tensor]:
        means = x.float().mean((2, 3))
        return [means + i for i in range(self.parts)]


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("parts", [2, 3])
def test_raw_lists_of_outputs_are_not_lists_of_pictures(batch: int, parts: int) -> None:
    of = spec(workload={"batchSize": batch}, postprocess={"name": "raw"})
    network = dataclasses.replace(replica(spec()).network, module=Listed(parts))
    own = assemble(network, of, torch.device("cpu"))
    pictures = torch.arange(batch, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 8, 8)
    reduced = own.reduce(own.tail(0, own.head(0, pictures)))
    assert len(reduced) == batch
    for i, one in enumerate(reduced):
        assert [one[f"{k}:first"][0] for k in range(parts)] == [i + k for k in range(parts)]
