from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from splittracr.experiment.energy import Kind, MeasuredPower
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.profile import CodecProfile
from splittracr.experiment.spec import PowerSpec
from splittracr.planning.cost import Z95, Candidates, Limits, Objective, Power, candidates, power
from splittracr.planning.estimate import Beliefs
from splittracr.planning.plan import break_even, check_accuracy, plan
from tests.planning.profiles import codec, links, profile, sets

SLOW, FAST = Beliefs.of_link(1e5, 40), Beliefs.of_link(1e9, 1)


def three() -> Candidates:
    """The first operation is cheap and shrinks the input to a tenth, the second is expensive."""
    return candidates(*[profile([1, 50], [1_000_000, 100_000])] * 2, slowdown=10)


def test_parts_of_a_latency() -> None:
    middle = plan(three(), Beliefs.of_link(8e6, 20)).rows[1]
    assert (middle.edge_ms, middle.server_ms) == (10, 50)
    assert middle.link_ms == pytest.approx(100 + 0.1 + 20)
    assert middle.latency_ms == pytest.approx(180.1)


def test_an_input_that_is_a_picture_is_sent_by_picture_codecs_only() -> None:
    sizes = [1_000_000, 100_000]
    one = profile([1, 50], sizes, [codec("uint8", [*sizes, 9])], [codec("png", sizes[:1])])
    found = {name: candidates(one, one, codecs=[name]) for name in ("uint8", "png")}
    assert found["uint8"].names == ("cut1", "cut2")
    assert found["png"].names == ("cut0", "cut2")
    plain = profile([1, 50], sizes, [codec("uint8", [*sizes, 9])])
    assert candidates(plain, plain, codecs=["uint8"]).names == ("cut0", "cut1", "cut2")


@pytest.mark.parametrize(
    ("rate", "winner", "words"),
    [
        (1e5, 2, "Do not split: the edge alone takes 510.0 ms"),
        (8e6, 1, "Cut at cut1 and send raw"),
        (1e9, 0, "Do not split: send the whole input as raw"),
    ],
)
def test_the_winner_and_its_reason(rate: float, winner: int, words: str) -> None:
    made = plan(three(), Beliefs.of_link(rate, 20))
    assert made.winner == winner
    assert made.reason.startswith(words)


def test_edge_only_says_from_where_on_sending_pays() -> None:
    made = plan(three(), SLOW)
    assert "Sending pays above 1.99 Mbit/s (cut1 as raw)" in made.reason
    rate = made.break_even[1].begins
    assert plan(three(), SLOW.with_uplink(rate * 1.01)).winner == 1
    assert plan(three(), SLOW.with_uplink(rate * 0.99)).winner == 2


@given(sets(), links())
def test_winner_is_never_worse_than_not_to_split(offered: Candidates, beliefs: Beliefs) -> None:
    made = plan(offered, beliefs)
    best = made.rows[made.winner].latency_ms
    whole = [row.latency_ms for row in made.rows if row.cut == 0]
    assert best <= min([made.rows[-1].latency_ms, *whole])
    assert best == min(row.latency_ms for row in made.rows)


@given(sets(), links(), st.floats(1, 1000))
def test_more_bandwidth_never_makes_the_optimum_slower(
    offered: Candidates, beliefs: Beliefs, factor: float
) -> None:
    faster = replace(beliefs, up=replace(beliefs.up, ms_per_byte=beliefs.up.ms_per_byte / factor))
    before, after = plan(offered, beliefs), plan(offered, faster)
    assert after.rows[after.winner].latency_ms <= before.rows[before.winner].latency_ms


@given(sets(), links(), st.floats(3, 11))
def test_stretches_tell_the_winner_at_any_rate(
    offered: Candidates, beliefs: Beliefs, exponent: float
) -> None:
    rate = 10**exponent
    stretches = break_even(offered, beliefs)
    here = next(s for s in stretches if s.begins <= rate <= s.ends)
    latency = offered.latency_ms(replace(beliefs, up=replace(beliefs.up, ms_per_byte=8e3 / rate)))
    titles = [offered.title(i) for i in range(len(offered))]
    assert latency[titles.index(here.title)] == pytest.approx(latency.min(), rel=1e-6)
    assert [s.ends for s in stretches[:-1]] == [s.begins for s in stretches[1:]]


@given(sets(), links())
def test_no_latency_is_less_than_its_parts(offered: Candidates, beliefs: Beliefs) -> None:
    p50, p95 = offered.latency_ms(beliefs), offered.latency_ms(beliefs, 1.6)
    assert (p50 <= p95 + 1e-9).all()
    assert (offered.interval_ms(beliefs) <= p50 + 1e-6).all()
    alone = offered.edge_only
    assert p50[alone] == offered.edge_ms[alone]


# --------------------------------------------------------------------------------------- limits


def picture_candidates() -> Candidates:
    codecs = [codec("raw", [900, 900, 100]), codec("uint8", [300, 300, 50], agreement=0.97)]
    pictures = [codec("uint8", [900]), codec("jpeg90", [90], agreement=None)]
    one = profile([1, 1], [900, 900], codecs, pictures)
    return candidates(one, one)


def test_pictures_travel_by_their_own_codecs() -> None:
    titles = [picture_candidates().title(i) for i in range(5)]
    expected = ["cut0 as uint8", "cut0 as jpeg90", "cut1 as raw", "cut1 as uint8", "edge only"]
    assert titles == expected


@pytest.mark.parametrize(
    ("limits", "left"),
    [
        (Limits(cuts=(1,)), ["cut1 as raw", "cut1 as uint8"]),
        (Limits(codecs=("uint8",)), ["cut0 as uint8", "cut1 as uint8", "edge only"]),
        (Limits(memory_bytes=1000), ["cut0 as uint8", "cut0 as jpeg90"]),
        (Limits(agreement=0.98), ["cut0 as uint8", "cut1 as raw", "edge only"]),
        (Limits(deadline_ms=2.1), ["cut0 as uint8", "cut0 as jpeg90", "edge only"]),
    ],
)
def test_limits_leave_what_they_allow(limits: Limits, left: list[str]) -> None:
    beliefs = Beliefs.of_link(1e15, 0)
    slow_tail = replace(
        picture_candidates(), edge_ms=np.array([0.0, 0.0, 2.5, 2.5, 2.0])
    ) if limits.deadline_ms else picture_candidates()  # fmt: skip
    made = plan(slow_tail, beliefs, limits=limits)
    assert [row.title for row in made.rows if row.excluded is None] == left
    assert made.rows[made.winner].title in left
    assert {s.title for s in made.break_even} <= set(left)


def measured_candidates() -> Candidates:
    """A measured accuracy of the pictures and of cut1, but none of uint4 there."""
    codecs = [
        codec("raw", [900, 900, 100]),
        codec("uint8", [300, 300, 50], agreement=0.5, accuracy=[None, 0.995, None]),
        codec("uint4", [150, 150, 25], agreement=1.0, accuracy=[None, None, None]),
    ]
    pictures = [
        codec("png", [800]),
        codec("jpeg90", [90], agreement=None, accuracy=[0.98]),
        codec("jpeg50@50", [20], agreement=None, accuracy=[0.7]),
    ]
    one = profile([1, 1], [900, 900], codecs, pictures)
    return candidates(one, one)


@pytest.mark.parametrize(
    ("accuracy", "left"),
    [
        (0.6, ["png", "jpeg90", "jpeg50@50", "raw", "uint8", "edge only"]),
        (0.98, ["png", "jpeg90", "raw", "uint8", "edge only"]),
        (0.99, ["png", "raw", "uint8", "edge only"]),
        (1.0, ["png", "raw", "edge only"]),
    ],
)
def test_accuracy_is_that_which_was_measured(accuracy: float, left: list[str]) -> None:
    made = plan(measured_candidates(), FAST, limits=Limits(accuracy=accuracy))
    assert [row.codec for row in made.rows if row.excluded is None] == left
    unknown = [row.title for row in made.rows if row.excluded == "accuracy was not measured"]
    assert unknown == ["cut1 as uint4"]  # its agreement is another figure
    assert made.rows[made.winner].codec in left


def test_without_a_measured_accuracy_agreement_counts() -> None:
    made = plan(picture_candidates(), FAST, limits=Limits(accuracy=0.97))
    assert [(row.title, row.accuracy, row.excluded) for row in made.rows] == [
        ("cut0 as uint8", 1.0, None),
        ("cut0 as jpeg90", None, "accuracy was not measured"),
        ("cut1 as raw", 1.0, None),
        ("cut1 as uint8", 0.97, None),
        ("edge only", 1.0, None),
    ]


def test_what_keeps_too_little_is_named_if_nothing_is_left() -> None:
    limits = Limits(accuracy=0.999, codecs=("jpeg90", "uint8", "uint4", "jpeg50@50"), cuts=(0, 1))
    with pytest.raises(InvalidInput) as refused:
        plan(measured_candidates(), FAST, limits=limits)
    assert (
        "accuracy was not measured; keeps too little accuracy; not an allowed codec; not an "
        "allowed cut: cut1 as uint8 keeps 99.5 %, cut0 as jpeg90 keeps 98 %, cut0 as jpeg50@50 "
        "keeps 70 %, of 1 nothing is known"
    ) in str(refused.value)


def test_an_accuracy_that_leaves_the_edge_alone_is_refused() -> None:
    offered, only = measured_candidates(), Limits(cuts=(0, 2), codecs=("jpeg90", "jpeg50@50"))
    check_accuracy(offered, replace(only, accuracy=0.98), "--accuracy")
    check_accuracy(offered, Limits(cuts=(2,), accuracy=1.0), "--accuracy")  # the cuts leave it
    with pytest.raises(InvalidInput) as refused:
        check_accuracy(offered, replace(only, accuracy=0.985), "--accuracy")
    assert str(refused.value) == (
        "--accuracy: got '98.5', expected a share that a candidate with a server keeps: cut0 as "
        "jpeg90 keeps 98 %, cut0 as jpeg50@50 keeps 70 %"
    )


def test_a_deadline_on_this_link_says_nothing_about_others() -> None:
    link = Beliefs.of_link(8e6, 20)
    made = plan(three(), link, limits=Limits(deadline_ms=300))
    assert [row.excluded for row in made.rows] == [
        "later than the deadline", None, "later than the deadline",
    ]  # fmt: skip
    assert len(made.break_even) == 3
    assert made.break_even == plan(three(), link).break_even


def test_a_deadline_is_kept_at_the_percentile_that_counts() -> None:
    link, limits = Beliefs.of_link(8e6, 20), Limits(deadline_ms=200)
    varies = replace(link, up=replace(link.up, spread=0.5))
    assert plan(three(), varies, limits=limits).winner == 1
    with pytest.raises(InvalidInput, match="later than the deadline"):
        plan(three(), varies, Objective(z=Z95), limits)


@pytest.mark.parametrize("end", ["edge", "server"])
@pytest.mark.parametrize("pictures", [[codec("png", [900])], []])
def test_an_input_that_was_refused_is_not_sent(end: str, pictures: list[CodecProfile]) -> None:
    edge, server = (
        profile([1, 1], [900, 900], pictures=pictures, refused=("cut0",) if end == one else ())
        for one in ("edge", "server")
    )
    offered = candidates(edge, server)
    assert [offered.title(i) for i in range(len(offered))] == ["cut1 as raw", "edge only"]


def test_limits_that_leave_nothing_are_an_error() -> None:
    with pytest.raises(InvalidInput, match="more memory than the edge has"):
        plan(three(), FAST, limits=Limits(memory_bytes=10))


# ----------------------------------------------------------------------------------- objectives


def test_throughput_takes_the_candidate_whose_slowest_stage_is_quickest() -> None:
    made = plan(three(), Beliefs.of_link(8e6, 500), Objective(latency=0, throughput=1))
    # Edge only: 510 ms. cut1: 100 ms on the link. Full offload: 1,000 ms on the link.
    assert made.winner == 1
    assert made.rows[1].frames_per_second == pytest.approx(10)


@pytest.mark.parametrize(
    ("op_ms", "encode", "decode", "slowest"),
    [
        ([30, 1], 0, 0, 30),
        ([1, 1], 40, 0, 40),
        ([1, 1], 0, 45, 45),
        ([1, 48], 0, 0, 48),
        ([29, 29], 29, 29, 29),
    ],
)
def test_coders_head_and_tail_work_beside_each_other(
    op_ms: list[float], encode: float, decode: float, slowest: float
) -> None:
    one = profile(op_ms, [900, 900], [codec("raw", [900, 900, 100], encode, decode)])
    intervals = candidates(one, one).interval_ms(Beliefs.of_link(1e9, 500))
    assert intervals[1] == pytest.approx(slowest)


def test_a_long_reply_may_be_the_slowest_stage() -> None:
    one = profile([1, 1], [900, 900], reply_bytes=100_000)
    beliefs = Beliefs.of_link(1e9, 0, down_bits=8e6)
    assert candidates(one, one).interval_ms(beliefs) == pytest.approx([100, 100, 2])


def test_energy_is_watts_times_time() -> None:
    drawn = Power(compute=5.0, transmit=2.0, idle=1.0)
    made = plan(three(), Beliefs.of_link(8e6, 20), Objective(latency=0, energy=1, power=drawn))
    # cut1: 10 ms of computing, 100 ms of sending, and the rest of 180.1 ms of waiting.
    assert made.rows[1].millijoules == pytest.approx(5 * 10 + 2 * 100 + 70.1)
    assert made.rows[2].millijoules == pytest.approx(5 * 510)
    assert made.winner == 1


def test_from_where_on_sending_pays_is_said_of_latency_alone() -> None:
    drawn = Power(compute=1.0, transmit=50.0)
    made = plan(three(), SLOW, Objective(latency=0, energy=1, power=drawn))
    assert made.reason.startswith("Do not split: the edge alone")
    assert "Sending pays" not in made.reason


def test_a_bit_costs_both_ways() -> None:
    dear = Power(compute=0.0, transmit=0.0, nanojoules_per_bit=50.0)
    made = plan(three(), Beliefs.of_link(8e6, 20), Objective(latency=0, energy=1, power=dear))
    bytes_both_ways = three().bytes_up + three().bytes_down
    assert made.rows[0].millijoules == pytest.approx(bytes_both_ways[0] * 8 * 50e-9 * 1e3)
    assert made.rows[2].millijoules == 0  # nothing is sent


MEASURED = MeasuredPower(compute_watts=9.0, idle_watts=2.0, source="rapl", kind=Kind.MEASURED)


@pytest.mark.parametrize(
    ("declared", "measured", "expected"),
    [
        (None, None, None),
        ({"computeMilliwatts": 5000}, None, None),
        (
            {"computeMilliwatts": 5000, "transmitMilliwatts": 1500, "idleMilliwatts": 400},
            None,
            Power(5.0, 1.5, 0.4),
        ),
        (
            {"computeMilliwatts": 5000, "idleMilliwatts": 400, "nanojoulesPerBit": 30},
            None,
            Power(5.0, 0.4, 0.4, 30.0),
        ),
        (None, MEASURED, Power(9.0, 2.0, 2.0, kind=Kind.MEASURED)),
        (
            {"computeMilliwatts": 5000, "transmitMilliwatts": 1500},
            MEASURED,
            Power(9.0, 1.5, 2.0, kind=Kind.MEASURED),
        ),
        ({"nanojoulesPerBit": 30}, MEASURED, Power(9.0, 2.0, 2.0, 30.0, Kind.MEASURED)),
    ],
)
def test_measured_watts_win_over_declared_ones(
    declared: dict[str, int] | None, measured: MeasuredPower | None, expected: Power | None
) -> None:
    given = None if declared is None else PowerSpec.model_validate(declared, by_alias=True)
    assert power(given, measured) == expected


def test_no_energy_is_invented() -> None:
    assert plan(three(), FAST).rows[0].millijoules is None
    with pytest.raises(InvalidInput, match="watts"):
        plan(three(), FAST, Objective(energy=1))


@given(sets(), links(), st.floats(0, 5), st.floats(0, 5))
def test_weights_are_a_compromise(
    offered: Candidates, beliefs: Beliefs, latency: float, throughput: float
) -> None:
    objective = Objective(latency=latency, throughput=throughput + 0.01)
    made = plan(offered, beliefs, objective)
    won = made.rows[made.winner]
    for row in made.rows:
        assert row.latency_ms >= won.latency_ms * (1 - 1e-9) or (
            row.frames_per_second <= won.frames_per_second * (1 + 1e-9)
        )


def test_profiles_of_two_networks_are_refused() -> None:
    with pytest.raises(InvalidInput, match="a profile of net"):
        candidates(profile([1], [9]), profile([1, 1], [9, 9]))
