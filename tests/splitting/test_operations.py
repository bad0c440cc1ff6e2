"""What a proof says of each operation, against values worked out by hand."""

import pytest
import torch
from torch import Tensor, nn

from splittracr.experiment.types import Operation
from splittracr.splitting.capture import capture
from splittracr.splitting.prove import prove


class Small(nn.Module):
    """A convolution, a parameter that is added, a split and a product."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.ReLU())
        self.offset = nn.Parameter(torch.ones(4, 1, 1))
        self.fc = nn.Linear(2 * 8 * 6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x) + self.offset
        first, _ = x.chunk(2, dim=1)
        return self.fc(first.flatten(1))  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    """An operation of several modules, and one whose work cannot be counted."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.fc = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        attended, _ = self.attention(x, x, x, need_weights=False)
        spectrum = torch.fft.rfft(attended).abs()[:, :, :1]
        return self.fc(attended + spectrum)  # type: ignore[no-any-return]


def operations(module: nn.Module, example: Tensor) -> tuple[Operation, ...]:
    return prove(capture(module.eval(), example), example).operations


def test_shapes_bytes_parameters_and_flops_are_those_of_the_batch() -> None:
    # Of two frames of 8 x 6: 96 places, each 4 x 3 x 9 multiplications and as many additions.
    whole, half = (2, 4, 8, 6), (2, 2, 8, 6)
    values = 2 * 4 * 8 * 6
    conv, linear = 4 * 3 * 9, 96 * 5 + 5
    expected: list[tuple[str, str, str, tuple[tuple[int, ...], ...], int, int, int]] = [
        ("stem.0", "stem.0", "Conv2d", (whole,), values * 4, conv, 2 * 96 * 4 * 3 * 9),
        ("stem.1", "stem.1", "ReLU", (whole,), values * 4, 0, 0),
        ("add", "", "add", (whole,), values * 4, 4, 0),
        ("chunk", "", "chunk", (half, half), values * 4, 0, 0),
        ("after_stem.getitem", "", "getitem", (half,), values * 2, 0, 0),
        ("after_stem.getitem_1", "", "getitem", (), 0, 0, 0),
        ("flatten", "", "flatten", ((2, 96),), 2 * 96 * 4, 0, 0),
        ("fc", "fc", "Linear", ((2, 5),), 2 * 5 * 4, linear, 2 * 2 * 96 * 5),
    ]
    assert [
        (one.name, one.module, one.type, one.shapes, one.bytes, one.parameters, one.flops)
        for one in operations(Small(), torch.rand(2, 3, 8, 6))
    ] == expected


def test_a_module_with_others_inside_stays_whole_and_what_cannot_be_counted_is_none() -> None:
    by_name = {one.name: one for one in operations(Recurrent(), torch.rand(1, 5, 16))}
    attention = by_name["attention"]
    assert (attention.type, attention.whole) == ("MultiheadAttention", True)
    assert attention.parameters == 4 * 16 * 16 + 4 * 16
    # Three projections in and one out of 5 x 16, then two products of 2 heads of 5 x 5 x 8.
    assert attention.flops == 2 * 4 * 5 * 16 * 16 + 2 * 2 * 2 * 5 * 5 * 8
    assert by_name["fft_rfft"].flops is None
    assert by_name["fc"].flops == 2 * 5 * 16 * 3
    assert not by_name["fc"].whole


class Encoder(nn.Module):
    def __init__(self, mask: Tensor | None = None) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(16))
        self.mask = mask

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x, mask=self.mask)[:, 0]  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_an_encoder_of_torch_is_cut_between_its_layers() -> None:
    module, example = Encoder().eval(), torch.rand(3, 5, 16)
    with torch.inference_mode():
        tape = capture(module, example)
        assert tape.cut_names == (
            "input", "encoder.layers.0", "encoder.layers.1", "encoder.norm", "output"
        )  # fmt: skip
        assert not prove(tape, example).refused
        other = torch.rand(2, 7, 16)
        assert torch.equal(tape(other), module(other))


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_an_encoder_with_a_mask_stays_whole() -> None:
    causal = nn.Transformer.generate_square_subsequent_mask(5)
    whole = operations(Encoder(causal), torch.rand(1, 5, 16))[0]
    assert (whole.name, whole.type, whole.whole) == ("encoder", "TransformerEncoder", True)
