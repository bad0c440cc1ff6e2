"""The processes of a cluster's study with an edge outside of it, which is killed and goes on."""

import asyncio
import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from splittracr import security
from splittracr.results import archive, journal
from splittracr_operator import children, results_server
from tests.cli.processes import event, files_below, start
from tests.cli.test_two_machines import kill_all
from tests.control.studies import UID, study
from tests.control.test_outside import Operator, operator, ready
from tests.control.world import KEYS, in_event_loop

pytestmark = pytest.mark.timeout(400)

SAMPLES = 60
LINK = {
    "uplinkKilobitsPerSecond": 100_000,
    "downlinkKilobitsPerSecond": 100_000,
    "roundTripMilliseconds": 100,  # so that it is killed in the middle
}
SPEC: dict[str, Any] = {
    "model": {"name": "mobilenet_v3_small", "weights": "none", "inputSize": [64, 64]},
    "partition": {"cut": 10},
    "workload": {"samples": SAMPLES},
    "transport": {"link": LINK},
    "results": {"pictures": 0},
    "edge": {"replicas": 0, "outside": 1, "device": "cpu"},
    "server": {"device": "cpu", "service": {"type": "NodePort", "host": "localhost"}},
}


@pytest.fixture(autouse=True)
def loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results_server, "HOST", "127.0.0.1")


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[int]:
    """The study's server with the credentials of its Secret; gives its port."""
    given, secret = study(**SPEC), folder / "secret"
    seed, hosts = KEYS.authority(UID), children.server_hosts(given)
    made = security.mint(hosts, datetime.now(UTC), seed=seed)
    secret.mkdir(parents=True)
    (secret / "ca.crt").write_bytes(made.authority.certificate)
    (secret / "tls.crt").write_bytes(made.server.certificate)
    (secret / "tls.key").write_bytes(made.server.key)
    (folder / "manifest.yaml").write_text(given.text)
    server = start(
        *("server", "manifest.yaml", "--tls", "secret", "--set", "spec.server.host=127.0.0.1"),
        cwd=folder,
        SPLITTRACR_TOKEN=KEYS.session(UID),
    )
    try:
        port = urlsplit(event(server.stdout, "serving")["url"]).port
        assert port is not None
        yield port
    finally:
        server.terminate()
        server.communicate(timeout=100)


async def until(here: Operator, expected: str, check: Callable[[], object]) -> None:
    """Reconcile until `check` returns something true."""
    end = time.monotonic() + 180
    while not check():
        assert time.monotonic() < end, f"{expected}: {here.world.status()}"
        await asyncio.sleep(0.1)
        await here.world.reconcile()


@in_event_loop
async def test_an_edge_outside_is_killed_and_finishes_the_study(tmp_path: Path) -> None:
    folder, state = tmp_path / "edge", str(tmp_path / "state")
    folder.mkdir()

    def run_edge(line: str) -> subprocess.Popen[str]:
        return start("edge", line, cwd=folder, XDG_STATE_HOME=state)

    def recorded() -> int:
        files = folder.glob("runs/*/records.jsonl")
        return sum(file.read_bytes().count(b"\n") for file in files)

    with serving(tmp_path / "server") as port:
        async with operator(tmp_path / "store", port, **SPEC) as here:
            line = str(here.invitation((await here.token()).token))
            edge = run_edge(line)
            await until(here, "records", lambda: edge.poll() is not None or recorded() >= 3)
            assert edge.poll() is None, edge.communicate()
            await until(here, "Running", lambda: ready(here.world) == ("Running", "Measuring"))
            await asyncio.to_thread(kill_all, edge)
            before = recorded()
            assert 3 <= before < SAMPLES
            again = run_edge(line)
            await until(here, "the end", lambda: again.poll() is not None)
            out, err = again.communicate()
            assert again.returncode == 0, err
            assert "report.html" in out
            await here.world.reconcile()
            status = here.world.status()
            assert (status["state"], status["results"]["edges"]) == ("Succeeded", ["edge-0"])
            assert status["progress"]["summary"] == f"{SAMPLES}/{SAMPLES}"
            brought = here.world.store.path(UID, "edge-0").read_bytes()
    archive.unpack(brought, tmp_path / "brought")
    (kept,) = folder.glob("runs/*/records.jsonl")
    records = journal.read(tmp_path / "brought" / "records.jsonl")
    assert records == journal.read(kept)
    assert [record.sample for record in records] == list(range(SAMPLES))
    assert {(record.uid, record.outcome) for record in records} == {(UID, "ok")}
    assert files_below(Path(state)) == []
