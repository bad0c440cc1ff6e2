"""Classes of cuts are taken from the cache only if nothing that they depend on has changed."""

import dataclasses
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import onnxruntime
import pytest
import torch
from torch import nn

from splittracr.backends import measuring, registry
from splittracr.backends.onnx import class_cache, classes, sessions
from splittracr.backends.onnx.export import export
from splittracr.backends.onnx.halves import Halves
from splittracr.backends.torch import build as torch_build
from splittracr.backends.torch.examples import example_batch, second_batch
from splittracr.experiment.contracts import NO_CLASS_CACHE, Runtime
from splittracr.experiment.spec import ExperimentSpec
from splittracr.experiment.types import Cut, Exactness
from splittracr.measure import machine
from splittracr.models import registry as models
from splittracr.splitting.proof import Proof

BOTH = classes.Ends(Runtime.ONNX_RUNTIME, Runtime.ONNX_RUNTIME)
KEY = "0" * 64


class Small(nn.Module):
    """A convolution and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))  # type: ignore[no-any-return]


def spec(model: dict[str, Any]) -> ExperimentSpec:
    return ExperimentSpec.model_validate(
        {
            "model": {"weights": "none", "exactness": "Bounded"} | model,
            "partition": {"mode": "Sweep"},
            "edge": {"runtime": "OnnxRuntime"},
            "server": {"runtime": "OnnxRuntime"},
        }
    )


def unchanged(_: nn.Module) -> None:
    """Keep the weights."""


def key(
    ends: classes.Ends = BOTH,
    *,
    code: dict[str, str] | None = None,
    change: Callable[[nn.Module], None] = unchanged,
) -> str | None:
    """The key of a start now, of a model whose code is `code`."""
    size = {"shape": [3, 8, 8]}
    own_spec = spec({"name": f"{__name__}:Small", "source": "custom", "input": size})
    network = models.build(own_spec.model, Path())
    change(network.module)
    own = torch_build.assemble(network, own_spec, torch.device("cpu"))
    identity = msgspec.structs.replace(own.identity, code=code or {})
    own = dataclasses.replace(own, identity=identity)
    batches = [example_batch(network, 1), second_batch(network, 1)]
    sessions.use_threads(1)
    halves = Halves(export(own.tape, batches[0]))
    return class_cache.key(own, halves, ends, classes.outputs(own, halves, batches))


@pytest.fixture
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
class TestKey:
    def test_the_same_start_has_the_same_key(self) -> None:
        assert key() == key() is not None

    def test_another_weight_has_another_key(self) -> None:
        @torch.no_grad()
        def nudge(module: nn.Module) -> None:
            next(module.parameters()).view(-1)[0] += 2**-20

        assert key(change=nudge) != key()

    @pytest.mark.parametrize("package", ["torch", "onnxruntime", "splittracr", "numpy"])
    def test_another_version_has_another_key(
        self, package: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before, versions = key(), machine.versions()
        monkeypatch.setattr(machine, "versions", lambda: {**versions, package: "0.0.1"})
        assert key() not in (before, None)

    def test_another_build_of_the_runtime_has_another_key(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = key()
        monkeypatch.setattr(onnxruntime, "get_build_info", lambda: "another")
        assert key() not in (before, None)

    @pytest.mark.parametrize("fact", ["processor", "features"])
    def test_another_processor_has_another_key(
        self, fact: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = key()
        monkeypatch.setattr(machine, fact, lambda: "another")
        assert key() not in (before, None)

    def test_another_limit_of_instructions_has_another_key(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = key()
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
        assert key() not in (before, None)

    def test_another_number_of_threads_has_another_key(self) -> None:
        before = key()
        torch.set_num_threads(2)
        assert key() not in (before, None)

    def test_other_ends_have_another_key(self) -> None:
        assert key(classes.Ends(Runtime.TORCH, Runtime.ONNX_RUNTIME)) not in (key(), None)

    def test_nothing_is_cached_for_code_of_the_user(self) -> None:
        assert key(code={"mine.py": "0" * 64}) is None

    def test_nothing_is_cached_on_a_processor_that_does_not_name_its_instructions(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(machine, "is_identified", lambda: False)
        assert key() is None


def proof(refused: dict[str, str] | None = None) -> Proof:
    cuts = tuple(Cut(index=i, name=n, live=(), bytes=0, work=0.0) for i, n in enumerate("abc"))
    return Proof(cuts=cuts, refused=refused or {}, op_ms=(1.0, 1.0))


def measured(before: Proof) -> Proof:
    """An exact cut, a consistent one and a bounded one."""
    changes: list[dict[str, Any]] = [
        {},
        {"exactness": Exactness.CONSISTENT, "largest_error": 2e-7, "top1_agreement": 1.0},
        {"exactness": Exactness.BOUNDED, "largest_error": 3e-7, "top1_agreement": 0.5},
    ]
    pairs = zip(before.cuts, changes, strict=True)
    return dataclasses.replace(before, cuts=tuple(c.model_copy(update=u) for c, u in pairs))


def test_classes_come_back_as_they_were_measured(tmp_path: Path) -> None:
    class_cache.store(tmp_path / "new", KEY, proof(), measured(proof()))
    found = class_cache.load(tmp_path / "new", KEY, proof())
    assert found is not None
    assert found.classes_cached_at is not None
    assert dataclasses.replace(found, classes_cached_at=None) == measured(proof())


def test_a_cut_that_pytorch_refuses_stays_refused(tmp_path: Path) -> None:
    before = proof({"b": "its live tensors do not survive the wire"})
    class_cache.store(tmp_path, KEY, before, measured(before))
    found = class_cache.load(tmp_path, KEY, before)
    assert found is not None
    assert (found.refused, list(found.offered())) == (before.refused, [0, 2])
    assert class_cache.load(tmp_path, KEY, proof()) is None  # `b` was not measured


def test_a_cut_that_fails_is_tried_again_at_the_next_start(tmp_path: Path) -> None:
    failed = dataclasses.replace(measured(proof()), refused={"b": "no memory"})
    class_cache.store(tmp_path, KEY, proof(), failed)
    assert class_cache.load(tmp_path, KEY, proof()) is None


def _cut_off(content: bytes) -> bytes:
    return content[:-20]


def _made_exact(content: bytes) -> bytes:
    return content.replace(b"Bounded", b"Exact")


def _emptied(_: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("damage", [_cut_off, _made_exact, _emptied])
def test_a_damaged_file_is_named_and_not_used(
    damage: Callable[[bytes], bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class_cache.store(tmp_path, KEY, proof(), measured(proof()))
    path = tmp_path / f"{KEY}.json"
    path.write_bytes(damage(path.read_bytes()))
    assert class_cache.load(tmp_path, KEY, proof()) is None
    assert f"{path} is damaged" in caplog.text


def test_a_file_under_another_key_is_not_used(tmp_path: Path) -> None:
    class_cache.store(tmp_path, KEY, proof(), measured(proof()))
    other = "1" * 64
    (tmp_path / f"{KEY}.json").rename(tmp_path / f"{other}.json")
    assert class_cache.load(tmp_path, other, proof()) is None


def test_a_folder_that_cannot_be_written_costs_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "file").touch()
    class_cache.store(tmp_path / "file", KEY, proof(), measured(proof()))
    assert "not kept for the next start" in caplog.text


def test_the_oldest_files_are_removed(tmp_path: Path) -> None:
    for i in range(class_cache.MAX_FILES):
        old = tmp_path / f"{i}.json"
        old.touch()
        os.utime(old, (i, i))
    class_cache.store(tmp_path, KEY, proof(), measured(proof()))
    assert len(list(tmp_path.iterdir())) == class_cache.MAX_FILES
    assert not (tmp_path / "0.json").exists()
    assert class_cache.load(tmp_path, KEY, proof()) is not None


def test_the_second_start_takes_the_classes_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(NO_CLASS_CACHE)
    monkeypatch.delenv("TORCH_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = spec({"name": "squeezenet1_1", "inputSize": [64, 64]})
    first, second = (
        registry.load(Runtime.ONNX_RUNTIME).build(model, side, Path())
        for side in ("edge", "server")
    )
    assert first.proof.classes_cached_at is None
    assert measuring.end(second).classes_cached_at is not None
    assert second.proof.cuts == first.proof.cuts
    assert {cut.exactness for cut in second.proof.cuts} == {Exactness.CONSISTENT}
    assert len(list((tmp_path / "splittracr" / "classes").iterdir())) == 1
