"""Operations of fused kernels are counted, and what cannot be counted is said and timed."""

import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from splittracr.planning.schedule import spread
from splittracr.splitting.capture import capture
from splittracr.splitting.flops import Flops, count
from splittracr.splitting.prove import prove

T, N, E, H = 5, 2, 16, 8


class Of(nn.Module):
    """One part, that of a sequence whose result is a pair included."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part, self.pair = part, isinstance(part, nn.RNNBase)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.part(x)[0] if self.pair else self.part(x)
        return made


class Calls(nn.Module):
    """One function as an operation."""

    def __init__(self, call: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x)


class SelfAttention(nn.Module):
    """Attention of a sequence to itself."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(E, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x, x, need_weights=False)[0]  # type: ignore[no-any-return]


def counted(part: nn.Module) -> Flops:
    module, x = Of(part).eval(), torch.randn(N, T, E)
    leaves = (Calls, SelfAttention, nn.RNNBase, nn.TransformerEncoder)
    return count(capture(module, x, leaves), x)


def recurrent(gates: int, layers: int = 1, directions: int = 1) -> int:
    width = H * directions
    inputs = [E, *[width] * (layers - 1)]
    return 2 * T * N * directions * sum(gates * H * (n + H) for n in inputs)


ATTENTION = 2 * N * T * (3 * E * E + E * E) + 2 * 2 * N * T * T * E


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (nn.LSTM(E, H, batch_first=True), recurrent(4)),
        (nn.LSTM(E, H, 2, batch_first=True), recurrent(4, 2)),
        (nn.LSTM(E, H, batch_first=True, bidirectional=True), recurrent(4, 1, 2)),
        (nn.GRU(E, H, batch_first=True), recurrent(3)),
        (nn.RNN(E, H, batch_first=True), recurrent(1)),
        (SelfAttention(), ATTENTION),
        (
            nn.TransformerEncoder(nn.TransformerEncoderLayer(E, 2, 32, batch_first=True), 1),
            ATTENTION + 2 * 2 * N * T * E * 32,
        ),
        (
            Calls(lambda x: functional.scaled_dot_product_attention(x[:, None], x, x[None]).sum(0)),
            None,
        ),
        (Calls(lambda x: x @ torch.ones(E)), 2 * N * T * E),
        (Calls(lambda x: torch.einsum("bij,bkj->bik", x, x)), 2 * N * T * T * E),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_fused_kernels_are_counted(part: nn.Module, expected: int | None) -> None:
    found = counted(part)
    assert found.unknown == ()
    assert found.counts[-1] > 0
    assert expected is None or found.counts[-1] == expected


@torch.library.custom_op("splittracr_tests::slow", mutates_args=())
def slow(x: Tensor) -> Tensor:
    """An operation of a library that torch knows nothing about; it takes a while."""
    end = time.perf_counter() + 0.05
    while time.perf_counter() < end:
        pass
    return x * 2.0


@slow.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda x: torch.cdist(x, x), "aten::_cdist_forward"),
        (lambda x: torch.fft.rfft(x).real, "aten::_fft_r2c"),
        (lambda x: torch.linalg.svdvals(x), "aten::_linalg_svd"),
        (lambda x: functional.bilinear(x, x, torch.ones(3, E, E)), "aten::_trilinear"),
        (slow, "splittracr_tests::slow"),
    ],
)
def test_what_has_no_formula_is_named(call: Callable[[Tensor], Tensor], name: str) -> None:
    assert name in counted(Calls(call)).unknown


@pytest.mark.parametrize(
    "call",
    [torch.relu, lambda x: x.softmax(-1).cumsum(1), lambda x: functional.layer_norm(x, (E,))],
)
def test_what_only_looks_at_values_is_no_work(call: Callable[[Tensor], Tensor]) -> None:
    assert counted(Calls(call)) == Flops((0,) * len(counted(Calls(call)).counts))


class Unknown(nn.Module):
    """Cheap layers around an expensive one that cannot be counted."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.slow, self.last = nn.Linear(E, E), Calls(slow), nn.Linear(E, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        return self.last(torch.relu(self.slow(x)))  # type: ignore[no-any-return]


def test_time_is_the_weight_of_what_cannot_be_counted() -> None:
    x = torch.randn(N, T, E)
    proof = prove(capture(Unknown().eval(), x, (Calls,)), x)
    assert proof.uncounted == ("splittracr_tests::slow",)
    work = {cut.name: cut.work for cut in proof.cuts}
    assert {cut.work_by for cut in proof.cuts} == {"time"}
    assert list(work.values()) == sorted(work.values())
    assert (work["input"], work["output"]) == (0.0, 1.0)
    assert work["slow"] - work["first"] > 0.5
    chosen = spread(proof.cuts, 4)  # on each side of the layer that takes the time
    assert any(0 < k <= 2 for k in chosen)
    assert any(3 <= k < proof.cuts[-1].index for k in chosen)


def test_counted_work_stays_a_share_of_operations() -> None:
    x = torch.randn(N, T, E)
    module = nn.Sequential(nn.Linear(E, E), nn.ReLU(), nn.Linear(E, E)).eval()
    proof = prove(capture(module, x), x)
    assert [cut.work for cut in proof.cuts] == [0.0, 0.5, 0.5, 1.0]
    assert {cut.work_by for cut in proof.cuts} == {"operations"}
    assert proof.uncounted == ()
