"""A study whose halves run in PyTorch and in ONNX Runtime, in all combinations."""

import re
from pathlib import Path

import pytest

from splittracr.results import journal
from splittracr.results.environment import read_environment
from tests.cli.processes import ROOT, manifest, splittracr, start
from tests.cli.test_faults import outputs, recorded, server_of, until

ONNX, TORCH = "OnnxRuntime", "Torch"
COMBINATIONS = [(TORCH, TORCH), (TORCH, ONNX), (ONNX, TORCH), (ONNX, ONNX)]

MODULE = """
import torch
from torch import nn
from splittracr.models.registry import register

@register("plain", shape=(3, 32, 32))
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(torch.relu(self.norm(self.conv(x))).mean((2, 3)))
"""


def study(folder: Path, edge: str, server: str, **parts: object) -> Path:
    (folder / "plain_network.py").write_text(MODULE)
    model = {"name": "plain_network:Net", "weights": "none", "exactness": "Bounded"}
    sections = {
        "model": model,
        "partition": {"mode": "Sweep"},
        "edge": {"runtime": edge},
        "server": {"runtime": server},
        "results": {"pictures": 0, "energy": "Off"},
    }
    return manifest(folder, {**sections, **parts})


@pytest.mark.parametrize(("edge", "server"), [(ONNX, ONNX), (ONNX, TORCH), (TORCH, ONNX)])
def test_a_sweep_finishes_and_says_how_exact_each_cut_is(
    tmp_path: Path, edge: str, server: str
) -> None:
    file = study(tmp_path, edge, server)
    done = splittracr("run", str(file), "--out", "out", cwd=tmp_path)
    assert done.code == 0, done.err + done.out
    records = journal.read(tmp_path / "out" / "records.jsonl")
    assert {record.outcome for record in records} == {"ok"}
    ranked = {(r.sample, str(r.prediction)) for r in records if r.cut == "output"}
    assert len(ranked) == 3
    found = read_environment(tmp_path / "out")
    assert found.server is not None
    assert (found.edge.runtime, found.server.runtime) == (edge, server)
    cuts = {cut.name: cut.exactness.value for cut in found.cuts}
    assert len(cuts) == 7
    assert cuts["input"] == ("Exact" if server == TORCH else "Consistent")
    assert cuts["output"] == ("Exact" if edge == TORCH else "Consistent")
    assert cuts["conv"] == "Bounded"
    report = (tmp_path / "out" / "report.html").read_text()
    assert "How exact each cut is" in report
    assert "Not bit-equal to PyTorch." in report


@pytest.mark.parametrize(("edge", "server"), COMBINATIONS)
def test_a_study_adapts(tmp_path: Path, edge: str, server: str) -> None:
    file = study(tmp_path, edge, server, partition={"mode": "Adaptive"})
    done = splittracr("run", str(file), "--out", "out", cwd=tmp_path)
    assert done.code == 0, done.err + done.out
    records = journal.read(tmp_path / "out" / "records.jsonl")
    assert [(record.sample, record.outcome) for record in records] == [(i, "ok") for i in range(3)]
    assert all(record.predicted_ms is not None for record in records)
    found = read_environment(tmp_path / "out")
    assert found.server is not None
    assert (found.edge.runtime, found.server.runtime) == (edge, server)


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("edge", "server"), COMBINATIONS)
def test_the_quickstart_runs(tmp_path: Path, edge: str, server: str) -> None:
    done = splittracr(
        *("run", str(ROOT / "configs" / "quickstart.yaml"), "--out", "out"),
        *("--set", f"spec.edge.runtime={edge}", "--set", f"spec.server.runtime={server}"),
        *("--set", "spec.model.exactness=Bounded"),
        *("--set", "spec.transport.connectTimeoutSeconds=700"),  # trying every cut takes long
        cwd=tmp_path,
        timeout=800,
    )
    assert done.code == 0, done.err + done.out
    records = journal.read(tmp_path / "out" / "records.jsonl")
    assert (len(records), {record.outcome for record in records}) == (80, {"ok"})
    top = {(r.sample, r.prediction[0]["class"]) for r in records if isinstance(r.prediction, list)}
    assert len(top) == 10


@pytest.mark.timeout(300)
def test_a_killed_server_loses_nothing(tmp_path: Path) -> None:
    def sections(samples: int) -> dict[str, object]:
        return {
            "results": {"outputs": "Raw", "pictures": 0, "energy": "Off"},
            "workload": {"samples": samples, "arrival": {"mode": "Closed", "inFlight": 4}},
        }

    calm = splittracr(
        "run", str(study(tmp_path, ONNX, ONNX, **sections(5))), "--out", "calm", cwd=tmp_path
    )
    assert calm.code == 0, calm.err
    expected, out = outputs(tmp_path / "calm"), tmp_path / "out"
    run = start(
        "run", str(study(tmp_path, ONNX, ONNX, **sections(100))), "--out", "out", cwd=tmp_path
    )
    try:
        until(lambda: recorded(out) >= 20, "20 records", run)
        server = server_of(run.pid)
        assert server is not None
        server.kill()
        _, err = run.communicate(timeout=200)
    finally:
        run.kill()
    assert run.returncode == 0, err
    found = outputs(out)
    assert len(found) == len(expected) * 20
    assert all(found[cut, n] == expected[cut, n % 5] for cut, n in found)
    assert any(record.resent for record in journal.read(out / journal.FILE))


@pytest.mark.parametrize(("edge", "server"), [(ONNX, ONNX), (TORCH, ONNX)])
@pytest.mark.parametrize("cuts", [[], ["input"]])
def test_a_sweep_names_the_cuts_that_it_leaves_out(
    tmp_path: Path, edge: str, server: str, cuts: list[str]
) -> None:
    file = study(tmp_path, edge, server, partition={"mode": "Sweep", "cuts": cuts})
    demand = ("--set", "spec.model.exactness=Consistent")
    done = splittracr("run", str(file), *demand, "--out", "out", cwd=tmp_path)
    assert done.code == 0, done.err
    refused = read_environment(tmp_path / "out").refused
    assert "it is Bounded" in refused["conv"]
    line = f"{len(refused)} cut{'s' if len(refused) > 1 else ''} left out. Not proven exact, or "
    assert (line in done.out) == (not cuts)
    assert "below spec.model.exactness: conv" in (tmp_path / "out/report.html").read_text()


def test_a_cut_below_the_demand_is_refused_by_name_at_the_edge(tmp_path: Path) -> None:
    parts = {"partition": {"mode": "Static", "cut": "conv"}}
    file = study(tmp_path, TORCH, ONNX, **parts)
    done = splittracr(
        "run", str(file), "--set", "spec.model.exactness=Consistent", "--out", "out", cwd=tmp_path
    )
    assert done.code == 1
    assert "the server refuses cut conv: it is Bounded (largest relative error" in done.err
    assert "the manifest demands Consistent" in done.err


def test_the_default_demand_is_exact(tmp_path: Path) -> None:
    file = study(tmp_path, ONNX, ONNX)
    done = splittracr(
        "run", str(file), "--set", "spec.model.exactness=Exact", "--out", "out", cwd=tmp_path
    )
    assert done.code == 2
    assert "spec.model.exactness: got 'Exact', expected Consistent or Bounded:" in done.err


def test_cuts_and_profile_take_a_runtime(tmp_path: Path) -> None:
    study(tmp_path, ONNX, ONNX)
    listed = splittracr("cuts", "plain_network:Net", "--runtime", ONNX, cwd=tmp_path)
    assert listed.code == 0, listed.err
    assert "0 proven exact" in listed.out
    assert "Consistent" in listed.out
    narrow = splittracr(
        "cuts", "plain_network:Net", "--runtime", ONNX, cwd=tmp_path, COLUMNS="80"
    ).out
    assert "…" not in narrow
    figures = [
        sorted(re.findall(r"Consistent|Bounded|\S+e-\d+|\d+×\S+", out))
        for out in (narrow, listed.out)
    ]
    assert figures[0] == figures[1]
    assert len(figures[0]) > 14  # of seven cuts
    made = splittracr(
        *("profile", "plain_network:Net", "--weights", "none", "--runtime", ONNX),
        *("--out", "edge.json"),
        cwd=tmp_path,
    )
    assert made.code == 0, made.err
    assert "1 thread, OnnxRuntime" in made.out
    planned = splittracr("plan", "edge.json", cwd=tmp_path)
    assert planned.code == 0, planned.err
    table = splittracr(
        *("profile", "plain_network:Net", "--runtime", ONNX, "--per", "layer"), cwd=tmp_path
    )
    assert table.code == 2
    assert "--per: got 'layer', expected nothing with --runtime OnnxRuntime" in table.err
