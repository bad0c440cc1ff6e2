import pytest
from hypothesis import given
from hypothesis import strategies as st

from splittracr.planning.meter import LinkMeter
from splittracr.planning.transfer import Transfer

MEGABYTE = 10**6


def transfer(up: int, down: int, rates: tuple[float, float], round_trip_ms: float) -> Transfer:
    """One over a link with these rates, in bytes a second."""
    up_ms, down_ms = up / rates[0] * 1e3, down / rates[1] * 1e3
    return Transfer(2, up, down, round_trip_ms + up_ms + down_ms, {}, up_ms, down_ms)


@given(
    st.floats(1e4, 1e9),
    st.floats(1e4, 1e9),
    st.floats(0.1, 500),
    st.lists(st.integers(2**15, 2**24), min_size=1, max_size=20),
)
def test_a_steady_link_is_seen_as_it_is(
    up: float, down: float, round_trip_ms: float, sizes: list[int]
) -> None:
    meter = LinkMeter()
    for number, size in enumerate(sizes):
        meter.observe(number, transfer(size, size, (up, down), round_trip_ms))
    assert meter.up_bytes_per_second == pytest.approx(up)
    assert meter.down_bytes_per_second == pytest.approx(down)
    assert meter.round_trip_ms == pytest.approx(round_trip_ms, rel=1e-3)


def test_nothing_is_known_before_a_transfer_shows_it() -> None:
    meter = LinkMeter()
    assert meter.up_bytes_per_second is meter.down_bytes_per_second is meter.round_trip_ms is None
    meter.observe(0.0, Transfer(2, 2**15 - 1, 100, 12.0, {}, 1.0, 0.0))
    assert meter.up_bytes_per_second is meter.down_bytes_per_second is None
    assert meter.round_trip_ms == 11.0


def test_a_rate_that_changes_is_followed() -> None:
    meter = LinkMeter()
    for number in range(20):
        meter.observe(number, transfer(100_000, 0, (10 * MEGABYTE, MEGABYTE), 10))
    for number in range(20, 35):
        meter.observe(number, transfer(100_000, 0, (MEGABYTE, MEGABYTE), 10))
    assert meter.up_bytes_per_second == pytest.approx(MEGABYTE, rel=0.05)


def test_what_waited_for_others_is_not_taken_for_the_round_trip() -> None:
    meter = LinkMeter()
    for at, waited in ((0.0, 0.0), (1.0, 40.0), (2.0, 7.0)):
        meter.observe(at, Transfer(2, 100, 100, 20.0 + waited, {}))
    assert meter.round_trip_ms == 20.0
    meter.observe(11.5, Transfer(2, 100, 100, 60.0, {}))  # the first two are long ago
    assert meter.round_trip_ms == 27.0
