"""A whole study whose workers read a sensor service, from its joules to its results."""

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from splittracr.experiment.contracts import ENERGY_PATH
from splittracr.measure.energy import service
from splittracr.measure.energy.account import Snapshot, Total
from splittracr.measure.energy.sensor import Zone
from splittracr.results.environment import read_environment
from tests.cli.processes import manifest, splittracr

WATTS: Mapping[Zone, float] = {
    Zone("cpu", "package-0", "rapl"): 25.0,
    Zone("memory", "dram of package-0", "rapl"): 3.0,
}


@contextmanager
def node() -> Iterator[str]:
    """The URL of a sensor service whose zones draw the same power all the time."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == ENERGY_PATH
            now = time.monotonic()
            snapshot = Snapshot(now, {zone: Total(now * watts) for zone, watts in WATTS.items()})
            body = json.dumps(service.page(snapshot, "life", ())).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def run(folder: Path, sections: Mapping[str, object], url: str) -> dict[str, Any]:
    """Run a study beside the service; returns its summary."""
    named = folder / "sensor-url"
    named.write_text(url)
    file, out = manifest(folder, sections), folder / "out"
    done = splittracr("run", str(file), "--out", str(out), cwd=folder, SPLITTRACR_SENSOR=str(named))
    assert done.code == 0, done.err
    assert "rapl, measured" in done.out
    found: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return found


def test_a_sweep_gets_the_joules_of_each_cut_at_both_ends(tmp_path: Path) -> None:
    with node() as url:
        summary = run(tmp_path, {"partition": {"mode": "Sweep", "cuts": [0, 10]}}, url)
    for cut in summary["cuts"]:
        assert {(one["role"], one["zone"]) for one in cut["energy"]} == {
            (role, zone.zone) for role in ("edge", "server") for zone in WATTS
        }
        for one in cut["energy"]:
            watts = {zone.zone: watts for zone, watts in WATTS.items()}[one["zone"]]
            assert one["watts"] == pytest.approx(watts, rel=0.2)
            joules = one["watts"] * one["seconds"] / one["frames"]
            assert one["joules_per_frame"] == pytest.approx(joules)
            assert one["kind"] == "measured"
    made = read_environment(tmp_path / "out")
    assert {one.of for one in made.energy} == {"cut", "idle", "study"}
    assert [usage.role for usage in made.usage] == ["edge", "server"]


def test_an_adaptive_study_decides_by_measured_watts(tmp_path: Path) -> None:
    adaptive = {"objective": "Energy"}
    with node() as url:
        run_adaptive = {"partition": {"mode": "Adaptive", "adaptive": adaptive}}
        named = tmp_path / "sensor-url"
        named.write_text(url)
        file, out = manifest(tmp_path, run_adaptive), tmp_path / "out"
        command = ("run", str(file), "--out", str(out))
        with_sensor = splittracr(*command, cwd=tmp_path, SPLITTRACR_SENSOR=str(named))
        assert with_sensor.code == 0, with_sensor.err
    without = splittracr(*command[:-1], str(tmp_path / "other"), cwd=tmp_path)
    assert without.code == 2
    assert "spec.edge.power" in without.err
