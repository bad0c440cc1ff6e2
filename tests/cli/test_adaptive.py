"""Mode Adaptive with real processes, on an emulated link whose rate changes twice."""

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pytest

from splittracr.experiment.types import Record
from splittracr.results import journal
from splittracr.results.environment import read_environment
from tests.cli.processes import manifest, splittracr

SECONDS = 8  # of the first two phases; one of them passes before the first frame
LAST_SECONDS = 5  # of the third one, at least
ROUND_TRIP_MS = 5
EDGE_MS = 300.0  # of a frame on the slowed edge alone
SENDING_MS = (50.0, 1200.0, 75.0)  # of the input, in each phase
EXPECTED = ("input", "output", "input")
FAR_APART = 2.0  # times; then the machine's other work decides nothing
PROBE = 40  # slowdown at which other work on the machine, which only adds waiting, hardly counts
LEAST, MOST = 5, 100  # slowdown: the server is far faster, and what every frame has stays small

# Its input takes little to read and much to compute.
MODULE = """
import torch
from torch import nn
from splittracr.data.contracts import Sample
from splittracr.models.registry import register


@register("deep", shape=(3, 64, 64), input_dtype=torch.float32)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide = nn.Conv2d(3, 64, 3, padding=1)
        self.deep = nn.Sequential(*(nn.Conv2d(64, 64, 3, padding=1) for _ in range(3)))
        self.out = nn.Linear(64, 10)

    def forward(self, x):
        return self.out(self.deep(self.wide(x)).mean((2, 3)))


class Data:
    classes = None

    def __len__(self):
        return 10

    def name(self, index):
        return f"tensor-{index}"

    def load(self, index):
        return Sample(self.name(index), data=torch.full((3, 64, 64), index / 10))
"""
INPUT_BYTES = 3 * 64 * 64 * 4
NETWORK: dict[str, object] = {
    "model": {"name": "deep:Net", "source": "custom", "weights": "none"},
    "dataset": {"source": "Class", "class": "deep:Data"},
    "results": {"pictures": 0},
}


@dataclass(frozen=True)
class Conditions:
    """A slowdown and link rates under which the right cut of each phase is plain."""

    slowdown_percent: int
    rates: tuple[int, ...]  # kbit/s upwards
    samples: int  # more than can be finished before the third phase has shown its cut


def conditions(alone_ms: float) -> Conditions:
    """Derived from the processor time of a frame on the edge, which is also the server's.

    Not from its wall-clock time: a slowdown multiplies processor time.
    """
    slowdown = min(max(LEAST, EDGE_MS / alone_ms), MOST)
    edge_ms = slowdown * alone_ms
    sending = [ms * edge_ms / EDGE_MS for ms in SENDING_MS]
    for sent, best in zip(sending, EXPECTED, strict=True):
        offloaded = sent + ROUND_TRIP_MS + alone_ms
        faster, slower = (offloaded, edge_ms) if best == "input" else (edge_ms, offloaded)
        assert slower >= FAR_APART * faster, f"{sent} ms to send, {edge_ms} ms on the edge"

    def most(seconds: float, sent: float) -> float:
        return seconds * 1e3 / min(sent + ROUND_TRIP_MS, edge_ms)

    return Conditions(
        slowdown_percent=round(100 * slowdown),
        rates=tuple(round(8 * INPUT_BYTES / sent) for sent in sending),
        samples=math.ceil(sum(map(most, (SECONDS, SECONDS, LAST_SECONDS), sending))),
    )


@pytest.mark.parametrize("alone_ms", [0.5, 2, 10, 50, 100])
def test_conditions_are_plain_on_a_machine_of_any_speed(alone_ms: float) -> None:
    assert conditions(alone_ms).samples > 0


def study(tmp_path: Path, name: str, sections: dict[str, object]) -> tuple[Path, list[Record]]:
    """Run a study; return its folder and its records in the order of samples."""
    (tmp_path / "deep.py").write_text(MODULE)
    file, out = manifest(tmp_path, {**NETWORK, **sections}, name), tmp_path / f"{name}-out"
    done = splittracr("run", str(file), "--out", str(out), cwd=tmp_path, timeout=150)
    assert done.code == 0, done.err + done.out
    return out, sorted(journal.read(out / journal.FILE), key=lambda record: record.sample)


@pytest.mark.slow
@pytest.mark.timeout(320)
def test_the_cut_moves_within_two_seconds_of_each_step(tmp_path: Path) -> None:
    alone: dict[str, object] = {
        "partition": {"mode": "EdgeOnly"},
        "workload": {"samples": 25},
        "edge": {"slowdownPercent": 100 * PROBE},
    }
    _, measured = study(tmp_path, "alone", alone)
    slowed = median(one.stages["head"] + one.stages["reduce"] for one in measured)
    plain = conditions(slowed / PROBE)
    phases = [
        {
            "durationSeconds": SECONDS if number < 2 else 1_000,
            "uplinkKilobitsPerSecond": rate,
            "downlinkKilobitsPerSecond": 50_000,
            "roundTripMilliseconds": ROUND_TRIP_MS,
        }
        for number, rate in enumerate(plain.rates)
    ]
    sections: dict[str, object] = {
        # Two candidates: between others that are alike the machine's other work decides.
        "partition": {"mode": "Adaptive", "cuts": ["input"], "adaptive": {}},
        "transport": {"link": {"phases": phases}},
        "workload": {"samples": plain.samples},
        "edge": {"slowdownPercent": plain.slowdown_percent},
    }
    out, records = study(tmp_path, "adaptive", sections)
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
