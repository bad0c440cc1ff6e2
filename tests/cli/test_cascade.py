"""A cascade as a user runs it: real processes, kills in the middle, nothing lost or doubled."""

import json
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from splittracr.experiment.types import Record
from splittracr.results import journal
from tests.cli.processes import event, manifest, splittracr, start
from tests.cli.test_faults import TINY, free_port, recorded, until

SAMPLES = 600
NET = {"name": "tiny:Net", "source": "custom", "weights": "none"}
EXITING = {**NET, "name": "tiny:Exiting"}
EXIT = """

@register("exiting", shape=(16,), input_dtype=torch.float32, exits={"relu": "early"})
class Exiting(Net):
    def __init__(self):
        super().__init__()
        self.early = nn.Linear(16, 4)
"""
SLOW = f"import time\n{TINY}".replace(
    "        return Sample", "        time.sleep(0.005)\n        return Sample"
)
"""The same pace for samples one at a time."""
OPEN: dict[str, object] = {"mode": "Open", "framesPerMinute": 12_000}
"""A pace that leaves time to kill something in the middle on any machine."""
PLAIN = ("--set", "spec.transport.security=Plain")


def study(
    folder: Path,
    threshold: int,
    samples: int = SAMPLES,
    seed: int = 1,
    mode: str = "Cascade",
    arrival: dict[str, object] = OPEN,
    *,
    exits: bool = False,
    **more: object,
) -> str:
    """A manifest; keyword arguments are keys of `cascade`."""
    (folder / "tiny.py").write_text(TINY + EXIT)
    first: dict[str, object] = {"exits": "Declared"} if exits else {"model": {**NET, "seed": seed}}
    cascade = {
        **first,
        "statistic": "Margin",
        "thresholdPerMillion": threshold,
        "auditPercent": 50,
        **more,
    }
    sections = {
        "model": EXITING if exits else NET,
        "dataset": {"source": "Class", "class": "tiny:Data"},
        "partition": {"mode": mode, "cascade": cascade} | ({"cut": 1} if mode == "Cascade" else {}),
        "postprocess": {"name": "classification"},
        "results": {"pictures": 0},
        "workload": {"samples": samples, "arrival": arrival},
    }
    return str(manifest(folder, sections))


def records(out: Path) -> list[Record]:
    lines = (out / journal.FILE).read_text().splitlines()
    return [Record.model_validate_json(line) for line in lines]


def answers(out: Path) -> dict[int, tuple[object, ...]]:
    """What the study found, by sample; each has one record."""
    found = records(out)
    assert Counter(record.sample for record in found) == Counter(range(len(found)))
    assert all(record.outcome == "ok" for record in found)
    return {r.sample: (r.network, r.sureness, r.audit, json.dumps(r.prediction)) for r in found}


def threshold_of_half(folder: Path) -> int:
    """A sureness from which half of the ten samples are answered by the small network."""
    run = splittracr("run", study(folder, 1_000_001, 10), "--out", "first", cwd=folder)
    assert run.code == 0, run.err
    surest = sorted(record.sureness or 0 for record in records(folder / "first"))
    assert surest[0] < surest[5]
    return surest[5]


@pytest.mark.timeout(300)
def test_kills_of_edge_and_server_change_no_answer(tmp_path: Path) -> None:
    file = study(tmp_path, threshold_of_half(tmp_path))
    whole = splittracr("run", file, "--out", "whole", cwd=tmp_path)
    assert whole.code == 0, whole.err
    expected = answers(tmp_path / "whole")
    assert len(expected) == SAMPLES
    assert {network for network, *_ in expected.values()} == {"small", "large"}
    assert {audit for _, _, audit, _ in expected.values()} > {None}

    killed_twice(tmp_path, file)
    assert answers(tmp_path / "killed") == expected


@pytest.mark.timeout(300)
@pytest.mark.parametrize("exits", [False, True], ids=["small model", "exits"])
def test_kills_lose_and_double_nothing_in_mode_adaptive(exits: bool, tmp_path: Path) -> None:
    file = study(tmp_path, threshold_of_half(tmp_path), mode="Adaptive", exits=exits)
    killed_twice(tmp_path, file)
    found = answers(tmp_path / "killed")
    assert len(found) == SAMPLES
    assert {network for network, *_ in found.values()} <= {"exit" if exits else "small", "large"}
    assert any(sureness is not None for _, sureness, *_ in found.values())


@pytest.mark.timeout(300)
def test_kills_change_no_answer_of_a_cascade_that_recalibrates(tmp_path: Path) -> None:
    # All samples are sure, and many disagree. One at a time, so that the order is the same.
    file = study(
        tmp_path,
        1,
        arrival={"mode": "Closed", "inFlight": 1},
        maxDisagreementPerMillion=200_000,
        recalibrate=200,
    )
    (tmp_path / "tiny.py").write_text(SLOW)
    whole = splittracr("run", file, "--out", "whole", cwd=tmp_path)
    assert whole.code == 0, whole.err
    expected = records(tmp_path / "whole")
    judged = [record.sample for record in expected if record.judged is not None]
    assert len(judged) >= 200
    assert judged[0] < 100  # before the first kill
    killed_twice(tmp_path, file)
    found = records(tmp_path / "killed")
    assert [(one.threshold, one.judged) for one in found] == [
        (one.threshold, one.judged) for one in expected
    ]
    assert answers(tmp_path / "killed") == answers(tmp_path / "whole")


def killed_twice(tmp_path: Path, file: str) -> None:
    """Run a study in `killed` and kill its edge, and then its server, in the middle."""
    port, out = free_port(), tmp_path / "killed"

    def serve() -> "subprocess.Popen[str]":
        at = ("--set", f"spec.server.port={port}")
        server = start("server", file, *at, *PLAIN, cwd=tmp_path)
        event(server.stdout, "serving")
        return server

    def edge() -> "subprocess.Popen[str]":
        url = f"ws://127.0.0.1:{port}/v1/session"
        arguments = ("edge", file, "--out", str(out), "--resume", "--server", url, *PLAIN)
        return start(*arguments, cwd=tmp_path)

    running = [serve(), edge()]
    try:
        until(lambda: recorded(out) >= 100, "100 records", running[1])
        running[1].kill()
        running[1].communicate(timeout=30)
        left = recorded(out)
        assert left < SAMPLES
        running[1] = edge()
        until(lambda: recorded(out) >= left + 100, "100 more", running[1])
        running[0].kill()
        running[0].communicate(timeout=30)
        assert recorded(out) < SAMPLES
        running[0] = serve()
        _, said = running[1].communicate(timeout=100)
        assert running[1].returncode == 0, said
    finally:
        for process in running:
            process.kill()
            process.communicate(timeout=30)
