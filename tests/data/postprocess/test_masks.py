"""Run lengths: exact both ways, and small."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from splittracr.data.postprocess import masks
from tests.data.helpers import size_of, travelled


@given(st.data(), st.integers(0, 4), st.integers(0, 7), st.integers(0, 7))
def test_masks_survive(data: st.DataObject, count: int, height: int, width: int) -> None:
    total = count * height * width
    bits = data.draw(st.lists(st.booleans(), min_size=total, max_size=total))
    pixels = torch.tensor(bits, dtype=torch.bool).reshape(count, height, width)
    encoded = travelled(masks.encode(pixels))
    assert torch.equal(masks.decode(encoded), pixels)
    assert encoded["mask_pixels"].tolist() == [int(mask.sum()) for mask in pixels]
    assert all(value.dtype == torch.int32 for value in encoded.values())


def test_a_blob_takes_two_numbers_a_row() -> None:
    y, x = torch.meshgrid(torch.arange(640), torch.arange(640), indexing="ij")
    disc = ((x - 320) ** 2 + (y - 320) ** 2 < 200**2)[None]
    assert size_of(masks.encode(disc)) < 4 * (2 * 400 + 10)
