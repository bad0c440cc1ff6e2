from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from splittracr.experiment.codec import RAW, PictureCodec
from splittracr.experiment.energy import Kind, MeasuredPower
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.spec import AdaptiveSpec, ExperimentSpec
from splittracr.planning.adapt import Adapting, adapting, codec_names, objective, settings
from splittracr.planning.cost import Power
from splittracr.planning.decision import Decision, Outcome
from splittracr.planning.schedule import Step, Trial
from splittracr.planning.transfer import Transfer
from tests.planning.profiles import codec, profile

STEP = Step(Trial(0, 3, 0), 0)
EDGE = profile(
    [1, 1, 50],
    [1_000_000, 400_000, 100_000],
    [codec("raw", [1_000_000, 400_000, 100_000, 100])],
    [codec("uint8", [1_000_000])],
)


def spec(slowdown: int = 1000, **adaptive: Any) -> ExperimentSpec:
    return ExperimentSpec.model_validate(
        {
            "model": {"name": "net"},
            "partition": {"mode": "Adaptive", "adaptive": {"policy": "Adaptive", **adaptive}},
            "edge": {"slowdownPercent": slowdown},
        },
        by_alias=True,
    )


def chooser(**adaptive: Any) -> Adapting:
    return adapting(spec(**adaptive), EDGE, EDGE, [])


def transfer(nbytes: int, bits_per_second: float, tail: float = 50.0) -> Transfer:
    link = 20 + nbytes * 8e3 / bits_per_second
    return Transfer(cut=2, bytes_up=nbytes, bytes_down=100, link_ms=link, stages={"tail": tail})


def hear(to: Adapting, bits_per_second: float, start: float) -> float:
    """Some transfers at a rate; returns when they have ended, in seconds."""
    now = start
    for number, nbytes in enumerate([1_000, 100_000, 100_000, 100_000]):
        one = transfer(nbytes, bits_per_second)
        to.sent(number, 2, nbytes, now)
        now += (one.link_ms + 50) / 1e3
        to.heard(number, one, now)
    return now


def outcome(decision: Decision, total: float, **stages: float) -> Outcome:
    return Outcome(decision=decision, ok=True, total_ms=total, stages=stages, receiving_up_ms=0)


def test_the_cut_follows_the_link() -> None:
    one = chooser()
    now = hear(one, 1e9, 0.0)
    assert (one.choose(STEP, now).cut, one.choose(STEP, now).codec) == (0, PictureCodec())
    now = hear(one, 8e6, now)
    split = one.choose(STEP, now)
    assert (split.cut, split.codec, split.reason, split.epoch) == (2, RAW, "better", 1)
    now = hear(one, 1e5, now)
    alone = one.choose(STEP, now)
    assert (alone.cut, alone.epoch) == (3, 2)
    assert one.choose(STEP, now + 2).probe_bytes > 0


def test_what_surrounds_every_candidate_is_in_the_prediction() -> None:
    one = chooser()
    now = hear(one, 8e6, 0.0)
    before = one.choose(STEP, now)
    assert before.predicted_ms is not None
    one.observe(outcome(before, 200, load=30, prepare=12, head=20, encode=0, link=80), now)
    after = one.choose(STEP, now)
    assert after.predicted_ms == pytest.approx(before.predicted_ms + 42, abs=2)


def test_a_slow_edge_and_a_slow_server_are_learnt() -> None:
    one = chooser()
    now = hear(one, 8e6, 0.0)
    first = one.choose(STEP, now)
    assert first.cut == 2
    alone = replace(first, cut=3)
    for _ in range(10):
        one.observe(outcome(alone, 1560, head=1560), now)  # 520 in the profile
    second = one.choose(STEP, now)
    assert first.predicted_ms is not None
    assert second.predicted_ms is not None
    assert second.predicted_ms > first.predicted_ms + 20


def test_an_encoder_beside_the_tail_says_nothing_of_the_edge() -> None:
    one = chooser()
    now = hear(one, 8e6, 0.0)
    hedged = replace(one.choose(STEP, now), hedge_ms=0.0)
    for encode in (0.01, 500):  # given up, and held up by the tail
        one.observe(outcome(hedged, 600, head=20, encode=encode, link=80), now)
    assert one.beliefs(now).edge_factor == pytest.approx(1)


def test_a_request_is_not_late_while_the_server_works_on_it() -> None:
    one = chooser()
    now = hear(one, 8e6, 0.0)
    one.sent(9, 2, 20_000, now)
    assert one.beliefs(now + 0.070).backlog_ms == 0  # 20 ms there, 50 ms of tail
    one.heard(9, Transfer(2, 20_000, 0, 20.0, {}), now + 0.070)
    one.sent(10, None, 20_000, now)
    assert one.beliefs(now + 0.070).backlog_ms > 0  # a probe needs no tail


def test_a_request_that_nobody_waited_for_shows_what_the_link_is_like() -> None:
    """Overdue, it was cancelled, which the server tells once it has arrived: after a second."""
    one = chooser()
    now = hear(one, 8e6, 0.0)
    before = one.beliefs(now)
    one.sent(9, 2, 100_000, now)
    assert one.beliefs(now).backlog_ms > 0
    one.heard(9, Transfer(2, 100_000, 100, 1_000.0, {"server_wait": 0.0}), now + 1)
    after = one.beliefs(now + 1)
    assert after.up.ms_per_byte > 2 * before.up.ms_per_byte
    assert (after.backlog_ms, after.server_wait_ms) == (0, before.server_wait_ms)


def test_without_a_session_the_edge_is_alone() -> None:
    one = chooser()
    now = hear(one, 8e6, 0.0)
    one.connection(alive=False)
    lost = one.choose(STEP, now)
    assert (lost.cut, lost.reason) == (3, "server lost")
    one.connection(alive=True)
    assert one.choose(STEP, now).cut == 2


def test_a_cut_that_is_not_ready_is_not_waited_for() -> None:
    ready, asked = {3}, list[int]()

    def is_ready(decision: Decision) -> bool:
        asked.append(decision.cut)
        return decision.cut in ready

    one = adapting(spec(), EDGE, EDGE, [], ready=is_ready)
    now = hear(one, 1e9, 0.0)
    first = one.choose(STEP, now)
    assert (first.cut, first.reason, first.epoch) == (3, "not ready", 0)
    ready.add(0)
    whole = one.choose(STEP, now)
    assert (whole.cut, whole.epoch) == (0, 1)
    now = hear(one, 8e6, now)
    kept = one.choose(STEP, now)
    assert (kept.cut, kept.codec, kept.epoch) == (0, PictureCodec(), 1)
    assert kept.reason == "not ready"
    assert kept.predicted_regret_ms is not None
    assert kept.predicted_regret_ms > 0
    assert asked[-2:] == [2, 0]
    ready.add(2)
    assert (one.choose(STEP, now).cut, one.choose(STEP, now).epoch) == (2, 2)


def test_without_a_session_nothing_has_to_be_ready() -> None:
    ready = {2}
    one = adapting(spec(), EDGE, EDGE, [], ready=lambda decision: decision.cut in ready)
    now = hear(one, 8e6, 0.0)
    assert one.choose(STEP, now).cut == 2
    one.connection(alive=False)
    assert (one.choose(STEP, now).cut, one.choose(STEP, now).reason) == (3, "server lost")


def test_named_cuts_leave_the_edge_alone_as_well() -> None:
    one = adapting(spec(), EDGE, EDGE, [1])
    now = hear(one, 1e9, 0.0)
    assert one.choose(STEP, now).cut == 1
    now = hear(one, 1e4, now)
    assert one.choose(STEP, now).cut == 3


@pytest.mark.parametrize(
    ("adaptive", "weights"),
    [
        ({}, (1, 0, 0)),
        ({"objective": "Throughput"}, (0, 1, 0)),
        ({"objective": "Weighted", "latencyWeight": 3, "throughputWeight": 2}, (3, 2, 0)),
    ],
)
def test_objective_of_the_manifest(
    adaptive: Mapping[str, Any], weights: tuple[float, float, float]
) -> None:
    made = objective(AdaptiveSpec.model_validate(adaptive, by_alias=True))
    assert (made.latency, made.throughput, made.energy) == weights
    assert made.z == 0


def test_settings_of_the_manifest() -> None:
    adaptive = {"objective": "Energy", "latencyPercentile": 95}
    drawn = Power(compute=5.0, transmit=1.5, idle=0.5)
    made = settings(AdaptiveSpec.model_validate(adaptive, by_alias=True), drawn)
    assert made.objective.power == drawn
    assert made.objective.z == pytest.approx(1.645, abs=1e-3)
    assert (made.hysteresis, made.deadline) == (0.1, 1.5)


def test_energy_needs_watts_from_somewhere() -> None:
    with pytest.raises(InvalidInput, match=r"spec\.edge\.power.*computeMilliwatts"):
        adapting(spec(objective="Energy"), EDGE, EDGE, [])
    old = spec(objective="Energy", computeMilliwatts=5000, transmitMilliwatts=1500)
    adapting(old, EDGE, EDGE, [])
    assert old.deprecations == (
        "the watts below spec.partition.adaptive have moved to spec.edge.power: move them",
    )
    seen = MeasuredPower(compute_watts=8, idle_watts=3, source="rapl", kind=Kind.MEASURED)
    adapting(spec(objective="Energy"), EDGE.model_copy(update={"power": seen}), EDGE, [])


def test_codecs_are_the_transports_unless_others_are_named() -> None:
    assert codec_names(spec()) == (("raw",), ("uint8",))
    assert codec_names(spec(codecs=["uint8"], pictureCodecs=["png", "jpeg90"])) == (
        ("uint8",),
        ("png", "jpeg90"),
    )


@pytest.mark.parametrize(("percent", "codec_used"), [(None, "uint4"), (80, "uint4"), (81, "raw")])
def test_lossy_codecs_stay_within_the_budget(percent: int | None, codec_used: str) -> None:
    sizes = [1_000_000, 400_000, 100_000, 100]
    codecs = [
        codec("raw", sizes),
        codec("uint4", [size // 8 for size in sizes], agreement=0.8),
        codec("uint8+zstd1", [size // 9 for size in sizes], agreement=None),
    ]
    edge = profile([1, 1, 50], sizes[:-1], codecs if percent else codecs[:-1])
    one = adapting(spec(agreementPercent=percent), edge, edge, [])
    now = hear(one, 8e6, 0.0)
    assert str(one.choose(STEP, now).codec) == codec_used


@pytest.mark.parametrize(("percent", "codec_used"), [(80, "uint4"), (81, "uint8"), (96, "raw")])
def test_candidates_keep_the_accuracy_that_is_asked_for(percent: int, codec_used: str) -> None:
    sizes = [1_000_000, 400_000, 100_000, 100]
    codecs = [
        codec("raw", sizes),
        codec("uint8", [size // 4 for size in sizes], accuracy=[None, None, 0.95, None]),
        codec("uint4", [size // 8 for size in sizes], accuracy=[None, None, 0.8, None]),
    ]
    edge = profile([1, 1, 50], sizes[:-1], codecs)
    one = adapting(spec(accuracyPercent=percent), edge, edge, [])
    now = hear(one, 8e6, 0.0)
    chosen = one.choose(STEP, now)
    assert (chosen.cut, str(chosen.codec)) == (2, codec_used)
    one.connection(alive=False)
    assert one.choose(STEP, now).cut == 3


def test_an_accuracy_that_no_codec_keeps_is_refused() -> None:
    sizes = [1_000_000, 400_000, 100_000, 100]
    edge = profile([1, 1, 50], sizes[:-1], [codec("uint8", sizes, agreement=0.97)])
    adapting(spec(accuracyPercent=97), edge, edge, [])
    with pytest.raises(InvalidInput) as refused:
        adapting(spec(accuracyPercent=98), edge, edge, [2])
    assert str(refused.value) == (
        "spec.partition.adaptive.accuracyPercent: got '98', expected a share that a candidate with "
        "a server keeps: cut2 as uint8 keeps 97 %"
    )


def test_a_limit_of_memory_is_one_of_heads() -> None:
    one = chooser(edgeMemoryMebibytes=1)
    assert one.choose(STEP, hear(one, 1e9, 0.0)).cut == 0
    large = EDGE.model_copy(update={"memory_bytes": tuple(2**30 + k for k in range(4))})
    one = adapting(spec(edgeMemoryMebibytes=1), large, large, [])
    assert one.choose(STEP, hear(one, 1e9, 0.0)).cut == 3
