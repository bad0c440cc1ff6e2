"""Files of weights as training and downloads leave them."""

import gzip
import io
import json
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.spec import ModelSpec
from splittracr.models import checkpoint, weights
from tests.models.helpers import Tiny

SPEC = ModelSpec(name="tiny")


def prefixed(*prefixes: str) -> Mapping[str, Tensor]:
    return OrderedDict(("".join(prefixes) + k, v) for k, v in Tiny().state_dict().items())


def inner(part: str) -> Mapping[str, Tensor]:
    """A part in the middle of names: `conv.module.weight`."""
    state = Tiny().state_dict()
    return OrderedDict(
        (".".join([*k.split(".")[:-1], part, k.split(".")[-1]]), v) for k, v in state.items()
    )


def load(content: Any, tmp_path: Path) -> str:
    """Load a file with `content` into a network; returns the label, checks all values."""
    torch.save(content, tmp_path / "w.pt")
    net = Tiny()
    with torch.no_grad():
        for value in net.state_dict().values():
            value.zero_()
    state, label = weights.read_for(net, tmp_path / "w.pt")
    label = weights.load_state(net, state, SPEC, label)
    expected = torch.stack([v.double().sum() for v in state.values()])
    assert torch.equal(torch.stack([net.state_dict()[k].double().sum() for k in state]), expected)
    return label


@pytest.mark.parametrize(
    ("content", "label"),
    [
        (prefixed(), "file w.pt"),
        (prefixed("module."), "file w.pt (names without module.)"),
        (prefixed("_orig_mod."), "file w.pt (names without _orig_mod.)"),
        (prefixed("model."), "file w.pt (names without model.)"),
        (prefixed("net."), "file w.pt (names without net.)"),
        (inner("module"), "file w.pt (names without module.)"),
        (inner("_orig_mod"), "file w.pt (names without _orig_mod.)"),
        ({"state_dict": prefixed(), "epoch": 3}, "file w.pt (its state_dict)"),
        ({"model": prefixed(), "best": torch.ones(1)}, "file w.pt (its model)"),
        ({"model_state_dict": prefixed(), "optimizer": {}}, "file w.pt (its model_state_dict)"),
        ({"model": {"state_dict": prefixed()}}, "file w.pt (its model.state_dict)"),
        (
            {"state_dict": prefixed("model."), "pytorch-lightning_version": "2.0"},
            "file w.pt (its state_dict, names without model.)",
        ),
        ({"n_averaged": torch.tensor(3), **prefixed("module.")},
         "file w.pt (names without module.)"),
    ],
)  # fmt: skip
def test_wrappers_are_undone_and_named(content: Any, label: str, tmp_path: Path) -> None:
    assert load(content, tmp_path) == label


def test_prefixes_upon_prefixes_are_undone(tmp_path: Path) -> None:
    for prefixes in (("module.", "_orig_mod."), ("_orig_mod.", "module."), ("model.", "net.")):
        label = load(prefixed(*prefixes), tmp_path)
        assert all(prefix in label for prefix in prefixes)


class Nested(nn.Module):
    """A network whose own names begin like the prefixes."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.ModuleDict({"module": nn.Linear(2, 2)})


def test_a_networks_own_names_are_left_alone() -> None:
    own = Nested().state_dict()
    assert checkpoint.named_as(own, own) == (own, "")
    wrapped = {f"module.{name}": value for name, value in own.items()}
    state, left_out = checkpoint.named_as(own, wrapped)
    assert (set(state), left_out) == (set(own), "module.")


def test_names_that_would_become_one_are_left_alone() -> None:
    state = {"model.conv.weight": torch.ones(1), "conv.weight": torch.ones(1)}
    assert checkpoint.named_as(Tiny().state_dict(), state) == (state, "")


def test_versions_of_modules_keep_their_modules() -> None:
    net = nn.DataParallel(nn.Sequential(nn.BatchNorm1d(2)))
    state, _ = checkpoint.named_as(net.module.state_dict(), net.state_dict())
    assert isinstance(state, OrderedDict)
    del state["0.num_batches_tracked"]  # which version 1, or none, does not have
    found = net.module.load_state_dict(state, strict=False)
    assert found.missing_keys == ["0.num_batches_tracked"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"epoch": 3, "lr": 0.1}, r"it has epoch \(int\), lr \(float\)"),
        ({"conv.weight": torch.ones(1), "epoch": 3}, r"it has epoch \(int\)"),
        ([torch.ones(1)], "there is a list"),
        (torch.ones(1), "there is a Tensor"),
    ],
)
def test_what_is_no_state_dict_is_described(content: Any, words: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(InvalidInput, match=words):
        weights.read_state(tmp_path / "w.pt")


def zipped(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def numpy_file(save: Callable[..., None]) -> bytes:
    buffer = io.BytesIO()
    save(buffer, np.ones(3))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("w.pt", b"", "an empty file"),
        ("w.pt", b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        ("w.pt", b"\n <!doctype html><html>", "a web page"),
        ("w.pt", b"<html>404</html>", "a web page"),
        ("w.h5", b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file"),
        ("w.npy", numpy_file(np.save), "an array of numpy"),
        ("w.npz", numpy_file(np.savez), "an archive of numpy arrays"),
        ("w.zip", zipped(a=b"x"), "a zip archive"),
        ("w.gguf", b"GGUF" + bytes(50), "a GGUF file"),
        ("w.onnx", b"\x08\x07\x12\x07pytorch", "a model in ONNX"),
        ("w.tflite", b"\x1c\x00\x00\x00TFL3" + bytes(20), "a model of TensorFlow Lite"),
        ("w.pt.gz", gzip.compress(b"x", mtime=0), "a gzip archive"),
        ("w.pt", b"\xff\xd8\xff\xe0 jpeg", "a picture"),
        ("w.json", b'{"a": 1}', "text"),
        ("w.yaml", b"model: x\n", "text"),
    ],
)
def test_a_file_of_another_kind_is_named(
    name: str, content: bytes, words: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInput, match=rf"weightsFile.*\(it is {words}"):
        weights.read_state(tmp_path / name)


def test_a_torchscript_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(zipped(**{"w/data.pkl": b"", "w/constants.pkl": b""}))
    with pytest.raises(InvalidInput, match="it is a TorchScript archive; save the state dict"):
        weights.read_state(tmp_path / "w.pt")


def test_the_oldest_format_of_torch_is_read(tmp_path: Path) -> None:
    torch.save(Tiny().state_dict(), tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    assert "conv.weight" in weights.read_state(tmp_path / "w.pt")


def safetensors(tensors: Mapping[str, Tensor]) -> bytes:
    header, body = {}, b""
    for name, tensor in tensors.items():
        raw = tensor.numpy().tobytes()
        header[name] = {
            "dtype": "F32",
            "shape": list(tensor.shape),
            "data_offsets": [len(body), len(body) + len(raw)],
        }
        body += raw
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def test_a_safetensors_file_is_read_if_the_package_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = {"conv.weight": torch.ones(2), "n": torch.zeros(300)}
    (tmp_path / "w.safetensors").write_bytes(safetensors(tensors))
    module = ModuleType("safetensors.torch")
    module.load_file = lambda path: tensors  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "safetensors", ModuleType("safetensors"))
    monkeypatch.setitem(sys.modules, "safetensors.torch", module)
    assert weights.read_state(tmp_path / "w.safetensors") == tensors
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(InvalidInput, match="pip install safetensors"):
        weights.read_state(tmp_path / "w.safetensors")
