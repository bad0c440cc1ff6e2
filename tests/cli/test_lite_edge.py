"""An edge without PyTorch: only the packages of the extra `edge-lite` can be imported in its
process, and the server hands over the model.
"""

import contextlib
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from splittracr.results import journal
from splittracr.results.environment import read_environment
from tests.cli.processes import ROOT, Finished, environment, event, splittracr, start
from tests.cli.test_runtimes import ONNX, TORCH, study

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def required(requirements: list[str]) -> set[str]:
    """The distributions that requirements name."""
    return {re.split(r"[^\w.-]", one)[0] for one in requirements}


def absent() -> set[str]:
    """Top-level modules of what other extras name and `edge-lite` does not."""
    extras = PROJECT["optional-dependencies"]
    kept = required(PROJECT["dependencies"]) | required(extras["edge-lite"])
    others = {name for extra in extras.values() for name in required(extra)} - kept
    modules = importlib.metadata.packages_distributions()
    return {module for module, of in modules.items() if others & {name.lower() for name in of}}


BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in %r:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
"""


OWN = """
class Own:
    def __init__(self, spec, classes):
        pass

    def reduce(self, output):
        return [{"best": row.argmax()} for row in output]

    def describe(self, reduced, geometry):
        return int(reduced["best"])

    def draw(self, picture, reduced, geometry):
        return picture

    def ranking(self, reduced):
        return None
"""


@pytest.fixture
def lite(tmp_path: Path) -> dict[str, str]:
    """Variables of a process that lacks what an edge without PyTorch lacks."""
    folder = tmp_path / "blocked"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(BLOCKED % absent())
    return {
        "PYTHONPATH": f"{folder}:{environment()['PYTHONPATH']}",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "TORCH_HOME": "",
    }


@contextlib.contextmanager
def serving(file: Path) -> Iterator[str]:
    """A server of the study; yields the URL of its session."""
    server = start("server", str(file), "--set", "spec.transport.security=Plain", cwd=file.parent)
    try:
        event(server.stdout, "metrics")
        yield event(server.stdout, "serving")["url"]
    finally:
        server.terminate()
        server.communicate(timeout=100)


def edge(file: Path, url: str, out: str, lite: dict[str, str], *options: str) -> Finished:
    plain = ("--set", "spec.transport.security=Plain")
    words = ("edge", str(file), "--server", url, "--out", out, *plain, *options)
    return splittracr(*words, cwd=file.parent, timeout=280, **lite)


def test_torch_cannot_be_imported_there(tmp_path: Path, lite: dict[str, str]) -> None:
    done = splittracr("models", cwd=tmp_path, timeout=280, **lite)
    assert "there is no torch" in done.err.replace("\n", " ")


@pytest.mark.parametrize(
    "words",
    [
        ("cuts", "vgg16", "--runtime", ONNX),
        ("profile", "vgg16", "--runtime", ONNX, "--weights", "none", "--out", "x.json"),
        ("export", "study.yaml", "--out", "model"),
        ("plan", "study.yaml"),
        ("exits", "train", "study.yaml", "--at", "conv", "--out", "x.safetensors"),
        ("calibrate", "study.yaml", "--small", "vgg16", "--max-kilobytes", "9"),
        ("server", "study.yaml", "--set", "spec.transport.security=Plain"),
    ],
)
def test_a_command_that_needs_torch_says_so(
    tmp_path: Path, lite: dict[str, str], words: tuple[str, ...]
) -> None:
    study(tmp_path, ONNX, ONNX, partition={"mode": "ServerOnly"})
    done = splittracr(*words, cwd=tmp_path, timeout=280, **lite)
    assert done.code == 1
    found = " ".join(done.err.split())
    assert "pip install 'splittracr[workers]' (there is no torch)" in found
    assert not list(tmp_path.glob("x.*"))


@pytest.mark.parametrize("server", [TORCH, ONNX])
def test_a_sweep_finishes_at_every_cut(tmp_path: Path, lite: dict[str, str], server: str) -> None:
    file = study(tmp_path, ONNX, server)
    with serving(file) as url:
        done = edge(file, url, "out", lite)
        assert done.code == 0, done.err
        again = edge(file, url, "again", lite)
    assert again.code == 0, again.err
    records = journal.read(tmp_path / "out" / "records.jsonl")
    assert {record.outcome for record in records} == {"ok"}
    found = read_environment(tmp_path / "out")
    cuts = {cut.name: cut.exactness.value for cut in found.cuts}
    assert {"input", "mean", "output"} <= {record.cut for record in records}
    assert len(cuts) == 7
    assert cuts["input"] == ("Exact" if server == TORCH else "Consistent")
    assert cuts["output"] == "Consistent"
    assert len({(r.sample, str(r.prediction)) for r in records}) == 3
    same = {(r.cut, r.sample): r.prediction for r in journal.read(tmp_path / "again/records.jsonl")}
    # ONNX Runtime keeps the identity for its telemetry there.
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["splittracr"]
    assert same == {(r.cut, r.sample): r.prediction for r in records}


def test_it_predicts_what_an_edge_with_torch_predicts(tmp_path: Path, lite: dict[str, str]) -> None:
    parts = {"postprocess": {"name": "classification"}}
    file = study(tmp_path, ONNX, ONNX, **parts)
    with serving(file) as url:
        assert edge(file, url, "lite", lite).code == 0
        assert edge(file, url, "full", {}).code == 0
    made = [
        [(r.cut, r.sample, r.prediction) for r in journal.read(tmp_path / out / "records.jsonl")]
        for out in ("lite", "full")
    ]
    assert sorted(map(str, made[0])) == sorted(map(str, made[1]))


def test_it_adapts(tmp_path: Path, lite: dict[str, str]) -> None:
    file = study(tmp_path, ONNX, TORCH, partition={"mode": "Adaptive"})
    with serving(file) as url:
        done = edge(file, url, "out", lite)
    assert done.code == 0, done.err
    records = journal.read(tmp_path / "out" / "records.jsonl")
    assert {record.outcome for record in records} == {"ok"}
    assert all(record.predicted_ms is not None for record in records)


def test_a_changed_file_is_named_and_fetched_again(tmp_path: Path, lite: dict[str, str]) -> None:
    file = study(tmp_path, ONNX, TORCH, partition={"mode": "Static", "cut": "conv"})
    with serving(file) as url:
        assert edge(file, url, "out", lite).code == 0
        (graph,) = (tmp_path / "cache").rglob("graph.onnx")
        content = graph.read_bytes()
        graph.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        done = edge(file, url, "again", lite)
    assert done.code == 0, done.err
    assert "graph.onnx was changed on disk and is fetched again" in done.err
    assert graph.read_bytes() == content


def test_without_a_server_it_takes_an_exported_model(tmp_path: Path, lite: dict[str, str]) -> None:
    file = study(tmp_path, ONNX, ONNX, partition={"mode": "EdgeOnly"})
    refused = splittracr("edge", str(file), "--out", "none", cwd=tmp_path, timeout=280, **lite)
    assert refused.code == 2
    assert "modelPath: got nothing, expected a folder of `splittracr export`" in refused.err
    done = splittracr("export", str(file), "--out", "model", cwd=tmp_path)
    assert done.code == 0, done.err
    path = ("--set", "spec.edge.modelPath=model")
    done = splittracr("edge", str(file), "--out", "out", *path, cwd=tmp_path, timeout=280, **lite)
    assert done.code == 0, done.err
    records = journal.read(tmp_path / "out" / "records.jsonl")
    assert [record.outcome for record in records] == ["ok"] * 3

    other_seed = ("--set", "spec.model.seed=7", "--out", "o", *path)
    other = splittracr("edge", str(file), *other_seed, cwd=tmp_path, timeout=280, **lite)
    assert other.code == 2
    words = "spec.model.seed: got 7, expected 0, as in the exported model"
    assert words in other.err.replace("\n", " ")
    assert not (tmp_path / "o").exists()

    described = json.loads((tmp_path / "model" / "model.json").read_text())
    (tmp_path / "model" / "model.json").write_text(json.dumps({**described, "runtime": "1.0"}))
    other = splittracr("edge", str(file), "--out", "o", *path, cwd=tmp_path, timeout=280, **lite)
    assert other.code == 2
    assert "expected version 1.0, by which the server has proven the cuts" in other.err
    (tmp_path / "model" / "graph.onnx").write_bytes(b"x")
    changed = splittracr("edge", str(file), "--out", "o", *path, cwd=tmp_path, timeout=280, **lite)
    assert changed.code == 2
    assert "graph.onnx has 1 bytes, not" in changed.err


def test_a_weights_file_is_at_the_server_only(tmp_path: Path, lite: dict[str, str]) -> None:
    there, here = tmp_path / "server", tmp_path / "edge"
    there.mkdir()
    here.mkdir()
    model = {"name": "plain_network:Net", "weightsFile": "w.pt", "exactness": "Bounded"}
    file = study(there, ONNX, TORCH, model=model)
    save = "import plain_network, torch; torch.save(plain_network.Net().state_dict(), 'w.pt')"
    subprocess.run([sys.executable, "-c", save], cwd=there, env=environment(), check=True)
    (here / "study.yaml").write_text(file.read_text())
    with serving(file) as url:
        done = edge(here / "study.yaml", url, "out", lite)
    assert done.code == 0, done.err
    assert read_environment(here / "out").weights == "file w.pt"


def test_a_model_that_onnx_does_not_know_is_refused_in_the_servers_words(
    tmp_path: Path, lite: dict[str, str]
) -> None:
    file = study(tmp_path, ONNX, TORCH)
    (tmp_path / "plain_network.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        return torch.linalg.svdvals(x.mean(1))\n"
    )
    with serving(file) as url:
        done = edge(file, url, "out", lite)
    assert done.code == 2
    assert "expected a model that an edge without PyTorch can run" in done.err
    assert "ONNX does not express plain_network:Net" in done.err


def test_the_runtime_torch_is_refused_by_name(tmp_path: Path, lite: dict[str, str]) -> None:
    done = edge(study(tmp_path, TORCH, TORCH), "ws://127.0.0.1:9/v1/session", "out", lite)
    assert done.code == 2
    assert "spec.edge.runtime: got 'Torch', expected OnnxRuntime, or an edge with" in done.err


def test_a_missing_package_is_named(tmp_path: Path, lite: dict[str, str]) -> None:
    blocked = tmp_path / "blocked" / "sitecustomize.py"
    blocked.write_text(BLOCKED % {*absent(), "onnx"})
    done = edge(study(tmp_path, ONNX, TORCH), "ws://127.0.0.1:9/v1/session", "out", lite)
    assert done.code == 2
    assert "there is no onnx (pip install 'splittracr[edge-lite]')" in done.err


def test_a_package_for_another_processor_is_named(tmp_path: Path, lite: dict[str, str]) -> None:
    """A wheel with instructions that this processor lacks ends its process without a word."""
    (tmp_path / "blocked" / "onnxruntime.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n"
    )
    file = study(tmp_path, ONNX, TORCH)
    done = edge(file, "ws://127.0.0.1:9/v1/session", "out", lite)
    assert done.code == 2
    assert "spec.edge.runtime: got 'OnnxRuntime'" in done.err
    assert "`import onnxruntime` is ended by SIGILL" in done.err


def test_a_post_processor_of_torch_is_refused_by_name(tmp_path: Path, lite: dict[str, str]) -> None:
    (tmp_path / "own_reduction.py").write_text(OWN)
    file = study(tmp_path, ONNX, TORCH, postprocess={"name": "own_reduction:Own"})
    with serving(file) as url:
        done = edge(file, url, "out", lite)
    assert done.code == 2
    assert "spec.postprocess.name: got 'own_reduction:Own', expected one of" in done.err
    assert "on an edge without PyTorch" in done.err


def test_an_export_needs_the_runtime(tmp_path: Path) -> None:
    file = study(tmp_path, TORCH, TORCH)
    done = splittracr("export", str(file), "--out", "model", cwd=tmp_path)
    assert done.code == 2
    assert "spec.edge.runtime: got 'Torch', expected OnnxRuntime" in done.err
    assert not (tmp_path / "model").exists()
