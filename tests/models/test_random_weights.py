import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from splittracr.models.random_weights import WithoutRandomInit, randomise
from splittracr.splitting.fingerprint import weights_digest
from tests.models.helpers import build

_DIGEST = """
import torch
from torch import nn
from splittracr.models.random_weights import randomise
from splittracr.splitting.fingerprint import weights_digest
net = nn.Sequential(nn.Conv2d(3, 70, 5), nn.BatchNorm2d(70), nn.Flatten(), nn.Linear(1000, 301))
randomise(net, 5)
print(torch.backends.cpu.get_cpu_capability(), weights_digest(net))
"""


def _linear(seed: int = 0) -> nn.Linear:
    net = nn.Linear(12, 40)
    randomise(net, seed)
    return net


def test_known_values() -> None:
    # Any other machine has to find the same: the digest of these bytes is the contract.
    raw = _linear().weight.numpy().tobytes()
    assert hashlib.sha256(raw).hexdigest()[:16] == "afb32e01bcc6af29"


@pytest.mark.parametrize("capability", ["default", "avx2"])
def test_digest_is_the_same_on_other_instruction_sets(capability: str) -> None:
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
    command = [sys.executable, "-c", _DIGEST]
    there = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    net = nn.Sequential(nn.Conv2d(3, 70, 5), nn.BatchNorm2d(70), nn.Flatten(), nn.Linear(1000, 301))
    randomise(net, 5)
    assert there.stdout.split()[-1] == weights_digest(net)
    if capability == "default":
        assert there.stdout.startswith("DEFAULT")


def test_depends_on_seed_and_name_only() -> None:
    assert torch.equal(_linear(3).weight, _linear(3).weight)
    assert not torch.equal(_linear(3).weight, _linear(4).weight)
    alone = nn.ModuleDict({"b": nn.Linear(9, 9)})
    among = nn.ModuleDict({"a": nn.Linear(9, 9), "b": nn.Linear(9, 9)})
    randomise(alone, 0)
    randomise(among, 0)
    assert torch.equal(alone.state_dict()["b.weight"], among.state_dict()["b.weight"])
    assert not torch.equal(among.state_dict()["a.weight"], among.state_dict()["b.weight"])


def test_ranges() -> None:
    conv, norm = nn.Conv2d(8, 64, 3), nn.BatchNorm2d(64)
    randomise(conv, 0)
    randomise(norm, 0)
    bound = float(np.sqrt(6 / 72))
    assert bound * 0.98 < conv.weight.max() <= bound
    assert abs(conv.weight.mean()) < bound / 50
    assert conv.weight.std() == pytest.approx(bound / np.sqrt(3), rel=0.03)
    assert conv.bias is not None
    assert 0 < conv.bias.abs().max() <= 0.01
    assert 0.9 <= norm.weight.min() < norm.weight.max() <= 1.1
    assert norm.running_var is not None
    assert torch.equal(norm.running_var, torch.ones(64))


def test_blocks_do_not_change_the_stream() -> None:
    # 70,000 weights cross the boundary of a block; the first ones are those of a short tensor.
    long, short = nn.Linear(100, 700, bias=False), nn.Linear(100, 7, bias=False)
    randomise(long, 0)
    randomise(short, 0)
    assert torch.equal(long.weight[:7], short.weight)
    assert len(set(long.weight.flatten().tolist())) > 30_000


def test_keeps_what_it_is_told_to_keep() -> None:
    net = nn.Linear(3, 3)
    before = net.bias.clone()
    randomise(net, 0, keep=lambda name: name == "bias")
    assert torch.equal(net.bias, before)


def test_zero_heads_become_alive() -> None:
    network = build(name="vit_b_32", weights="none", input_size=(64, 64))
    draw = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (2, *network.shape), dtype=torch.uint8, generator=draw)
    first, second = network.module(pictures)
    assert first.std() > 0.1
    assert (first - second).std() > 0.1


def test_building_without_random_init() -> None:
    with WithoutRandomInit():
        layer = nn.Conv2d(3, 8, 3)
        norm = nn.BatchNorm2d(8)
        truncated = nn.init.trunc_normal_(torch.ones(4))
    assert not layer.weight.any()
    assert not truncated.any()
    assert torch.equal(norm.weight, torch.ones(8))
    assert nn.Conv2d(3, 8, 3).weight.any()
