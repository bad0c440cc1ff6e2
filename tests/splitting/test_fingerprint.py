"""Fingerprints tell networks and weights apart, and nothing else."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from splittracr.splitting.canonical import canonical
from splittracr.splitting.capture import capture
from splittracr.splitting.fingerprint import graph_fingerprint, weights_digest
from tests.splitting.networks import Residual


def network(kernel: int = 3, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, kernel), nn.ReLU()).eval()


def fingerprint(module: nn.Module) -> str:
    return graph_fingerprint(capture(module, torch.rand(1, 3, 8, 8)))


def test_the_graph_and_its_settings_make_the_fingerprint() -> None:
    assert fingerprint(network()) == fingerprint(network(seed=1))
    assert fingerprint(network()) != fingerprint(network(kernel=5))
    assert fingerprint(network()) != fingerprint(Residual().eval())


def test_one_changed_bit_changes_the_digest() -> None:
    module = network()
    before = weights_digest(module)
    assert before == weights_digest(network())
    weight = module.get_parameter("0.weight")
    with torch.no_grad():
        weight.view(torch.int32)[0, 0, 0, 0] ^= 1
    assert weights_digest(module) != before


def test_buffers_that_are_not_saved_count_too() -> None:
    module = network()
    before = weights_digest(module)
    module.register_buffer("scale", torch.ones(1), persistent=False)
    assert weights_digest(module) != before


class Constants(nn.Module):
    """Constants in each place where the generated source does not spell them out."""

    def __init__(
        self,
        factor: float = 0.1,
        dtype: torch.dtype = torch.float32,
        offset: float = 1.0,
        returned: float = 1.0,
        registered: float = 1.0,
    ) -> None:
        super().__init__()
        self.factor, self.dtype, self.returned = factor, dtype, returned
        self.offset = torch.tensor([offset])
        self.scale: Tensor
        self.register_buffer("scale", torch.tensor([registered]))

    def forward(self, x: Tensor) -> tuple[Tensor, float]:
        return (x * self.factor).to(self.dtype) * self.scale + self.offset, self.returned


class Leaf(nn.Module):
    """One operation with settings of its own, and in its parts."""

    def __init__(self, limits: object = (1, 2.0), eps: float = 1e-5) -> None:
        super().__init__()
        self.limits = limits
        self.part = nn.LayerNorm(8, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.part(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "other",
    [
        Constants(factor=0.2),
        Constants(dtype=torch.float64),
        Constants(offset=2.0),
        Constants(returned=2.0),
    ],
)
def test_constants_make_the_fingerprint(other: nn.Module) -> None:
    assert fingerprint(Constants().eval()) == fingerprint(Constants().eval())
    assert fingerprint(Constants().eval()) != fingerprint(other.eval())


def test_buffers_are_left_to_the_weights() -> None:
    assert fingerprint(Constants().eval()) == fingerprint(Constants(registered=2.0).eval())


@pytest.mark.parametrize("other", [Leaf((1, 3.0)), Leaf({"a": [1]}), Leaf(eps=1e-3)])
def test_a_leafs_settings_make_the_fingerprint(other: nn.Module) -> None:
    def of(leaf: nn.Module) -> str:
        module = nn.Sequential(leaf, nn.ReLU()).eval()
        return graph_fingerprint(capture(module, torch.rand(1, 3, 8, 8), [Leaf]))

    assert of(Leaf()) == of(Leaf())
    assert of(Leaf()) != of(other)


class Colour(Enum):
    """An enum."""

    RED = 1
    BLUE = 2


DIFFERENT: Sequence[object] = [
    *(0.1, -0.0, 0.0, 1, True, None, "a", b"a", 1j, (1, 2), [1, 2], {"a": 1}, {"a": 2}, {1, 2}),
    *(slice(1), slice(0, 1), range(2), Colour.RED, Colour.BLUE, torch.float32, torch.float64),
    *(torch.Size([1, 2]), torch.device("cpu"), torch.relu, torch.tanh, Callable, Colour),
    *(partial(round, 1), partial(round, 2), torch.channels_last, torch.strided),
    *(torch.ones(1), torch.zeros(1), torch.ops.aten.add.Tensor, torch.ops.aten.add.Scalar),
    *(object(), network(), network(5), lambda: 0),
]


def test_the_canonical_text_tells_constants_apart_and_has_no_address() -> None:
    texts = [canonical(value) for value in DIFFERENT]
    assert len(set(texts)) == len(texts)
    assert not [text for text in texts if " at 0x" in text]
    assert canonical(torch.device("cpu")) == canonical(torch.device("cuda", 1))


def test_another_process_finds_the_same_fingerprint() -> None:
    code = (
        "from tests.splitting.test_fingerprint import *\n"
        "print(fingerprint(Constants().eval()), canonical({'a', 'b', 'c'}), canonical(Leaf()))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()
    here = f"{fingerprint(Constants().eval())} {canonical({'a', 'b', 'c'})} {canonical(Leaf())}"
    assert found == here
