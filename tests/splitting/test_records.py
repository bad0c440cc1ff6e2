"""Data classes and named tuples in live values and outputs."""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from splittracr.data.postprocess import registry
from splittracr.experiment.errors import ProtocolError
from splittracr.experiment.spec import PostprocessSpec
from splittracr.splitting.capture import capture
from splittracr.splitting.live import pack, unpack
from splittracr.splitting.prove import prove, through_wire
from splittracr.wire.payload import Payload, PayloadHeader, check_structure


@dataclass(frozen=True, slots=True)
class Detection:
    boxes: Tensor
    count: int
    inner: "Pair | None" = None


class Pair(NamedTuple):
    scores: Tensor
    name: str


@dataclass
class Loud:
    logits: Tensor
    made: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.made.append(1)


@dataclass
class Collection(OrderedDict[str, Any]):
    logits: Tensor | None = None


class Wrapping(nn.Module):
    """Its data class and named tuple are alive at cuts, and the output is a data class."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Detection:
        pair = Pair(self.first(x), "a")
        return Detection(self.second(pair.scores.relu()), 3, pair)


class Several(nn.Module):
    """The results of functions with several outputs are alive at cuts."""

    def forward(self, x: Tensor) -> Tensor:
        best, ranked, top = x.max(1), x.sort(0), x.topk(2)
        middle, wide = torch.median(x, 1), torch.aminmax(x)
        found = best.values.sum() + ranked[0][0].sum() + top.indices.sum() + middle[0].sum()
        return found + wide.max - wide.min + x.cummax(0).values.sum() + torch.frexp(x)[0].sum()


def test_every_cut_between_a_function_and_its_outputs_is_exact() -> None:
    example = torch.rand(3, 4)
    tape = capture(Several().eval(), example)
    proof = prove(tape, example)
    assert not proof.refused
    sizes = [len(cut.live) for cut in proof.cuts]
    assert max(sizes) >= 6


def test_a_result_of_torch_with_other_fields_is_refused() -> None:
    payload = pack([torch.ones(2, 2).max(0)])
    ((_, (name, fields)),) = payload.values[0].items()
    (same_kind,) = unpack(payload)
    assert type(same_kind) is torch.return_types.max
    for wrong in (fields[:1], [["values", fields[0][1]], ["index", fields[1][1]]]):
        with pytest.raises(ProtocolError, match=r"fields of 'torch\.return_types:max'"):
            unpack(Payload(({"record": [name, wrong]},), payload.tensors, payload.buffers))


def test_every_cut_of_a_network_with_a_data_class_as_output_is_exact() -> None:
    example = torch.rand(2, 4)
    proof = prove(capture(Wrapping().eval(), example), example)
    assert proof.refused == {}
    assert [t.shape for t in proof.cuts[-1].live] == [(2, 2), (2, 4)]


def test_values_arrive_as_what_they_were() -> None:
    sent = Detection(torch.arange(3), 2, Pair(torch.ones(2), "b"))
    (got,) = through_wire([sent])
    assert (type(got), type(got.inner), got.count, got.inner.name) == (Detection, Pair, 2, "b")
    assert torch.equal(got.boxes, sent.boxes)
    (loud,) = through_wire([Loud(torch.ones(1))])
    assert loud.made == [1], "no constructor runs again"


def test_views_of_one_memory_stay_views_in_a_data_class() -> None:
    memory = torch.arange(6.0)
    (got,) = through_wire([Detection(memory[:4], 1, Pair(memory[2:], ""))])
    got.boxes[2] = 9
    assert got.inner.scores[0] == 9


def test_a_collection_that_is_a_data_class_stays_a_collection() -> None:
    assert pack([Collection()]).values == ({"dict": []},)


@pytest.mark.parametrize("name", ["os:stat_result", "builtins:object", "subprocess:Popen"])
def test_a_peer_names_no_other_class(name: str) -> None:
    payload = Payload(({"record": [name, [["args", {"v": "true"}]]]},), (), ())
    check_structure(payload.header())
    with pytest.raises(ProtocolError, match="unknown class"):
        unpack(payload)


def test_a_peer_gives_a_class_no_other_fields() -> None:
    (tree,) = pack([Pair(torch.ones(1), "")]).values
    tree["record"][1][0][0] = "__class__"
    with pytest.raises(ProtocolError, match="fields"):
        unpack(Payload((tree,), *_rest(pack([Pair(torch.ones(1), "")]))))


def _rest(payload: Payload) -> tuple[Any, Any]:
    return payload.tensors, payload.buffers


@pytest.mark.parametrize("content", ["x", ["a"], [1, []], ["a", [["b"]]], ["a", [[1, {"v": 1}]]]])
def test_a_broken_record_is_refused(content: Any) -> None:
    with pytest.raises(ProtocolError):
        check_structure(PayloadHeader(({"record": content},), (), ()))


@pytest.mark.parametrize("name", ["raw", "classification"])
def test_post_processors_see_the_fields(name: str) -> None:
    post = registry.create(name, PostprocessSpec(), ())
    reduced = post.reduce(Detection(torch.rand(2, 4), 2))
    assert len(reduced) == 2
