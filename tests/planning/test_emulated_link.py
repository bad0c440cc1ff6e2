"""The emulated link: exact sums, queue, delay, jitter and loss, all without a clock."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splittracr.experiment.errors import InvalidInput
from splittracr.planning.emulated_link import (
    PACKET_BYTES,
    Capacity,
    Conditions,
    Delivery,
    EmulatedLink,
    Span,
    constant,
    scaled,
    with_round_trip,
)

MS = 10**6
SECOND = 10**9
BYTE = 8 * SECOND  # nanobits

rates = st.one_of(st.just(0), st.integers(0, 10**9))
spans = st.builds(Span, st.integers(1, 10**10), rates, st.integers(0, 10**8))
live = st.lists(spans, min_size=1, max_size=6).filter(lambda s: any(x.bits_per_second for x in s))
conditions = st.builds(
    Conditions,
    spans=live.map(tuple),
    offset_ns=st.integers(0, 10**11),
    jitter_ns=st.sampled_from([0, 5 * MS]),
    loss_per_million=st.sampled_from([0, 100_000]),
)
steady = conditions.map(
    lambda c: Conditions(with_round_trip(c.spans, c.spans[0].round_trip_ns), c.offset_ns)
)
gaps_and_sizes = st.lists(
    st.tuples(st.integers(0, 10**9), st.integers(1, 200_000)), min_size=1, max_size=12
)


def link(mbit: int, round_trip_ms: int, **further: int) -> EmulatedLink:
    spans = constant(mbit * 10**6, round_trip_ms * MS)
    return EmulatedLink(Conditions(spans, **further), Random(1))


def send_all(
    given: Conditions, messages: Sequence[tuple[int, int]], seed: int = 7
) -> list[tuple[int, Delivery]]:
    emulated, now, sent = EmulatedLink(given, Random(seed)), 0, []
    for gap, size in messages:
        now += gap
        sent.append((now, emulated.send(now, size)))
    return sent


# ------------------------------------------------------------------------------- capacity


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=5),
    st.integers(0, 40),
    st.integers(0, 200),
)
def test_capacity_is_the_sum_over_every_nanosecond(
    pieces: list[tuple[int, int]], offset: int, until: int
) -> None:
    flat = [rate for duration, rate in pieces for _ in range(duration)]
    capacity = Capacity([Span(duration, rate, 0) for duration, rate in pieces], offset)
    summed = sum(flat[(ns + offset) % len(flat)] for ns in range(until))
    assert capacity.nanobits(until) - capacity.nanobits(0) == summed


@given(live, st.integers(0, 10**11), st.integers(0, 10**12), st.integers(1, 10**22))
def test_time_is_the_first_nanosecond_at_which_so_much_was_carried(
    pieces: list[Span], offset: int, now: int, further: int
) -> None:
    capacity = Capacity(pieces, offset)
    wanted = capacity.nanobits(now) + further
    at = capacity.time(wanted)
    assert at > now
    assert capacity.nanobits(at - 1) < wanted <= capacity.nanobits(at)


def test_a_span_without_rate_is_waited_out_and_not_at_its_start() -> None:
    capacity = Capacity([Span(SECOND, 8, 0), Span(SECOND, 0, 0)])
    assert capacity.time(BYTE) == SECOND  # the last bit went before the plateau
    assert capacity.time(BYTE + 1) == 2 * SECOND + 1
    assert capacity.time(2 * BYTE) == 3 * SECOND
    assert capacity.nanobits(SECOND) == capacity.nanobits(2 * SECOND) == BYTE


# ---------------------------------------------------------------------- rate, delay, queue


def test_a_message_takes_its_bytes_over_the_rate_and_half_a_round_trip() -> None:
    assert link(50, 10).send(3 * MS, 784_000) == Delivery(
        departs=3 * MS + 784_000 * 160, arrives=3 * MS + 784_000 * 160 + 5 * MS
    )


def test_delay_does_not_hold_up_the_next_message() -> None:
    pipe = link(8, 1000)  # a byte a microsecond, half a second of delay
    first, second = pipe.send(0, 1000), pipe.send(0, 1000)
    assert (first.departs, second.departs) == (MS, 2 * MS)
    assert (first.arrives, second.arrives) == (501 * MS, 502 * MS)


def test_an_idle_link_saves_nothing_up() -> None:
    pipe = link(8, 0)
    pipe.send(0, 1000)
    assert pipe.send(10 * MS, 1000).departs == 11 * MS


def test_a_message_that_begins_while_nothing_gets_through_waits() -> None:
    outage = Conditions((Span(SECOND, 8000, 0), Span(9 * SECOND, 0, 0)))
    emulated = EmulatedLink(outage, Random(0))
    assert emulated.send(5 * SECOND, 500).departs == 10 * SECOND + SECOND // 2


def test_the_offset_begins_within_the_spans_and_they_repeat() -> None:
    pieces = (Span(SECOND, 8000, 0), Span(SECOND, 80_000, 0))
    late = EmulatedLink(Conditions(pieces, offset_ns=SECOND), Random(0))
    assert late.send(0, 10_000).departs == SECOND
    assert late.send(SECOND, 1_000 + 10_000 + 1_000).departs == 4 * SECOND


@given(conditions, gaps_and_sizes)
def test_what_leaves_in_a_busy_period_is_what_the_rate_carries(
    given: Conditions, messages: list[tuple[int, int]]
) -> None:
    capacity = Capacity(given.spans, given.offset_ns)
    carried = 0
    for (now, delivery), (_, size) in zip(send_all(given, messages), messages, strict=True):
        carried = max(carried, capacity.nanobits(now)) + size * BYTE
        assert capacity.nanobits(delivery.departs - 1) < carried
        assert carried <= capacity.nanobits(delivery.departs)


@given(conditions, gaps_and_sizes)
def test_nothing_is_overtaken_or_early(given: Conditions, messages: list[tuple[int, int]]) -> None:
    sent = send_all(given, messages)
    shortest = min(span.round_trip_ns for span in given.spans) // 2
    for now, delivery in sent:
        assert now < delivery.departs <= delivery.arrives - shortest
    for (_, one), (_, next_one) in pairwise(sent):
        assert one.departs <= next_one.departs
        assert one.arrives <= next_one.arrives
    assert sent == send_all(given, messages)


@given(conditions, gaps_and_sizes, st.data())
def test_chunks_change_nothing_of_when_the_last_byte_gets_through(
    given: Conditions, messages: list[tuple[int, int]], data: st.DataObject
) -> None:
    whole, chunked = EmulatedLink(given, Random(7)), EmulatedLink(given, Random(7))
    now = 0
    for gap, size in messages:
        now += gap
        expected = whole.send(now, size)
        cuts = data.draw(st.lists(st.integers(1, size), max_size=5).map(sorted))
        at = now
        for chunk in (b - a for a, b in pairwise([0, *cuts, size]) if b > a):
            last = chunked.send(at, chunk)
            at = data.draw(st.integers(at, max(at, last.departs - 1)))  # while it is still queued
        assert last == expected


@given(steady, st.lists(st.integers(0, 10**8), min_size=6, max_size=6), gaps_and_sizes)
def test_more_rate_is_never_slower(
    given: Conditions, more: list[int], messages: list[tuple[int, int]]
) -> None:
    faster = tuple(
        replace(span, bits_per_second=span.bits_per_second + extra)
        for span, extra in zip(given.spans, more, strict=False)
    )
    slow, fast = send_all(given, messages), send_all(replace(given, spans=faster), messages)
    for (_, one), (_, other) in zip(slow, fast, strict=True):
        assert other.departs <= one.departs
        assert other.arrives <= one.arrives


@given(st.integers(1, 10**9), st.integers(0, 10**9), st.integers(1, 10**6))
def test_more_rate_is_never_slower_with_the_same_luck(rate: int, more: int, size: int) -> None:
    def arrival(bits_per_second: int) -> int:
        spans = constant(bits_per_second, 40 * MS)
        lossy = Conditions(spans, jitter_ns=10 * MS, loss_per_million=50_000)
        return EmulatedLink(lossy, Random(3)).send(0, size).arrives

    assert arrival(rate + more) <= arrival(rate)


@given(conditions, gaps_and_sizes)
def test_no_more_is_in_flight_than_the_link_says(
    given: Conditions, messages: list[tuple[int, int]]
) -> None:
    sent = [delivery for _, delivery in send_all(given, messages)]
    sizes = [size for _, size in messages]
    for moment in (delivery.departs for delivery in sent):
        pairs = zip(sent, sizes, strict=True)
        flying = sum(size for d, size in pairs if d.departs <= moment < d.arrives)
        assert flying <= given.in_flight_bytes + max(sizes)  # a message may have left partly before


def test_in_flight_is_the_rate_times_the_longest_delay() -> None:
    def in_flight(**further: int) -> int:
        spans = (Span(SECOND, 8 * 10**6, 20 * MS), Span(SECOND, 0, 10 * MS))  # 1 kB a millisecond
        return Conditions(spans, **further).in_flight_bytes

    assert in_flight() == 10_001
    assert in_flight(jitter_ns=3 * MS) == 13_001
    assert in_flight(jitter_ns=3 * MS, loss_per_million=1) == 53_001


# ---------------------------------------------------------------------------- jitter and loss


def test_jitter_is_spread_over_its_range_and_differs_from_seed_to_seed() -> None:
    one = Conditions(constant(10**9, 20 * MS), jitter_ns=4 * MS)
    sent = send_all(one, [(SECOND, 100)] * 400)
    delays = [(delivery.arrives - delivery.departs) / MS for _, delivery in sent]
    assert min(delays) == pytest.approx(10, abs=0.1)
    assert max(delays) == pytest.approx(14, abs=0.1)
    assert sum(delays) / len(delays) == pytest.approx(12, abs=0.2)
    assert sent != send_all(one, [(SECOND, 100)] * 400, seed=8)


def test_so_many_packets_stall_as_are_lost_and_for_one_to_two_round_trips() -> None:
    lossy = Conditions(constant(10**9, 20 * MS), loss_per_million=200_000)
    sent = send_all(lossy, [(SECOND, 100)] * 1000)
    stalls = [delivery.arrives - delivery.departs - 10 * MS for _, delivery in sent]
    lost = [stall for stall in stalls if stall]
    assert len(lost) == pytest.approx(200, abs=45)
    assert all(20 * MS <= stall <= 40 * MS for stall in lost)
    assert sum(lost) / len(lost) == pytest.approx(30 * MS, abs=2 * MS)


def test_a_large_message_is_exposed_to_loss_once_a_packet() -> None:
    lossy = Conditions(constant(10**9, 20 * MS), loss_per_million=10_000)
    sent = send_all(lossy, [(SECOND, 100 * PACKET_BYTES)] * 300)
    stalled = sum(d.arrives - d.departs > 10 * MS for _, d in sent)
    # Stalls of early packets are over by the end, but this message leaves within 1.2 ms.
    assert stalled / len(sent) == pytest.approx(1 - 0.99**100, abs=0.08)


def test_what_follows_a_lost_packet_waits_for_it() -> None:
    always = link(8, 100, loss_per_million=1_000_000)
    first, second = always.send(0, PACKET_BYTES), always.send(0, 1)
    assert 150 * MS <= first.arrives - first.departs <= 250 * MS
    assert second.arrives >= first.arrives


def test_small_messages_apart_are_packets_of_their_own() -> None:
    def luck(gap: int) -> set[int]:
        sent = send_all(Conditions(constant(10**9, 0), jitter_ns=MS), [(gap, 10)] * 20)
        return {delivery.arrives - delivery.departs for _, delivery in sent}

    assert len(luck(SECOND)) == 20
    assert len(luck(80)) == 20  # each exactly when the one before it has left
    assert len(luck(0)) < 20


def test_the_delay_is_that_of_the_span_in_which_a_packet_leaves() -> None:
    outage = Span(SECOND, 0, 100 * MS)
    change = Conditions((Span(SECOND, 10**9, 40 * MS), outage, Span(SECOND, 10**9, 10 * MS)))
    emulated = EmulatedLink(change, Random(0))
    sent = [emulated.send(at, 100) for at in (0, SECOND // 2, SECOND * 3 // 2, SECOND * 5 // 2)]
    assert [(d.arrives - d.departs) / MS for d in sent] == [20, 20, 5, 5]


# ------------------------------------------------------------------------------- what cannot be


@pytest.mark.parametrize("spans", [(), constant(0, 0), scaled(constant(1, 0), 50)])
def test_a_link_that_never_carries_anything_is_refused(spans: tuple[Span, ...]) -> None:
    with pytest.raises(InvalidInput, match="0 bit/s throughout"):
        Conditions(spans)


@pytest.mark.parametrize("values", [(0, 1, 1), (-1, 1, 1), (1, -1, 1), (1, 1, -1)])
def test_a_span_without_duration_or_below_zero_is_refused(values: tuple[int, int, int]) -> None:
    with pytest.raises(InvalidInput):
        Span(*values)


def test_nothing_cannot_be_sent() -> None:
    with pytest.raises(ValueError, match="0 bytes"):
        link(1, 1).send(0, 0)


def test_a_trace_is_scaled_in_rate_and_given_another_round_trip() -> None:
    spans = (Span(5, 1000, 7), Span(6, 0, 8))
    assert scaled(spans, 25) == (Span(5, 250, 7), Span(6, 0, 8))
    assert with_round_trip(spans, 9) == (Span(5, 1000, 9), Span(6, 0, 9))
