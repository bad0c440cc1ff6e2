"""A network's identity says what both ends share; a bad network is the user's error."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from splittracr.backends.torch.build import assemble, build, prove_network
from splittracr.backends.torch.proven import ProvenNetwork
from splittracr.data import importing
from splittracr.data.contracts import Geometry
from splittracr.data.postprocess import registry as postprocessors
from splittracr.data.postprocess.classification import Classification
from splittracr.experiment.errors import CutRefused, FrameFailed, InvalidInput
from splittracr.experiment.spec import ExperimentSpec
from splittracr.models.network import Task
from splittracr.splitting.live import pack, unpack
from splittracr.wire import codec
from splittracr.wire.identity import difference
from tests.workers.pair import proven, spec


def settings(**parts: object) -> str:
    return proven(spec(**parts)).identity.settings


@pytest.mark.parametrize(
    "parts",
    [
        {"postprocess": {"topK": 3}},
        {"model": {"name": "small", "inputSize": [32, 32]}},
        {"model": {"name": "small", "args": {"width": 2}}},
    ],
)
def test_settings_that_change_results_are_in_the_identity(parts: dict[str, object]) -> None:
    assert settings() == settings() != settings(**parts)


def test_where_a_machine_keeps_its_weights_is_not() -> None:
    here, there = ({"model": {"name": "small", "weightsFile": f}} for f in ("a.pt", "b/c.pt"))
    assert settings(**here) == settings(**there)


def test_class_names_are() -> None:
    one = proven(spec())
    named = dataclasses.replace(one.network, classes=tuple("abcdefghij"))
    assert assemble(named, spec(), one.device.place).identity.settings != one.identity.settings


def test_the_setting_that_differs_is_named_with_both_values() -> None:
    one, other = proven(spec()), proven(spec(postprocess={"topK": 3}))
    assert difference(one.identity, other.identity) == (
        "spec.postprocess.topK: the edge has 5, the server 3"
    )


def test_an_identity_fits_a_message_whatever_the_manifest_holds() -> None:
    long = {"model": {"name": "x" * 253, "args": {"a" * 99: ["b" * 9999] * 99}}}
    assert len(proven(spec(**long)).identity.settings) < 4096


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["classification", "semantic-segmentation", "raw"])
def test_an_output_that_is_not_finite_is_no_prediction(
    name: str, dtype: torch.dtype, wrong: float
) -> None:
    one = proven(spec(postprocess={"name": name}))
    output = torch.zeros(1, 10, 3, 3, dtype=dtype)
    assert len(one.reduce((output, {"aux": torch.zeros(1, 0), "n": torch.tensor([3])}))) == 1
    output[0, 4, 1, 2] = wrong
    with pytest.raises(FrameFailed, match="the model's output is not finite"):
        one.reduce((output, {"aux": torch.zeros(1, 0), "n": torch.tensor([3])}))


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta:UserWarning")
@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (Tensor.to_sparse, "torch.sparse_coo"),
        (Tensor.to_sparse_csr, "torch.sparse_csr"),
        (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), "torch.qint8"),
    ],
)
def test_an_output_that_is_not_dense_is_named(make: Callable[[Tensor], Tensor], kind: str) -> None:
    expected = f"the model's output is a {kind} tensor, expected a dense one"
    with pytest.raises(FrameFailed, match=expected):
        proven(spec()).reduce(make(torch.eye(10)))


def test_an_output_of_eight_bit_floats_is_checked_too() -> None:
    one = proven(spec(postprocess={"name": "raw"}))
    output = torch.ones(1, 10).to(torch.float8_e4m3fn)
    assert len(one.reduce(output)) == 1
    with pytest.raises(FrameFailed, match="not finite"):
        one.reduce(torch.full((1, 10), math.nan).to(torch.float8_e4m3fn))


def test_a_shape_that_does_not_fit_is_named() -> None:
    network = dataclasses.replace(proven(spec()).network, shape=(3, 9, 9))
    expected = r"spec\.model\.name: got 'small', expected .* input \[2, 3, 9, 9\] \(RuntimeError: "
    with pytest.raises(InvalidInput, match=expected):
        prove_network(network, 2, torch.device("cpu"))


class Listed(nn.Module):
    """Returns a list of batches, `parts` of them; the mean of a picture comes first in each."""

    def __init__(self, parts: int) -> None:
        super().__init__()
        self.parts = parts

    def forward(self, x: Tensor) -> list[Tensor]:
        means = x.float().mean((2, 3))
        return [means + i for i in range(self.parts)]


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("parts", [2, 3])
def test_raw_lists_of_outputs_are_not_lists_of_pictures(batch: int, parts: int) -> None:
    of = spec(workload={"batchSize": batch}, postprocess={"name": "raw"})
    network = dataclasses.replace(proven(spec()).network, module=Listed(parts))
    own = assemble(network, of, torch.device("cpu"))
    pictures = torch.arange(batch, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 8, 8)
    reduced = own.reduce(own.tail(0, own.head(0, pictures)))
    assert len(reduced) == batch
    for i, one in enumerate(reduced):
        assert [one[f"{k}:first"][0] for k in range(parts)] == [i + k for k in range(parts)]


SUB_BYTE: torch.dtype = vars(torch)["uint4"]


class Gives(nn.Module):
    """Returns what `make` makes of one number a picture."""

    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: Tensor) -> Any:
        return self.make(x.float().mean((1, 2, 3)) / 255)


def giving(make: Callable[[Tensor], Any], **parts: object) -> ProvenNetwork:
    of = spec(**{"results": {"outputs": "Raw"}, "postprocess": {"name": "raw"}, **parts})
    network = dataclasses.replace(
        proven(spec()).network, module=Gives(make), leaves=(Gives,), task=Task.OTHER
    )
    wrapped = dataclasses.replace(network, module=nn.Sequential(network.module))
    return assemble(wrapped, of, torch.device("cpu"))


@pytest.mark.parametrize(
    "make",
    [
        lambda x: torch.complex(x, x + 1.0).conj(),
        lambda x: {"a": [torch.complex(x, x + 1.0).conj().imag]},
        lambda x: torch._neg_view(x),
    ],
)
def test_a_reply_means_what_the_network_means(make: Callable[[Tensor], Any]) -> None:
    own = giving(make)
    assert own.proof.refused == {}
    pictures = torch.full((1, 3, 8, 8), 51, dtype=torch.uint8)
    output = own.tail(0, own.head(0, pictures))
    (received,) = unpack(codec.decode(codec.encode(pack([output]))))
    expected = own.network.module(pictures)
    for found, wanted in zip(tree_leaves(received), tree_leaves(expected), strict=True):
        assert found.tolist() == wanted.tolist()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda x: x.to_sparse(), "a torch.sparse_coo tensor cannot"),
        (lambda x: [x, {"b": torch.nested.nested_tensor([x])}], "a nested tensor cannot"),
        (lambda x: (x, (x * 9).to(torch.uint8).view(SUB_BYTE)), "a uint4 tensor cannot"),
        (lambda x: (x, 1j), "a complex cannot cross a cut"),
        (lambda x: {0: x}, "a dict cannot cross a cut"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_cuts_whose_reply_cannot_travel_are_refused_by_name(
    make: Callable[[Tensor], Any], reason: str
) -> None:
    own = giving(make)
    with pytest.raises(CutRefused, match=f"the result cannot be sent back: {reason}"):
        own.proof.cut("input")
    assert own.proof.cut("output").index == own.proof.last


def test_reduced_results_are_what_a_reply_has_to_hold() -> None:
    own = giving(lambda x: (x, {0: x}), results={"outputs": "Reduced"})
    assert own.proof.refused == {}


class OneForAll(Classification):
    """Reduces a batch to one mapping."""

    def reduce(self, output: Any) -> Any:
        return {"scores": output, "classes": output}


@pytest.mark.parametrize("outputs", ["Reduced", "Raw"])
def test_a_post_processor_that_reduces_to_something_else_is_refused_at_the_start(
    outputs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postprocessors, "create", lambda _, spec, classes: OneForAll(spec, classes))
    with pytest.raises(InvalidInput, match="reduce: got a dict, expected a list with one mapping"):
        assemble(proven(spec()).network, spec(results={"outputs": outputs}), torch.device("cpu"))


def test_complex_outputs_are_told_from_scores_and_from_what_is_not_finite() -> None:
    own = giving(lambda x: torch.complex(x, x + 1.0).view(-1, 1).conj())
    (reduced,) = own.reduce(own.tail(0, own.head(0, torch.zeros(1, 3, 8, 8, dtype=torch.uint8))))
    assert reduced["output:first"].tolist() == [0.0, -1.0]
    with pytest.raises(FrameFailed, match="not finite"):
        own.reduce(torch.tensor([[complex(0, math.nan)]]))
    classified = proven(spec())
    with pytest.raises(FrameFailed, match=r"output is torch.complex64, expected real numbers"):
        classified.reduce(torch.ones(1, 10, dtype=torch.complex64))


def test_names_for_predictions_change_nothing_else() -> None:
    own = proven(spec())
    named = own.named([f"kind {i}" for i in range(10)])
    pictures = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    (reduced,) = named.reduce(named.tail(0, named.head(0, pictures)))
    labels = [
        one.postprocessor.describe(reduced, Geometry((8, 8), (8, 8)))[0]["label"]
        for one in (own, named)
    ]
    assert labels[0].replace("class", "kind") == labels[1]
    assert (named.identity, named.outputs) == (own.identity, 10)


@pytest.mark.parametrize("settings", [{"numClasses": 4}, {}])
def test_a_list_of_class_names_has_one_for_each_output(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    (tmp_path / "own_net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, num_classes=4):\n"
        "        layers = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes)\n"
        "        super().__init__(*layers)\n"
    )
    of = ExperimentSpec.model_validate(
        {
            "model": {"name": "own_net:Net", "weights": "none", "inputSize": [8, 8], **settings},
            "dataset": {"classNames": "names.txt"},
            "partition": {"mode": "EdgeOnly"},
        },
        by_alias=True,
    )
    importing.look_in(tmp_path)
    with pytest.raises(InvalidInput, match=r"names\.txt', expected 4 class names, .* not 3"):
        build(of, "edge", tmp_path)
