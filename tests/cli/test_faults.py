"""Real processes and real signals in the middle of a study: nothing lost, nothing twice."""

import asyncio
import contextlib
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest

from splittracr.experiment.types import Record
from splittracr.results import journal
from tests.cli.processes import event, manifest, splittracr, start
from tests.workers.wire_cutter import wire_cutter

CUTS = [0, 10, 60]


def study(tmp_path: Path, samples: int, name: str = "study", **partition: object) -> Path:
    """A small network at three cuts, with a digest of every raw output."""
    sections = {
        "partition": {"mode": "Sweep", "cuts": CUTS, **partition},
        "results": {"outputs": "Raw", "pictures": 0},
        "transport": {"heartbeatSeconds": 2},
        "workload": {"samples": samples, "arrival": {"mode": "Closed", "inFlight": 4}},
    }
    return manifest(tmp_path, sections, name)


def outputs(out: Path) -> dict[tuple[int, int], str | None]:
    """The output's digest by cut and sample; fails where a sample failed or is there twice."""
    lines = (out / journal.FILE).read_text().splitlines()
    records = [Record.model_validate_json(line) for line in lines]
    found = {(r.cut_index, r.sample): r.output_digest for r in records if r.outcome == "ok"}
    assert len(found) == len(lines)
    return found


def recorded(out: Path) -> int:
    file = out / journal.FILE
    return file.read_bytes().count(b"\n") if file.exists() else 0


def until(
    reached: Callable[[], bool], what: str, run: "subprocess.Popen[str]", deadline: float = 100
) -> None:
    """Wait for something in the processes of `run` that no event announces."""
    end = time.monotonic() + deadline
    while not reached():
        assert run.poll() is None, f"ended before {what}: {run.communicate()}"
        assert time.monotonic() < end, f"{what} took more than {deadline} s"
        time.sleep(0.01)


def server_of(parent: int) -> psutil.Process | None:
    for child in psutil.Process(parent).children():
        with contextlib.suppress(psutil.Error):
            if "server" in child.cmdline():
                return child
    return None


def connections(parent: int, server: psutil.Process) -> set[int]:
    """Ports of the run's other processes that are connected to the server's."""
    listening = {c.laddr.port for c in server.net_connections("tcp") if c.status == "LISTEN"}
    run = psutil.Process(parent)
    edges = [one for one in (run, *run.children(recursive=True)) if one.pid != server.pid]
    return {
        connection.laddr.port
        for edge in edges
        for connection in edge.net_connections("tcp")
        if connection.status == "ESTABLISHED" and connection.raddr.port in listening
    }


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_server_killed_ten_times_costs_nothing_but_time(tmp_path: Path) -> None:
    """3 cuts of 334 samples; each kill comes at a random number of samples after the last one."""
    calm = splittracr("run", str(study(tmp_path, 5)), "--out", "calm", cwd=tmp_path)
    assert calm.code == 0, calm.err
    expected = outputs(tmp_path / "calm")
    out, draw = tmp_path / "out", random.Random(7)
    run = start("run", str(study(tmp_path, 334)), "--out", str(out), cwd=tmp_path)
    try:
        for _ in range(10):
            goal = recorded(out) + draw.randint(1, 60)
            until(lambda goal=goal: recorded(out) >= goal, f"{goal} records", run)  # type: ignore[misc]
            server = server_of(run.pid)
            assert server is not None
            server.kill()
            server.wait(10)
        _, err = run.communicate(timeout=300)
    finally:
        run.kill()
    assert run.returncode == 0, err
    found = outputs(out)
    assert len(found) == 3 * 334
    assert all(found[cut, n] == expected[cut, n % 5] for cut, n in found)
    assert {r.finished_on for r in journal.read(out / journal.FILE)} == {"server"}


@pytest.mark.timeout(300)
def test_a_stopped_server_is_waited_for_and_found_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = start("run", str(study(tmp_path, 100)), "--out", str(out), cwd=tmp_path)
    try:
        until(lambda: recorded(out) >= 20, "20 records", run)
        server = server_of(run.pid)
        assert server is not None
        session = connections(run.pid, server)
        assert session
        server.send_signal(signal.SIGSTOP)
        stopped = recorded(out)
        until(lambda: not session & connections(run.pid, server), "the session's end", run)
        assert recorded(out) <= stopped + 8, "what was under way, and no more"
        server.send_signal(signal.SIGCONT)
        _, err = run.communicate(timeout=200)
    finally:
        run.kill()
    assert run.returncode == 0, err
    assert len(outputs(out)) == 300


@pytest.mark.timeout(300)
def test_an_edge_finishes_alone_what_a_stopped_server_owes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    file = study(tmp_path, 60, onServerLoss="FinishOnEdge", deadlineMilliseconds=500)
    run = start("run", str(file), "--out", str(out), cwd=tmp_path)
    try:
        until(lambda: recorded(out) >= 20, "20 records", run)
        server = server_of(run.pid)
        assert server is not None
        server.send_signal(signal.SIGSTOP)
        until(lambda: recorded(out) >= 180, "the rest", run)
        server.send_signal(signal.SIGCONT)
        _, err = run.communicate(timeout=200)
    finally:
        run.kill()
    assert run.returncode == 0, err
    records = journal.read(out / journal.FILE)
    assert len(outputs(out)) == 180
    assert {"deadline", "server-lost"} & {r.fallback for r in records}
    digests: dict[int, set[str | None]] = {}
    for record in records:
        digests.setdefault(record.sample % 5, set()).add(record.output_digest)
    assert all(len(found) == 1 for found in digests.values()), "wherever the tail ran"


def by_hand(
    tmp_path: Path, port: int, server: int, samples: int
) -> tuple[Callable[..., "subprocess.Popen[str]"], "subprocess.Popen[str]"]:
    """What starts a server at the port `server`, and an edge that connects to one at `port`."""
    file = str(study(tmp_path, samples))
    plain = ("--set", "spec.transport.security=Plain")

    def serve(*arguments: str) -> "subprocess.Popen[str]":
        at = ("--set", f"spec.server.port={server}")
        started = start("server", file, *at, *plain, *arguments, cwd=tmp_path)
        event(started.stdout, "serving")
        return started

    url = f"ws://127.0.0.1:{port}/v1/session"
    edge = start("edge", file, "--out", "out", "--server", url, *plain, cwd=tmp_path)
    return serve, edge


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def stop(process: "subprocess.Popen[str]") -> str:
    process.kill()
    return process.communicate(timeout=100)[1]


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_another_network_in_the_servers_place_is_refused_until_the_right_one_is_back(
    tmp_path: Path,
) -> None:
    port = free_port()
    serve, edge = by_hand(tmp_path, port, port, samples=100)
    server = serve()
    try:
        until(lambda: recorded(tmp_path / "out") >= 20, "20 records", edge, 200)
        stop(server)
        server = serve("--set", "spec.model.seed=1")
        assert server.stderr is not None
        while "differ in spec.model.seed: the edge has 0, the server 1" not in (
            line := server.stderr.readline()
        ):
            assert line, "the server ended"
        stop(server)
        server = serve()
        _, said = edge.communicate(timeout=300)
    finally:
        stop(server)
        edge.kill()
    assert edge.returncode == 0, said
    assert len(outputs(tmp_path / "out")) == 300


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_link_that_is_cut_for_30_seconds_costs_them_and_no_sample(tmp_path: Path) -> None:
    async def body() -> None:
        async with wire_cutter(free_port()) as cutter:
            serve, edge = await asyncio.to_thread(
                by_hand, tmp_path, cutter.port, cutter.target, samples=100
            )
            server = await asyncio.to_thread(serve)
            try:
                there = partial(until, lambda: recorded(tmp_path / "out") >= 20, "20", edge, 200)
                await asyncio.to_thread(there)
                cutter.flowing.clear()
                before = recorded(tmp_path / "out")
                await asyncio.sleep(30)  # the cut itself
                assert recorded(tmp_path / "out") <= before + 8, "what was under way"
                cutter.flowing.set()
                _, said = await asyncio.to_thread(edge.communicate, timeout=300)
            finally:
                stop(server)
                edge.kill()
        assert edge.returncode == 0, said
        assert len(outputs(tmp_path / "out")) == 300

    asyncio.run(body())


TINY = """
import torch
from torch import nn
from splittracr.data.contracts import Sample
from splittracr.models.registry import register


@register("tiny", shape=(16,), input_dtype=torch.float32)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(16, 16)
        self.out = nn.Linear(16, 4)

    def forward(self, x):
        return self.out(torch.relu(self.fc(x)))


class Data:
    classes = None

    def __len__(self):
        return 10

    def name(self, index):
        return f"vector-{index}"

    def load(self, index):
        return Sample(self.name(index), data=torch.arange(16) / (index + 1.0))
"""


@pytest.mark.soak
@pytest.mark.timeout(2400)
def test_memory_stays_flat_over_100_000_samples(tmp_path: Path) -> None:
    (tmp_path / "tiny.py").write_text(TINY)
    sections = {
        "model": {"name": "tiny:Net", "source": "custom", "weights": "none"},
        "dataset": {"source": "Class", "class": "tiny:Data"},
        "partition": {"mode": "Static", "cut": 1},
        "results": {"pictures": 0},
        "workload": {"samples": 100_000, "arrival": {"mode": "Closed", "inFlight": 8}},
    }
    out = tmp_path / "out"
    run = start("run", str(manifest(tmp_path, sections)), "--out", str(out), cwd=tmp_path)
    try:
        until(lambda: recorded(out) >= 20_000, "20,000 samples", run, 600)
        workers = psutil.Process(run.pid).children()
        assert len(workers) == 2
        before = [worker.memory_info().rss for worker in workers]
        until(lambda: recorded(out) >= 99_000, "99,000 samples", run, 1200)
        after = [worker.memory_info().rss for worker in workers]
        _, err = run.communicate(timeout=300)
    finally:
        run.kill()
    assert run.returncode == 0, err
    assert recorded(out) == 100_000
    for earlier, later in zip(before, after, strict=True):
        assert later < earlier + 16 * 2**20
