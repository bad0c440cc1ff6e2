"""Each cut has an honest class, what is below the demand is refused, and ends are compared."""

import importlib.util
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from splittracr.backends import registry
from splittracr.backends.onnx import build
from splittracr.backends.onnx.proven import OnnxNetwork
from splittracr.backends.protocol import Backend
from splittracr.backends.session_memory import check_session_memory, sweep_cuts
from splittracr.experiment.contracts import Runtime
from splittracr.experiment.errors import CutRefused, InvalidInput
from splittracr.experiment.spec import DType, ExperimentSpec
from splittracr.experiment.types import Cut, Exactness
from splittracr.splitting.compare import same
from splittracr.wire.identity import difference

ONNX, TORCH = "OnnxRuntime", "Torch"
MODEL = f"{__name__}:Small"


class Small(nn.Module):
    """A convolution and a norm that ONNX Runtime merges, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


class Lacking(nn.Module):
    """An operation that ONNX does not know."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(x).flatten(1)  # type: ignore[no-any-return]


def study(head: str, tail: str, model: dict[str, Any] | None = None, **parts: Any) -> Any:
    own: dict[str, Any] = {
        "name": MODEL,
        "source": "custom",
        "weights": "none",
        "exactness": "Bounded",
    }
    own |= {"input": {"shape": [3, 16, 16]}}
    return ExperimentSpec.model_validate(
        {
            "model": own | (model or {}),
            "partition": {"mode": "Sweep"},
            "edge": {"runtime": head} | parts.pop("edge", {}),
            "server": {"runtime": tail} | parts.pop("server", {}),
            **parts,
        }
    )


def built(spec: ExperimentSpec, side: str) -> Backend:
    worker = spec.edge if side == "edge" else spec.server
    return registry.load(worker.runtime).build(spec, side, Path())


def classes(own: Backend) -> list[str]:
    return [cut.exactness.value for cut in own.proof.cuts]


def run(edge: Backend, server: Backend, cut: Cut, seed: int) -> Any:
    """The output at a cut: the head at one end, the tail at the other, the wire between."""
    live = edge.head(cut.index, edge.example(seed))
    return server.tail(cut.index, server.unpack(edge.pack(live)))


@pytest.mark.parametrize(
    ("edge", "server"), [(ONNX, ONNX), (ONNX, TORCH), (TORCH, ONNX), (TORCH, TORCH)]
)
def test_every_cut_is_as_exact_as_its_class_says(edge: str, server: str) -> None:
    spec = study(edge, server)
    ends = built(spec, "edge"), built(spec, "server")
    exact, own = built(study(TORCH, TORCH), "edge"), ends[0 if edge == ONNX else 1]
    onnx = own if own.runtime is Runtime.ONNX_RUNTIME else None
    assert (own.proof.refused, len(own.proof.cuts)) == ({}, 6)
    for cut in own.proof.cuts:
        eager = exact.tail(0, [exact.example(0)])
        made = run(*ends, cut, 0) if cut.index < own.proof.last else run(ends[0], ends[0], cut, 0)
        error, size = exact.difference(eager, made)
        match cut.exactness:
            case Exactness.EXACT:
                assert same(made, eager)
            case Exactness.CONSISTENT:
                assert onnx is not None
                assert same(made, onnx.tail(0, [onnx.example(0)]))
            case Exactness.BOUNDED:
                assert 0 < cut.largest_error < 1e-5  # type: ignore[operator]
        assert error / size <= (cut.largest_error or 0.0)


def test_what_torch_alone_computes_is_exact() -> None:
    mixed = built(study(ONNX, TORCH), "edge"), built(study(TORCH, ONNX), "server")
    assert [classes(mixed[0])[0], classes(mixed[1])[-1]] == ["Exact", "Exact"]
    assert set(classes(built(study(TORCH, TORCH), "edge"))) == {"Exact"}


def test_the_uncut_network_is_consistent_and_a_cut_between_merged_operations_is_bounded() -> None:
    own = built(study(ONNX, ONNX), "edge")
    found = {cut.name: cut.exactness.value for cut in own.proof.cuts}
    assert found["input"] == found["output"] == "Consistent"
    assert found["conv"] == "Bounded"
    assert {cut.top1_agreement for cut in own.proof.cuts} == {1.0}


def test_mobilenet_is_close_at_every_cut() -> None:
    model = {"name": "mobilenet_v3_small", "source": None, "inputSize": [64, 64], "input": None}
    own = built(study(ONNX, ONNX, model), "server")
    found = Counter(classes(own))
    assert own.proof.refused == {}
    assert found.total() == len(own.proof.cuts) == 159
    assert found["Consistent"] >= 2
    assert max(cut.largest_error or 0.0 for cut in own.proof.cuts) < 1e-4
    assert {cut.top1_agreement for cut in own.proof.cuts} == {1.0}


def test_a_demand_for_exactness_refuses_the_end_by_name() -> None:
    with pytest.raises(InvalidInput) as failed:
        built(study(ONNX, ONNX, {"exactness": "Exact"}), "edge")
    assert str(failed.value).startswith(
        "spec.model.exactness: got 'Exact', expected Consistent or Bounded: with "
        "spec.edge.runtime OnnxRuntime the cut output is not exact (it is Consistent (largest "
        "relative error "
    )


def test_a_demand_for_consistency_refuses_bounded_cuts_by_name() -> None:
    own = built(study(ONNX, ONNX, {"exactness": "Consistent"}), "server")
    below = [cut.name for cut in own.proof.cuts if cut.exactness is Exactness.BOUNDED]
    assert "conv" in below
    assert list(own.proof.refused) == below
    with pytest.raises(CutRefused, match=r"cut conv .* the manifest demands Consistent"):
        own.cut("conv")


def test_a_tolerance_that_is_not_met_is_named_with_the_error() -> None:
    with pytest.raises(InvalidInput) as failed:
        built(study(ONNX, ONNX, {"tolerancePerMillion": 1, "args": {}} | COARSE), "edge")
    assert "spec.model.tolerancePerMillion: got 1, expected more" in str(failed.value)


class Coarse(Small):
    """It multiplies what rounding leaves."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(super().forward(x) * 1e4)


COARSE = {"name": f"{__name__}:Coarse"}


def test_a_tolerance_goes_with_bounded_only() -> None:
    with pytest.raises(ValueError, match="tolerancePerMillion goes with exactness Bounded"):
        study(ONNX, ONNX, {"exactness": "Exact", "tolerancePerMillion": 5})


def test_the_handshake_accepts_other_runtimes_as_the_manifest_has_them() -> None:
    for edge, server in ((ONNX, TORCH), (TORCH, ONNX), (ONNX, ONNX)):
        spec = study(edge, server)
        assert difference(built(spec, "edge").identity, built(spec, "server").identity) is None


def test_the_handshake_refuses_a_runtime_that_the_other_end_does_not_expect() -> None:
    edge, server = built(study(ONNX, ONNX), "edge"), built(study(TORCH, ONNX), "server")
    assert difference(edge.identity, server.identity) == (
        "spec.edge.runtime: the edge has 'OnnxRuntime', the server 'Torch'"
    )


def test_the_handshake_refuses_other_weights_in_other_runtimes() -> None:
    edge = built(study(ONNX, TORCH, {"seed": 1}), "edge")
    server = built(study(ONNX, TORCH, {"seed": 2}), "server")
    found = difference(edge.identity, server.identity)
    assert found == "spec.model.seed: the edge has 1, the server 2"


def test_outputs_of_runtimes_are_compared_within_the_tolerance() -> None:
    spec = study(ONNX, TORCH)
    edge, server = built(spec, "edge").identity, built(spec, "server").identity
    assert edge.processor != server.processor
    assert "onnxruntime" in edge.processor
    assert edge.parts[0].name == server.parts[0].name == "the model's output"
    ours, theirs = edge.parts[0].tensors[0], server.parts[0].tensors[0]
    assert ours.mean == pytest.approx(theirs.mean, rel=1e-4)


def test_profiles_have_times_of_whole_heads_and_tails() -> None:
    spec = study(ONNX, ONNX)
    own = built(spec, "edge")
    made = own.profile(spec, [own.example(0), own.example(1)], ["raw"], [])
    assert (made.runtime, own.times()) == (Runtime.ONNX_RUNTIME, ())
    assert own.ready("head", own.proof.last)
    assert not own.ready("head", 2)
    assert len(made.heads_ms) == len(made.tails_ms) == len(made.cuts)
    assert (made.head_ms(), made.tail_ms()) == (made.heads_ms, made.tails_ms)
    assert "onnxruntime" in made.versions
    assert made.machine().endswith("1 thread, OnnxRuntime")


def test_a_runtime_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec

    def without(name: str, package: str | None = None) -> Any:
        return None if name == "onnxruntime" else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    with pytest.raises(InvalidInput) as failed:
        built(study(TORCH, ONNX), "server")
    assert str(failed.value) == (
        "spec.server.runtime: got 'OnnxRuntime', expected a runtime that is installed: "
        "onnxruntime of the extra onnx (pip install 'splittracr[onnx]'; for an image --build-arg "
        "EXTRAS=onnx) is not here"
    )


def test_an_operation_that_onnx_lacks_is_named() -> None:
    with pytest.raises(InvalidInput) as failed:
        built(study(ONNX, TORCH, {"name": f"{__name__}:Lacking"}), "edge")
    assert failed.value.field == "spec.edge.runtime"
    assert "expected Torch: ONNX does not express" in str(failed.value)
    assert "bessel_j0" in str(failed.value)


@pytest.mark.parametrize(
    ("parts", "field", "expected"),
    [
        ({"edge": {"device": "cuda"}}, "spec.edge.device", "auto or cpu"),
        (
            {
                "model": {
                    "name": "ssdlite320_mobilenet_v3_large",
                    "source": None,
                    "input": None,
                }
            },
            "spec.edge.runtime",
            "Torch: ssdlite320_mobilenet_v3_large keeps each picture's own size",
        ),
    ],
)
def test_what_it_does_not_compute_is_named(
    parts: dict[str, Any], field: str, expected: str
) -> None:
    with pytest.raises(InvalidInput) as failed:
        built(study(ONNX, TORCH, **parts), "edge")
    assert failed.value.field == field
    assert failed.value.expected.startswith(expected)


def test_a_small_model_of_another_dtype_is_named() -> None:
    """One that an option names, and no manifest."""
    spec = study(ONNX, TORCH)
    model = spec.model.model_copy(update={"dtype": DType.FLOAT16})
    with pytest.raises(
        InvalidInput, match=r"spec\.model\.dtype: .* expected float32, the only one"
    ):
        built(spec.model_copy(update={"model": model}), "edge")


def test_a_network_that_is_larger_than_the_memory_is_named() -> None:
    class_path = {"name": f"{__name__}:Wide"}
    with pytest.raises(InvalidInput) as failed:
        built(study(ONNX, TORCH, class_path, edge={"sessionMebibytes": 2}), "edge")
    assert str(failed.value) == (
        f"spec.edge.sessionMebibytes: got 2, expected 3 or more, for {class_path['name']}"
    )


def test_a_sweep_whose_sessions_do_not_fit_together_is_refused() -> None:
    """Their sizes are those by which sessions are dropped, so that the number given is enough."""
    spec, own = sweep(3, ["input", "fc", "relu", "output"])
    cuts = sweep_cuts(own, spec.partition)
    assert [own.proof.cuts[cut].name for cut in cuts] == ["input", "fc", "relu", "output"]
    with pytest.raises(InvalidInput) as failed:
        check_session_memory(own, spec, "edge", cuts)
    expected = f"8 or more, for 4 cuts of {own.network.name}; or fewer cuts"
    assert str(failed.value) == f"spec.edge.sessionMebibytes: got 3, expected {expected}"
    check_session_memory(own, spec, "edge", cuts[:2])

    spec, own = sweep(8, ["input", "fc", "relu", "output"])
    check_session_memory(own, spec, "edge", cuts)
    for cut in cuts:
        own.make_ready("head", cut)
    assert all(own.ready("head", cut) for cut in cuts)


@pytest.mark.parametrize(
    ("named", "found"), [(["fc", "nothing", 99], ["fc"]), (["nothing"], []), (["refused"], [])]
)
def test_cuts_that_only_the_edge_can_name_are_left_to_it(
    named: list[str | int], found: list[str]
) -> None:
    spec, own = sweep(3, ["relu" if name == "refused" else name for name in named])
    if "refused" in named:
        own = replace(own, proof=replace(own.proof, refused={"relu": "it is not exact"}))
    cuts = sweep_cuts(own, spec.partition)
    assert [own.proof.cuts[cut].name for cut in cuts] == found


def sweep(mebibytes: int, cuts: list[Any]) -> tuple[ExperimentSpec, OnnxNetwork]:
    own = {"edge": {"sessionMebibytes": mebibytes}, "partition": {"mode": "Sweep", "cuts": cuts}}
    spec = study(ONNX, TORCH, {"name": f"{__name__}:Deep"}, **own)
    made = built(spec, "edge")
    assert isinstance(made, OnnxNetwork)
    return spec, made


def test_a_network_that_is_larger_than_a_graph_can_be_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(build, "MAX_GRAPH_BYTES", 2**20)
    name = f"{__name__}:Wide"
    with pytest.raises(InvalidInput) as failed:
        built(study(TORCH, ONNX, {"name": name}), "server")
    nbytes = 4 * (400 * 3 * 16 * 16 + 400)
    assert str(failed.value) == (
        f"spec.server.runtime: got 'OnnxRuntime', expected Torch: the weights of {name} take "
        f"{nbytes} bytes, and a graph of ONNX holds up to 1048576"
    )


class Wide(nn.Module):
    """More than 1 MiB of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3 * 16 * 16, 400)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.flatten(1))  # type: ignore[no-any-return]


class Deep(Wide):
    """Three layers, whose heads share the weights of the first one."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(400, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(super().forward(x).relu())  # type: ignore[no-any-return]


def test_the_cuts_of_a_network_alone() -> None:
    spec = study(ONNX, ONNX).model
    name, proof = build.prove_cuts(spec, 1)
    assert name == MODEL
    assert Counter(cut.exactness for cut in proof.cuts)[Exactness.EXACT] == 0
    assert proof.refused == {}
