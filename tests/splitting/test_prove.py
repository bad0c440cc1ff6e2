"""The proof accepts what is exact, and refuses by name what is not."""

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from splittracr.experiment.types import Cut
from splittracr.splitting import live, prove
from splittracr.splitting.capture import capture
from splittracr.splitting.proof import Proof
from splittracr.splitting.prove import same
from splittracr.splitting.tape import Tape
from splittracr.wire.payload import Payload
from tests.splitting.networks import EXACT, Random, Residual, Sparse, WritesThroughView


def proof_of(network: type[nn.Module]) -> Proof:
    module = network().eval()
    x = torch.rand(1, 3, 8, 8)
    return prove.prove(capture(module, x), x)


@pytest.mark.parametrize("network", EXACT)
def test_exact_networks_are_accepted_whole(network: type[nn.Module]) -> None:
    proof = proof_of(network)
    assert proof.refused == {}
    assert len(proof.offered()) == len(proof.cuts) == len(proof.op_ms) + 1


def test_work_rises_from_nothing_to_all_and_names_match_positions() -> None:
    proof = proof_of(Residual)
    work = [cut.work for cut in proof.cuts]
    assert work == sorted(work)
    assert (work[0], work[-1]) == (0.0, 1.0)
    assert [cut.index for cut in proof.cuts] == list(range(len(proof.cuts)))


def test_bytes_count_shared_storage_once() -> None:
    by_name = {cut.name: cut for cut in proof_of(WritesThroughView).cuts}
    cut = by_name["getitem"]
    whole, half = cut.live
    assert (whole.bytes, half.bytes) == (3 * 64 * 4, 64 * 4)
    assert cut.bytes == whole.bytes


def test_gaps_of_a_lone_view_are_not_counted() -> None:
    cut = next(cut for cut in proof_of(Sparse).cuts if cut.name == "getitem")
    assert cut.bytes == cut.live[0].bytes == 3 * 32 * 4


def test_a_random_operation_refuses_every_cut_before_it() -> None:
    tape = Tape(fx.symbolic_trace(Random().eval()))  # as the capture refuses it
    proof = prove.prove(tape, torch.rand(1, 3, 8, 8))
    assert set(proof.refused) == {"input", "relu"}
    assert "dropout" in proof.refused["relu"]


def test_a_wire_that_loses_sharing_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The property that the proof exists for: break it, and the proof must say so."""

    def copies(payload: Payload, device: torch.device | str = "cpu") -> list[object]:
        return [v.clone() if isinstance(v, Tensor) else v for v in live.unpack(payload, device)]

    monkeypatch.setattr(prove, "unpack", copies)
    assert "getitem" in proof_of(WritesThroughView).refused


def test_a_wire_that_loses_strides_is_only_suspected(monkeypatch: pytest.MonkeyPatch) -> None:
    def contiguous(payload: Payload, device: torch.device | str = "cpu") -> list[object]:
        values = live.unpack(payload, device)
        return [v.contiguous() if isinstance(v, Tensor) else v for v in values]

    monkeypatch.setattr(prove, "unpack", contiguous)
    assert proof_of(Sparse).refused == {}  # element-wise operations do not care


def test_a_wire_that_flips_a_bit_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def flipped(payload: Payload, device: torch.device | str = "cpu") -> list[object]:
        values = live.unpack(payload, device)
        for value in values:
            if isinstance(value, Tensor):
                value.view(torch.int32)[(0,) * value.dim()] ^= 1
        return values

    monkeypatch.setattr(prove, "unpack", flipped)
    proof = proof_of(Residual)
    assert set(proof.refused) == {cut.name for cut in proof.cuts}
    assert "do not survive the wire" in proof.refused["first"]


def test_what_cannot_travel_is_refused_not_raised() -> None:
    class Slices(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            where = torch.nonzero(x[0, 0] > 2.0, as_tuple=False)
            sparse = (x[0, 0] * 1.0).to_sparse()
            return sparse.to_dense() + where.sum()

    module = Slices().eval()
    x = torch.rand(1, 3, 8, 8)
    proof = prove.prove(capture(module, x), x)
    assert proof.refused == {"to_sparse": "a value alive there cannot cross a wire"}


@pytest.mark.parametrize("layout", ["sparse", "nested", "quantized", "mkldnn", "uint4"])
@pytest.mark.filterwarnings("ignore")
def test_an_output_that_no_wire_takes_is_compared_all_the_same(layout: str) -> None:
    class Ends(nn.Module):
        def forward(self, x: Tensor) -> Any:
            x = torch.nn.functional.dropout(x[0, 0], 0.5, training=self.noisy) * 2.0
            match layout:
                case "sparse":
                    return x.to_sparse()
                case "nested":
                    return torch.nested.nested_tensor([x[0], x[1, :2]])
                case "quantized":
                    return torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)
                case "mkldnn":
                    return x.to_mkldnn()
            return (x * 3.0).to(torch.uint8).view(getattr(torch, layout))

        noisy = False

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.ends = nn.Hardtanh(), Ends()

        def forward(self, x: Tensor) -> Any:
            return self.ends(self.scale(x))

    module = Whole().eval()
    x = torch.rand(1, 3, 8, 8)
    tape = capture(module, x, (Ends,))
    assert prove.prove(tape, x).refused == {}
    Ends.noisy = True  # a leaf that is not the same twice
    assert set(prove.prove(tape, x).refused) == {"input", "scale"}


class Conjugates(nn.Module):
    """A conjugation that torch puts off is alive at a cut, with and without its origin."""

    def __init__(self, shares: bool) -> None:
        super().__init__()
        self.shares = shares

    def forward(self, x: Tensor) -> Tensor:
        z = torch.complex(x, x + 1.0)
        other = z.conj()
        if self.shares:
            z.mul_(2.0)  # shows in `other`, which is a view
            return (other + z).real
        return other.imag * 2.0


def test_a_conjugation_that_is_put_off_crosses_a_cut() -> None:
    module, x = Conjugates(shares=False).eval(), torch.rand(1, 3, 4, 4)
    tape = capture(module, x)
    proof = prove.prove(tape, x)
    assert proof.refused == {}
    for cut in proof.offered():
        with torch.inference_mode():
            live = prove.through_wire(tape.head(cut, x))
            assert torch.equal(tape.tail(cut, live), module(x))


def test_a_view_that_is_conjugated_is_refused_where_its_origin_is_written() -> None:
    module, x = Conjugates(shares=True).eval(), torch.rand(1, 3, 4, 4)
    assert set(prove.prove(capture(module, x), x).refused) == {"conj"}


def test_same_tells_bits_not_values() -> None:
    assert same(torch.tensor([float("nan")]), torch.tensor([float("nan")]))
    assert not same(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert not same(torch.zeros(2), torch.zeros(2, dtype=torch.float64))
    assert not same((torch.zeros(2),), [torch.zeros(2)])
    assert not same(1, True)


def test_cuts_are_plain_data() -> None:
    cut = proof_of(Residual).cuts[1]
    assert Cut.model_validate_json(cut.model_dump_json()) == cut
