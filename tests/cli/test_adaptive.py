"""Mode Adaptive with real processes, on an emulated link whose rate changes twice."""

from collections import Counter
from pathlib import Path

import pytest

from splittracr.results import journal
from splittracr.results.environment import read_environment
from tests.cli.processes import manifest, splittracr

SECONDS = 8  # the first of them pass before the first frame
SAMPLES = 600
RATES = (50_000, 2_000, 20_000)  # kbit/s upwards


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_cut_moves_within_two_seconds_of_each_step(tmp_path: Path) -> None:
    phases = [
        {
            "durationSeconds": SECONDS if number < 2 else 1_000,
            "uplinkKilobitsPerSecond": rate,
            "downlinkKilobitsPerSecond": 50_000,
            "roundTripMilliseconds": 5,
        }
        for number, rate in enumerate(RATES)
    ]
    file = manifest(
        tmp_path,
        {
            "model": {"name": "mobilenet_v3_small", "weights": "none"},
            # With two candidates that are far apart the machine's other work decides nothing.
            "partition": {"mode": "Adaptive", "cuts": ["input"], "adaptive": {}},
            "transport": {"link": {"phases": phases}},
            "workload": {"samples": SAMPLES},
            "edge": {"slowdownPercent": 600},
        },
    )
    done = splittracr("run", str(file), "--out", "out", cwd=tmp_path, timeout=230)
    assert done.code == 0, done.err + done.out
    out = tmp_path / "out"
    records = sorted(journal.read(out / "records.jsonl"), key=lambda record: record.sample)
    assert [record.sample for record in records] == list(range(SAMPLES))
    assert {record.outcome for record in records} == {"ok"}
    assert "server-lost" not in {record.fallback for record in records}
    (link_began_at,) = read_environment(out).link_began_at
    began = link_began_at.timestamp()

    def cut(first: float, last: float) -> str:
        """What most frames did that began between two times."""
        chosen = Counter(r.cut for r in records if first <= r.started_at - began < last)
        assert chosen, f"no frame between {first} and {last} s"
        return chosen.most_common(1)[0][0]

    assert cut(0.5, SECONDS) == "input"
    assert cut(SECONDS + 2, 2 * SECONDS) == "output"
    assert cut(2 * SECONDS + 2, 1_000) == "input"
    assert all(record.predicted_ms and record.reason for record in records)
    assert (out / "figures" / "timeline.svg").exists()
    assert "emulated" in (out / "report.html").read_text()
