"""Edge and server as processes: copies of a module that differ, and processors that differ."""

from pathlib import Path

import pytest
import yaml

from splittracr.results.environment import read_environment
from tests.cli.processes import event, splittracr, start

MODULE = """
import torch
from torch import nn
from splittracr.models.registry import register

FACTOR = @

class Part(nn.Module):
    def forward(self, x):
        return x * FACTOR

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.part, self.fc = nn.Conv2d(3, 8, 5), Part(), nn.Linear(8, 10)

    def forward(self, x):
        return self.fc(torch.relu(self.part(self.first(x))).mean((2, 3)))

register("shared", shape=(3, 32, 32), leaves=(Part,))(Net)
"""


def folder(path: Path, factor: int) -> Path:
    """A user's folder: the module and a manifest that names it."""
    path.mkdir()
    (path / "shared_network.py").write_text(MODULE.replace("@", str(factor)))
    # Weights that do not depend on the instruction set, as torch's own random numbers do.
    spec = {
        "model": {"name": "shared_network:Net", "weights": "none"},
        "partition": {"mode": "Static", "cut": "part"},
        "transport": {"security": "Plain", "connectTimeoutSeconds": 60},
        "workload": {"samples": 2},
        "server": {"host": "127.0.0.1", "port": 0, "metricsPort": 0},
        "edge": {"host": "127.0.0.1", "metricsPort": 0},
    }
    document = {
        "apiVersion": "splittracr.io/v1alpha1",
        "kind": "SplitExperiment",
        "metadata": {"name": "study"},
        "spec": spec,
    }
    (path / "study.yaml").write_text(yaml.safe_dump(document))
    return path


@pytest.mark.parametrize("capability", ["default", None])
def test_both_ends_compute_the_same_or_do_not_start(tmp_path: Path, capability: str | None) -> None:
    there, same, other = (folder(tmp_path / n, f) for n, f in (("a", 2), ("b", 2), ("c", 3)))
    extra = {} if capability is None else {"ATEN_CPU_CAPABILITY": capability}
    server = start("server", "study.yaml", cwd=there, **extra)
    try:
        url = event(server.stdout, "serving")["url"]
        done = splittracr("edge", "study.yaml", "--out", "out", "--server", url, cwd=same)
        assert done.code == 0, done.err
        refused = splittracr("edge", "study.yaml", "--out", "out", "--server", url, cwd=other)
    finally:
        server.terminate()
        server.communicate(timeout=100)
    environment = read_environment(same / "out")
    assert environment.server is not None
    equal = environment.edge.capability == environment.server.capability
    assert equal is (capability is None or environment.edge.capability == "DEFAULT")
    assert refused.code == 1
    assert "differ in operation part (shared_network.Part), computed from the same" in refused.err
    assert "; source file shared_network.py: the edge has 'sha256:" in refused.err
    assert not (other / "out").exists()
