"""Fingerprints tell networks and weights apart, and nothing else."""

import torch
from torch import nn

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
