"""The manifest's emulated link as conditions, and in words."""

from typing import Any

import pytest

from splittracr.experiment.spec import LinkSpec
from splittracr.planning.emulated_link import Conditions, Span
from splittracr.planning.emulation import AS_IT_IS, Direction, conditions, emulated, in_words, seed

MS, SECOND, MBIT = 10**6, 10**9, 10**6
RATES = {"uplinkKilobitsPerSecond": 5000, "downlinkKilobitsPerSecond": 20000}
PHASES = [
    {"durationSeconds": 10, **RATES, "roundTripMilliseconds": 20},
    {"durationSeconds": 5, "uplinkKilobitsPerSecond": 0, "downlinkKilobitsPerSecond": 800},
]


def link(**fields: Any) -> LinkSpec:
    return LinkSpec.model_validate(fields, by_alias=True)


def test_rates_each_way() -> None:
    spec = link(**RATES, roundTripMilliseconds=40, jitterMilliseconds=3, lossPerMillion=100)
    assert conditions(spec, Direction.UP) == Conditions(
        (Span(SECOND, 5 * MBIT, 40 * MS),), jitter_ns=3 * MS, loss_per_million=100
    )
    assert conditions(spec, Direction.DOWN).spans == (Span(SECOND, 20 * MBIT, 40 * MS),)


def test_phases_each_way() -> None:
    spec = link(phases=PHASES, offsetSeconds=7)
    assert conditions(spec, Direction.UP) == Conditions(
        (Span(10 * SECOND, 5 * MBIT, 20 * MS), Span(5 * SECOND, 0, 0)), offset_ns=7 * SECOND
    )
    assert conditions(spec, Direction.DOWN).spans[1] == Span(5 * SECOND, 800_000, 0)


def test_a_trace_is_scaled_each_way_and_keeps_its_round_trips_unless_told() -> None:
    trace = (Span(SECOND, 30 * MBIT, 20 * MS), Span(2 * SECOND, 10 * MBIT, 50 * MS))
    spec = link(trace="bus.csv", uplinkPercent=30)
    assert conditions(spec, Direction.UP, trace).spans == (
        Span(SECOND, 9 * MBIT, 20 * MS),
        Span(2 * SECOND, 3 * MBIT, 50 * MS),
    )
    assert conditions(spec, Direction.DOWN, trace).spans == trace
    traced = link(trace="bus.csv", roundTripMilliseconds=5)
    assert [s.round_trip_ns for s in conditions(traced, Direction.UP, trace).spans] == [5 * MS] * 2


def test_directions_and_edges_have_random_numbers_of_their_own() -> None:
    spec = link(**RATES, seed=4)
    seeds = {seed(spec, way, edge) for way in Direction for edge in ("edge-0", "edge-1")}
    assert len(seeds) == 4


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (RATES, "5 Mbit/s up, 20 Mbit/s down"),
        (
            {**RATES, "roundTripMilliseconds": 40, "jitterMilliseconds": 2, "lossPerMillion": 5000},
            "5 Mbit/s up, 20 Mbit/s down, 40 ms round trip, up to 2 ms jitter, "
            "0.5 % of packets lost",
        ),
        ({"trace": "4g/bus.csv", "uplinkPercent": 30}, "trace bus.csv, 30 % of that rate up"),
        (
            {"phases": PHASES},
            "5 Mbit/s up, 20 Mbit/s down with 20 ms round trip for 10 s, then "
            "0 kbit/s up, 800 kbit/s down for 5 s",
        ),
        ({"phases": PHASES * 3}, "then 2 more"),
    ],
)
def test_words(fields: dict[str, Any], words: str) -> None:
    assert in_words(link(**fields)).startswith("emulated: ")
    assert in_words(link(**fields)).endswith(words)


def test_what_is_emulated_names_edge_and_link() -> None:
    both = in_words(link(**RATES))
    slowed = "edge slowed to 400 % of its own time"
    assert emulated(100, AS_IT_IS) is None
    assert emulated(400, AS_IT_IS) == slowed
    assert emulated(100, both) == "link of 5 Mbit/s up, 20 Mbit/s down"
    assert emulated(400, both) == f"{slowed}; link of 5 Mbit/s up, 20 Mbit/s down"
    two = f"{both} at the edge; {AS_IT_IS} at the server"
    assert emulated(100, two) == (
        "link of 5 Mbit/s up, 20 Mbit/s down at the edge; as it is at the server"
    )
