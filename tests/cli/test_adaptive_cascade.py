"""Mode Adaptive with a small model, or an exit, and real processes, on a link whose rate drops."""

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

import pytest

from splittracr.experiment.types import Record
from splittracr.results import journal
from splittracr.results.environment import read_environment
from tests.cli.processes import manifest, splittracr
from tests.cli.test_adaptive import EDGE_MS, INPUT_BYTES, PROBE, ROUND_TRIP_MS
from tests.cli.test_adaptive import MODULE as ADAPTIVE

SECONDS = 8  # of the first phase, a part of which passes before the first frame
LAST_SECONDS = 6  # of the second one, at least
SENDING_MS = (25.0, 300.0)  # of the input, in each phase
MIN_SLOWDOWN, MAX_SLOWDOWN = 10, 100  # the server is far faster; other stages stay short

# The small model, or the head up to the exit, takes about a third of `EDGE_MS`. Both are sure of
# nine samples in ten.
MODULE = f"""{ADAPTIVE}

@register("shallow", shape=(3, 64, 64), input_dtype=torch.float32)
class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide = nn.Conv2d(3, 64, 3, padding=1)
        self.deep = nn.Conv2d(64, 64, 3, padding=1)
        self.out = nn.Linear(64, 10)

    def forward(self, x):
        scores = self.out(self.deep(self.wide(x)).mean((2, 3))) * 1e-6
        return scores + certain(x.mean((1, 2, 3)))


def certain(brightness):
    sure = (0.85 - brightness).clamp(min=0) * 200
    return torch.stack([sure] + 9 * [torch.zeros_like(sure)], 1)


class Early(nn.Module):
    def forward(self, *live):
        (brightness,) = (one for one in live if one.dim() == 1)
        return certain(brightness)


@register(
    "exiting", shape=(3, 64, 64), input_dtype=torch.float32, exits={{"deep.0": "early"}}
)
class Exiting(Net):
    def __init__(self):
        super().__init__()
        self.early = Early()

    def forward(self, x):
        brightness = x.mean((1, 2, 3))  # which is live up to the end
        return super().forward(x) + 1e-3 * brightness[:, None]
"""


def model(name: str) -> dict[str, object]:
    return {"name": f"deep:{name}", "source": "custom", "weights": "none"}


@dataclass(frozen=True)
class First:
    """The model of a study, and what may answer first: in records, and in the manifest."""

    large: str
    network: Literal["small", "exit"]
    cut: str
    cascade: dict[str, object]

    def went(self, record: Record) -> bool:
        """Whether it ran before the large model, or before the rest of it."""
        return record.network == self.network or self.network in record.stages  # a stage, too


SMALL = First("Net", "small", "output", {"model": model("Tiny")})
EXIT = First("Exiting", "exit", "deep.0", {"exits": "Declared"})


def study(
    folder: Path, name: str, large: str, sections: dict[str, object]
) -> tuple[Path, list[Record]]:
    """Run a study; return its folder and its records in the order of samples."""
    (folder / "deep.py").write_text(MODULE)
    whole = {
        "model": model(large),
        "dataset": {"source": "Class", "class": "deep:Data"},
        "results": {"pictures": 0},
        **sections,
    }
    file, out = manifest(folder, whole, name), folder / f"{name}-out"
    done = splittracr("run", str(file), "--out", str(out), cwd=folder, timeout=150)
    assert done.code == 0, done.err + done.out
    return out, sorted(journal.read(out / journal.FILE), key=lambda record: record.sample)


def phases(scale: float) -> list[dict[str, int]]:
    """A fast and a slow phase of the link, in which the input takes `SENDING_MS` times `scale`."""
    return [
        {
            "durationSeconds": SECONDS if number == 0 else 1_000,
            "uplinkKilobitsPerSecond": round(8 * INPUT_BYTES / (ms * scale)),
            "downlinkKilobitsPerSecond": 50_000,
            "roundTripMilliseconds": ROUND_TRIP_MS,
        }
        for number, ms in enumerate(SENDING_MS)
    ]


@pytest.mark.slow
@pytest.mark.timeout(320)
@pytest.mark.parametrize("first", [SMALL, EXIT], ids=["small model", "exit"])
def test_what_answers_first_does_so_once_the_link_is_slow(first: First, tmp_path: Path) -> None:
    alone: dict[str, object] = {
        "partition": {"mode": "EdgeOnly"},
        "workload": {"samples": 25},
        "edge": {"slowdownPercent": 100 * PROBE},
    }
    _, measured = study(tmp_path, "alone", first.large, alone)
    alone_ms = median(one.stages["head"] + one.stages["reduce"] for one in measured) / PROBE
    slowdown = min(max(MIN_SLOWDOWN, EDGE_MS / alone_ms), MAX_SLOWDOWN)
    scale = slowdown * alone_ms / EDGE_MS
    # What answers first and a tenth of the rest are the fastest choice in the second phase.
    fastest = SENDING_MS[0] * scale + ROUND_TRIP_MS, EDGE_MS / 3 * scale
    samples = math.ceil(1e3 * (SECONDS / fastest[0] + LAST_SECONDS / fastest[1]))
    sections: dict[str, object] = {
        "partition": {
            "mode": "Adaptive",
            "cuts": ["input"],
            "adaptive": {},
            "cascade": {
                **first.cascade,
                "statistic": "Margin",
                "thresholdPerMillion": 500_000,
            },
        },
        "transport": {"link": {"phases": phases(scale)}},
        "workload": {"samples": samples},
        "edge": {"slowdownPercent": round(100 * slowdown)},
    }
    out, records = study(tmp_path, "adaptive", first.large, sections)
    assert [record.sample for record in records] == list(range(samples))
    assert {record.outcome for record in records} == {"ok"}
    assert all(record.predicted_ms and record.reason for record in records)
    (link_began_at,) = read_environment(out).link_began_at
    began = link_began_at.timestamp()

    def between(first: float, last: float) -> list[Record]:
        return [r for r in records if first <= r.started_at - began < last]

    fast, slow = between(0.5, SECONDS), between(SECONDS + 4, 1_000)
    assert sum(map(first.went, fast)) < 0.2 * len(fast)
    assert sum(map(first.went, slow)) > 0.8 * len(slow)
    assert {r.cut for r in fast if not first.went(r)} <= {"input", "output"}
    answered = Counter(r.network for r in slow if first.went(r))
    assert answered[first.network] > answered["large"] > 0
    for record in records:
        if record.network == first.network:
            assert (record.cut, record.codec, record.finished_on) == (first.cut, "raw", "edge")
            assert (record.sureness or 0) >= 500_000
        elif first.went(record):
            assert (record.sureness or 0) < 500_000
    off = [sum(r.predicted_ms or 0.0 for r in slow), sum(r.total_ms for r in slow)]
    assert off[0] == pytest.approx(off[1], rel=0.5)  # on average: an answer is early, the rest late
    assert "emulated" in (out / "report.html").read_text()
