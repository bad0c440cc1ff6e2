"""An exported model on arrays computes what the same model computes with PyTorch beside it."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from splittracr.backends import registry
from splittracr.backends.exported import GRAPH, INDEX, OUTPUTS, WEIGHTS
from splittracr.backends.onnx import array_digest, lite
from splittracr.backends.onnx import build as with_torch
from splittracr.backends.onnx.lite_network import LiteNetwork
from splittracr.backends.protocol import Backend
from splittracr.data import datasets
from splittracr.data.contracts import Geometry
from splittracr.experiment.errors import CutRefused, InvalidInput, SplittracrError
from splittracr.experiment.spec import DatasetSpec, ExperimentSpec
from splittracr.experiment.types import Exactness
from splittracr.splitting.behaviour import part_digest
from splittracr.wire.identity import difference

NETWORK = """
import torch
from torch import nn
from splittracr.models.registry import register

@register("lite", shape=(3, 32, 32), postprocessor="classification")
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 24, 3, padding=1), nn.Conv2d(24, 24, 3, padding=1)
        self.norm, self.fc = nn.BatchNorm2d(24), nn.Linear(24, 9)

    def forward(self, x):
        x = self.one(x)
        a, b = torch.relu(self.norm(self.two(x))).chunk(2, 1)
        return self.fc(torch.cat([a + 1, b], 1).mean((2, 3))), x.shape[0]
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the network's module."""
    made = tmp_path_factory.mktemp("lite")
    (made / "lite_network_of_test.py").write_text(NETWORK)
    return made


@pytest.fixture(scope="module")
def own_modules(source: Path) -> Iterator[None]:
    """The network's module can be imported."""
    sys.path.insert(0, str(source))
    yield
    sys.path.remove(str(source))


@pytest.fixture(scope="module")
def folder(source: Path, own_modules: None) -> Path:
    """The same folder with the exported model in `model`."""
    registry.exporter()(spec(), source, source / "model")
    return source


def spec(**parts: Any) -> ExperimentSpec:
    model = {"name": "lite_network_of_test:Net", "weights": "none", "exactness": "Bounded"}
    return ExperimentSpec.model_validate(
        {
            "model": {**model, **parts.pop("model", {})},
            "partition": parts.pop("partition", {"mode": "Sweep"}),
            "edge": {"runtime": "OnnxRuntime", "modelPath": "model", **parts.pop("edge", {})},
            **parts,
        }
    )


@pytest.fixture(scope="module")
def light(folder: Path) -> LiteNetwork:
    built = lite.build(spec(), "edge", folder)
    assert isinstance(built, LiteNetwork)
    return built


@pytest.fixture(scope="module")
def full(folder: Path) -> Backend:
    return with_torch.build(spec(), "edge", folder)


def copied(folder: Path, target: Path) -> Path:
    """A copy of the exported model below `target`, to be changed."""
    (target / "model").mkdir()
    for name in (INDEX, GRAPH, WEIGHTS, OUTPUTS):
        (target / "model" / name).write_bytes((folder / "model" / name).read_bytes())
    return target / "model"


def sealed(model: Path, **changes: Any) -> None:
    """Write a description that fits the changed files."""
    from splittracr.backends.exported import FILES, described

    found = json.loads((model / INDEX).read_text())
    found["files"] = {name: described(model / name).model_dump() for name in FILES}
    (model / INDEX).write_text(json.dumps({**found, **changes}))


def test_every_cut_gives_the_same_bits_and_the_same_message(
    light: LiteNetwork, full: Backend
) -> None:
    pixels = light.example(3)
    assert np.array_equal(pixels, full.example(3).numpy())
    for cut in light.proof.cuts:
        ours = light.pack(light.head(cut.index, pixels))
        theirs = full.pack(full.head(cut.index, torch.from_numpy(pixels)))
        assert ours.values == theirs.values, cut.name
        assert [(t.dtype, t.shape) for t in ours.tensors] == [
            (t.dtype, t.shape) for t in theirs.tensors
        ]
        assert list(map(bytes, ours.buffers)) == list(map(bytes, theirs.buffers)), cut.name
        made = light.tail(cut.index, light.unpack(theirs))
        expected = full.tail(cut.index, full.unpack(theirs))
        assert np.array_equal(made[0], expected[0].numpy())
        assert made[1] == expected[1]
        (a,), (b,) = light.reduce(made), full.reduce(expected)
        assert list(a["classes"]) == list(b["classes"])
        assert light.postprocessor.ranking(a) == full.postprocessor.ranking(b)


def test_cuts_keep_their_classes_where_they_were_proven(light: LiteNetwork, full: Backend) -> None:
    assert light.proof.cuts == full.proof.cuts
    assert light.proof.cuts[0].exactness is Exactness.EXACT
    assert light.proof.cuts[-1].exactness is Exactness.CONSISTENT


def test_the_handshake_takes_it_for_the_same_network(light: LiteNetwork, full: Backend) -> None:
    assert difference(light.identity, full.identity) is None
    assert light.identity.weights == full.identity.weights


def test_it_takes_other_names_of_classes(light: LiteNetwork) -> None:
    (reduced,) = light.reduce(light.tail(0, [light.example(0)]))
    found = light.named(["x"] * 9).postprocessor.describe(reduced, Geometry((32, 32), (32, 32)))
    assert {one["label"] for one in found} == {"x"}


def test_pictures_are_prepared_the_same(light: LiteNetwork, full: Backend) -> None:
    shipped = datasets.open_dataset(DatasetSpec(), Path())
    for i in range(len(shipped)):
        sample = datasets.load(shipped, i)
        assert np.array_equal(light.prepare(sample), full.prepare(sample).numpy())


def test_a_profile_has_a_column_for_each_cut(light: LiteNetwork) -> None:
    given = [light.example(seed) for seed in range(2)]
    made = light.profile(spec(), given, ["raw", "uint8"], ["png"], given)
    last = light.proof.last
    assert len(made.heads_ms) == len(made.tails_ms) == last + 1
    assert made.heads_ms[0] < made.heads_ms[last]
    assert [codec.codec for codec in made.codecs] == ["raw", "uint8"]
    assert made.codecs[0].agreement == 1.0
    assert made.codecs[1].agreement is not None
    assert made.codecs[1].bytes[0] == pytest.approx(made.codecs[0].bytes[0], rel=0.2)
    assert made.picture_codecs[0].codec == "png"
    assert made.reply_bytes > 0


def test_digests_are_those_of_torch() -> None:
    numbers, counts = np.arange(-6, 6, dtype=np.float32).reshape(3, 4) / 7, np.arange(3)
    values = [numbers, {"a": counts}, (1, None)]
    tensors = [torch.from_numpy(numbers), {"a": torch.from_numpy(counts)}, (1, None)]
    ours, theirs = array_digest.part_digest("x", values), part_digest("x", tensors)
    assert ours.digest == theirs.digest
    for a, b in zip(ours.tensors, theirs.tensors, strict=True):
        assert a.kind == b.kind
        assert (a.mean, a.size, a.rms) == pytest.approx((b.mean, b.size, b.rms))


def test_another_processor_makes_exact_cuts_bounded(folder: Path, tmp_path: Path) -> None:
    model = copied(folder, tmp_path)
    found = np.frombuffer((model / OUTPUTS).read_bytes(), np.float32).copy()
    found[9:18] *= 1 + 1e-5  # what ONNX Runtime made on the server
    (model / OUTPUTS).write_bytes(found.tobytes())
    sealed(model)
    cuts = lite.build(spec(), "edge", tmp_path).proof.cuts
    assert cuts[0].exactness is Exactness.EXACT
    assert {cut.exactness for cut in cuts[1:-1]} == {Exactness.BOUNDED}
    assert all((cut.largest_error or 0) > 0 for cut in cuts[1:])
    assert cuts[-1].exactness is Exactness.CONSISTENT
    strict = {"model": {"exactness": "Consistent"}}
    own = lite.build(spec(**strict), "edge", tmp_path)
    with pytest.raises(CutRefused, match=r"it is Bounded \(largest relative error"):
        own.cut(1)


def test_a_larger_error_than_the_tolerance_is_refused(folder: Path, tmp_path: Path) -> None:
    model = copied(folder, tmp_path)
    found = np.frombuffer((model / OUTPUTS).read_bytes(), np.float32) * np.float32(1 + 1e-5)
    (model / OUTPUTS).write_bytes(found.tobytes())
    sealed(model)
    narrow = spec(model={"tolerancePerMillion": 2})
    with pytest.raises(InvalidInput, match=r"got 2, expected more, .* of 1\.\de-05 here"):
        lite.build(narrow, "edge", tmp_path)


def test_a_demand_is_refused_as_with_torch(folder: Path) -> None:
    strict = spec(model={"exactness": "Exact"})
    with pytest.raises(InvalidInput) as here:
        lite.build(strict, "edge", folder)
    with pytest.raises(InvalidInput) as there:
        with_torch.build(strict, "edge", folder)
    assert str(here.value) == str(there.value)
    assert str(here.value).startswith("spec.model.exactness: got 'Exact', expected ")
    assert "the cut output is not exact (it is Consistent (largest relative" in str(here.value)


def test_the_demand_is_that_of_the_manifest_not_of_the_export(
    folder: Path, tmp_path: Path, light: LiteNetwork
) -> None:
    strict = spec(model={"exactness": "Consistent"})
    registry.exporter()(strict, folder, tmp_path / "model")
    below = [cut.name for cut in light.proof.cuts if cut.exactness is Exactness.BOUNDED]
    assert below
    assert list(lite.build(strict, "edge", tmp_path).proof.refused) == below
    assert lite.build(spec(), "edge", tmp_path).proof.refused == {}


def test_outputs_that_are_not_the_models_are_refused(folder: Path, tmp_path: Path) -> None:
    model = copied(folder, tmp_path)
    found = -np.frombuffer((model / OUTPUTS).read_bytes(), np.float32)
    (model / OUTPUTS).write_bytes(found.tobytes())
    sealed(model)
    with pytest.raises(InvalidInput, match=r"spec\.edge\.runtime.*relative error of"):
        lite.build(spec(), "edge", tmp_path)


def outside(name: str, **entries: str) -> TensorProto:
    made = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4])
    made.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        made.external_data.append(onnx.StringStringEntryProto(key=key, value=value))
    return made


@pytest.mark.parametrize(
    "weight",
    [
        outside("w", location="/etc/passwd", offset="0", length="16"),
        outside("w", location=WEIGHTS, offset="0", length="12"),
        outside("w", location=WEIGHTS, offset="1099511627776", length="16"),
        outside("w", location=WEIGHTS, offset="-16", length="16"),
        outside("w", location=WEIGHTS, offset="2", length="16"),
        outside("w", location=WEIGHTS, offset="x", length="16"),
        outside("w", location=WEIGHTS),
    ],
)
def test_a_weight_outside_of_its_file_is_refused(
    folder: Path, tmp_path: Path, weight: TensorProto
) -> None:
    model = copied(folder, tmp_path)
    graph = onnx.load_from_string((model / GRAPH).read_bytes())
    graph.graph.initializer.append(weight)
    (model / GRAPH).write_bytes(graph.SerializeToString())
    sealed(model)
    with pytest.raises(SplittracrError, match=r"w (lies outside|has no place)"):
        lite.build(spec(), "edge", tmp_path)


def test_a_weight_hidden_in_a_node_is_refused(folder: Path, tmp_path: Path) -> None:
    model = copied(folder, tmp_path)
    graph = onnx.load_from_string((model / GRAPH).read_bytes())
    inner = helper.make_graph([], "g", [], [], [outside("w", location="/etc/passwd")])
    graph.graph.node.append(helper.make_node("If", ["c"], ["y"], then_branch=inner))
    (model / GRAPH).write_bytes(graph.SerializeToString())
    sealed(model)
    with pytest.raises(SplittracrError, match="has weights, or functions, where none belong"):
        lite.build(spec(), "edge", tmp_path)


def test_a_graph_that_is_none_is_refused(folder: Path, tmp_path: Path) -> None:
    model = copied(folder, tmp_path)
    (model / GRAPH).write_bytes(b"\xff" * 100)
    sealed(model)
    with pytest.raises(SplittracrError, match="is no graph of ONNX"):
        lite.build(spec(), "edge", tmp_path)
    empty = helper.make_model(
        helper.make_graph([], "g", [helper.make_empty_tensor_value_info("x")], [])
    )
    (model / GRAPH).write_bytes(empty.SerializeToString())
    sealed(model)
    with pytest.raises(SplittracrError, match="has no values"):
        lite.build(spec(), "edge", tmp_path)


@pytest.mark.parametrize(
    ("parts", "changes", "words"),
    [
        ({"edge": {"device": "cuda"}}, {}, r"spec\.edge\.device"),
        ({"edge": {"modelPath": "none"}}, {}, r"spec\.edge\.modelPath: got .*model\.json"),
        ({}, {"prepared": None}, "OpenCV, so its edge needs an image with PyTorch"),
        ({}, {"postprocessor": "ultralytics-detect"}, r"spec\.postprocess\.name"),
        ({}, {"runtime": "0.1"}, "expected version 0.1"),
    ],
)
def test_what_such_an_edge_cannot_do_is_named(
    folder: Path, tmp_path: Path, parts: dict[str, Any], changes: dict[str, Any], words: str
) -> None:
    sealed(copied(folder, tmp_path), **changes)
    with pytest.raises(InvalidInput, match=words):
        lite.build(spec(**parts), "edge", tmp_path)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (
            {"model": {"name": "mobilenet_v3_large", "seed": 7}},
            "spec.model.name: got 'mobilenet_v3_large', expected 'lite_network_of_test:Net'",
        ),
        ({"model": {"source": "custom"}}, "spec.model.source: got 'custom', expected no value"),
        ({"model": {"weights": "official"}}, "spec.model.weights: got 'official', expected 'none'"),
        (
            {"model": {"weightsFile": "w.pt"}},
            "spec.model.weightsFile: got 'w.pt', expected no value",
        ),
        ({"model": {"inputSize": [64, 64]}}, "inputSize: got [64, 64], expected no value"),
        ({"model": {"input": {"shape": [3, 32, 32]}}}, "'shape': [3, 32, 32]}, expected no value"),
        ({"model": {"letterbox": "Rect"}}, "letterbox: got 'Rect', expected 'Square'"),
        ({"model": {"seed": 7}}, "spec.model.seed: got 7, expected 0"),
        ({"model": {"numClasses": 10}}, "spec.model.numClasses: got 10, expected no value"),
        ({"model": {"args": {"a": 1}}}, "spec.model.args: got {'a': 1}, expected {}"),
        ({"postprocess": {"name": "raw"}}, "spec.postprocess.name: got 'raw', expected no value"),
        ({"server": {"runtime": "OnnxRuntime"}}, "runtime: got 'OnnxRuntime', expected 'Torch'"),
        ({"workload": {"batchSize": 2}}, "spec.workload.batchSize: got 2, expected 1"),
        ({"results": {"outputs": "Raw"}}, "outputs: got 'Raw', expected 'Reduced'"),
    ],
)
@pytest.mark.parametrize("mode", ["EdgeOnly", "Sweep"])
def test_what_the_export_has_otherwise_is_named(
    folder: Path, parts: dict[str, Any], words: str, mode: str
) -> None:
    with pytest.raises(InvalidInput) as failed:
        lite.build(spec(**parts, partition={"mode": mode}), "edge", folder)
    assert f"{words}, as in the exported model" in str(failed.value)


def test_what_the_edge_does_itself_is_up_to_the_manifest(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("\n".join("abcdefghi"))
    parts = {
        "postprocess": {"topK": 2},
        "dataset": {"classNames": str(tmp_path / "names.txt")},
        "model": {"tolerancePerMillion": 5000},
    }
    own = lite.build(spec(**parts), "edge", folder)
    (reduced,) = own.reduce(own.tail(0, [own.example(0)]))
    found = own.postprocessor.describe(reduced, Geometry((32, 32), (32, 32)))
    assert len(found) == 2
    assert {one["label"] for one in found} < set("abcdefghi")


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model exported with the weights in `there/w.pt`."""
    made = tmp_path_factory.mktemp("trained")
    (made / "there").mkdir()
    torch.save(importlib.import_module("lite_network_of_test").Net().state_dict(), made / FILE)
    registry.exporter()(from_file(FILE), made, made / "model")
    return made


FILE = "there/w.pt"


def from_file(path: str | None) -> ExperimentSpec:
    return spec(model={"weights": "official", "weightsFile": path})


def test_the_weights_file_need_not_be_on_the_edge(trained: Path, tmp_path: Path) -> None:
    copied(trained, tmp_path)
    # The system cannot look below the last one, as below a folder without permission.
    for path in (FILE, "elsewhere/w.pt", "~nobody-there/w.pt", f"{'long' * 100}/w.pt"):
        assert lite.build(from_file(path), "edge", tmp_path).network.weights == "file w.pt"
    assert lite.build(from_file(FILE), "edge", trained).network.weights == "file w.pt"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (None, "got nothing, expected a file named 'w.pt', as in the exported model"),
        ("there/v.pt", "got 'there/v.pt', expected a file named 'w.pt', as in the exported model"),
        ("mine/w.pt", "got 'mine/w.pt', expected the file of the exported model (w.pt"),
    ],
)
def test_another_weights_file_is_named(
    trained: Path, tmp_path: Path, path: str | None, words: str
) -> None:
    copied(trained, tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "w.pt").write_bytes(b"others")
    with pytest.raises(InvalidInput) as failed:
        lite.build(from_file(path), "edge", tmp_path)
    assert f"spec.model.weightsFile: {words}" in str(failed.value)


def test_the_files_hold_arrays_only(folder: Path) -> None:
    """Weights are plain bytes at the places that the graph names; nothing is pickled."""
    graph = onnx.load_from_string((folder / "model" / GRAPH).read_bytes())
    stored = [t for t in graph.graph.initializer if t.data_location == TensorProto.EXTERNAL]
    content = (folder / "model" / WEIGHTS).read_bytes()
    shapes = {tuple(tensor.dims) for tensor in stored}
    assert (24, 24, 3, 3) in shapes
    entries = [{e.key: e.value for e in tensor.external_data} for tensor in stored]
    end = max(int(e["offset"]) + int(e["length"]) for e in entries)
    assert 0 <= len(content) - end < 64
    small = [t for t in graph.graph.initializer if t.data_location != TensorProto.EXTERNAL]
    assert all(numpy_helper.to_array(tensor).nbytes < 1024 for tensor in small)
