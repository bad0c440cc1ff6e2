"""float16 conversions: numpy's own bits, for all numbers."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from splittracr.wire.half import from_half, to_half

ALL = np.arange(2**16, dtype=np.uint16)
FINITE = ALL[(ALL & 0x7C00) != 0x7C00]


def test_every_half_widens_exactly() -> None:
    for halves in (ALL, FINITE):
        want = halves.view(np.float16).astype(np.float32)
        np.testing.assert_array_equal(from_half(halves).view(np.uint32), want.view(np.uint32))


def test_every_half_comes_back() -> None:
    np.testing.assert_array_equal(to_half(from_half(FINITE)), FINITE)


def test_ties_go_to_even_and_neighbours_to_the_nearest() -> None:
    normal = FINITE[(FINITE & 0x7FFF) >= 0x400]
    values = from_half(normal[(normal & 0x7FFF) < 0x7BFF])
    above = from_half(normal[(normal & 0x7FFF) < 0x7BFF] + np.uint16(1))
    middle = ((values.astype(np.float64) + above) / 2).astype(np.float32)
    for numbers in (middle, np.nextafter(middle, np.float32(0)), np.nextafter(middle, values * 2)):
        np.testing.assert_array_equal(to_half(numbers).view(np.float16), numbers.astype(np.float16))


@given(st.lists(st.floats(-65504, 65504, width=32), min_size=1, max_size=50))
def test_rounding_is_numpys(numbers: list[float]) -> None:
    values = np.array(numbers, np.float32)
    half, want = to_half(values).view(np.float16), values.astype(np.float16)
    normal = np.abs(values) >= 2.0**-14
    np.testing.assert_array_equal(half[normal].view(np.uint16), want[normal].view(np.uint16))
    np.testing.assert_array_equal(np.signbit(half), np.signbit(want))
    error = np.abs(half.astype(np.float64) - values)
    assert np.all(error <= np.maximum(np.abs(values) * 2.0**-11, 2.0**-25 + 2.0**-38))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_too_large_is_clamped_and_the_rest_unharmed(dtype: type[np.floating]) -> None:
    values = np.array([65505, 65520, 1e30, -1e30, np.inf, -np.inf, np.nan, 1 / 3, 0, -0.0], dtype)
    half = to_half(values).view(np.float16)
    want = np.array([65504, 65504, 65504, -65504, np.inf, -np.inf, np.nan, 1 / 3, 0, -0.0])
    np.testing.assert_array_equal(half, want.astype(np.float16))
    assert np.signbit(half[-1])


def test_several_blocks_and_none() -> None:
    values = np.random.default_rng(0).standard_normal(40_001, dtype=np.float32)
    np.testing.assert_array_equal(to_half(values).view(np.float16), values.astype(np.float16))
    assert to_half(values[:0]).size == from_half(ALL[:0]).size == 0


def test_memory_at_odd_addresses_will_do() -> None:
    values: NDArray[np.float32] = np.frombuffer(bytes(1) + np.float32(0.1).tobytes(), "f4", 1, 1)
    assert to_half(values).view(np.float16) == np.float16(0.1)


def test_a_thread_without_subnormal_numbers_keeps_those_of_float16() -> None:
    values = np.array([2.0**-15, 2.0**-24, -(2.0**-20)], np.float32)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormal numbers")
    try:
        half = to_half(values)
        back = from_half(half)
    finally:
        torch.set_flush_denormal(False)
    np.testing.assert_array_equal(back, values)
    np.testing.assert_array_equal(half.view(np.float16), values.astype(np.float16))
