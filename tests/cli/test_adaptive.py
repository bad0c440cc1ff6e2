"""Mode Adaptive with real processes, on an emulated link whose rate changes twice."""

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from splittracr.experiment.profile import Profile, parse_profile
from splittracr.planning import cost
from splittracr.planning.estimate import Beliefs
from splittracr.results import journal
from splittracr.results.environment import read_environment
from tests.cli.processes import manifest, splittracr

NETWORK = "mobilenet_v3_small"
SECONDS = 8  # of the first two phases; one of them passes before the first frame
DOWNLINK, ROUND_TRIP_MS = 50_000, 5  # kbit/s, ms
EDGE_MS = 300.0  # of a frame on the edge alone, unless the machine is too slow for it
LEAST_SLOWDOWN = 3
SENDING = (1 / 8, 4.0, 1 / 5)  # of the input, in each phase, as a share of the edge's time
EXPECTED = ("input", "output", "input")
FAR_APART = 2.0  # times; then the machine's other work decides nothing


@dataclass(frozen=True)
class Conditions:
    """A slowdown and link rates under which the right cut of each phase is plain."""

    slowdown_percent: int
    rates: tuple[int, ...]  # kbit/s upwards
    samples: int  # at least as many as can be finished until the third phase is over


def conditions(measured: Profile) -> Conditions:
    """Derived from the machine's own profile, so that they hold on a machine of any speed."""
    at_full_speed = cost.candidates(measured, measured)
    alone_ms = float(at_full_speed.edge_ms[at_full_speed.edge_only])
    percent = round(100 * max(LEAST_SLOWDOWN, EDGE_MS / alone_ms))
    offered = cost.candidates(measured, measured, slowdown=percent / 100)
    sent = offered.find(0, "uint8")
    assert sent is not None
    edge_ms = float(offered.edge_ms[offered.edge_only])
    rates = tuple(round(8 * float(offered.bytes_up[sent]) / (share * edge_ms)) for share in SENDING)
    for rate, best in zip(rates, EXPECTED, strict=True):
        link = Beliefs.of_link(rate * 1e3, ROUND_TRIP_MS, DOWNLINK * 1e3)
        faster, slower = float(offered.latency_ms(link)[sent]), edge_ms
        if best == "output":
            faster, slower = slower, faster
        assert slower >= FAR_APART * faster, f"at {rate} kbit/s: {slower} ms, {faster} ms"
    most = sum(SECONDS * 1e3 / (edge_ms * min(share, 1)) for share in SENDING)
    return Conditions(percent, rates, math.ceil(most))


@pytest.mark.parametrize("speed", [0.02, 0.2, 1, 5, 20])
def test_conditions_are_plain_on_machines_of_any_speed(speed: float) -> None:
    """Machines 50 times as fast as that of the reference profile, and 20 times as slow."""
    from splittracr.cli import profiles

    one = profiles.read(NETWORK, "--profile")
    slower = one.model_copy(
        update={
            "op_ms": tuple(ms * speed for ms in one.op_ms),
            "codecs": tuple(
                codec.model_copy(
                    update={
                        "encode_ms": tuple(ms * speed for ms in codec.encode_ms),
                        "decode_ms": tuple(ms * speed for ms in codec.decode_ms),
                    }
                )
                for codec in one.codecs
            ),
        }
    )
    assert conditions(slower).samples > 0


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_cut_moves_within_two_seconds_of_each_step(tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    options = ("--weights", "none", "--device", "cpu", "--frames", "3")
    made = splittracr("profile", NETWORK, *options, "-o", str(file), cwd=tmp_path)
    assert made.code == 0, made.err
    plain = conditions(parse_profile(file.read_text(), str(file)))
    phases = [
        {
            "durationSeconds": SECONDS if number < 2 else 1_000,
            "uplinkKilobitsPerSecond": rate,
            "downlinkKilobitsPerSecond": DOWNLINK,
            "roundTripMilliseconds": ROUND_TRIP_MS,
        }
        for number, rate in enumerate(plain.rates)
    ]
    file = manifest(
        tmp_path,
        {
            "model": {"name": NETWORK, "weights": "none"},
            # Two candidates: between others that are alike the machine's other work decides.
            "partition": {"mode": "Adaptive", "cuts": ["input"], "adaptive": {}},
            "transport": {"link": {"phases": phases}},
            "workload": {"samples": plain.samples},
            "edge": {"slowdownPercent": plain.slowdown_percent},
        },
    )
    done = splittracr("run", str(file), "--out", "out", cwd=tmp_path, timeout=180)
    assert done.code == 0, done.err + done.out
    out = tmp_path / "out"
    records = sorted(journal.read(out / "records.jsonl"), key=lambda record: record.sample)
    assert [record.sample for record in records] == list(range(plain.samples))
    assert {record.outcome for record in records} == {"ok"}
    assert "server-lost" not in {record.fallback for record in records}
    (link_began_at,) = read_environment(out).link_began_at
    began = link_began_at.timestamp()

    def cut(first: float, last: float) -> str:
        """What most frames did that began between two times."""
        chosen = Counter(r.cut for r in records if first <= r.started_at - began < last)
        assert chosen, f"no frame between {first} and {last} s"
        return chosen.most_common(1)[0][0]

    found = (cut(0.5, SECONDS), cut(SECONDS + 2, 2 * SECONDS), cut(2 * SECONDS + 2, 1_000))
    assert found == EXPECTED, plain
    assert all(record.predicted_ms and record.reason for record in records)
    assert (out / "figures" / "timeline.svg").exists()
    assert "emulated" in (out / "report.html").read_text()
