"""`serve` on one machine, and an edge that joins on another one by the line that it prints."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from splittracr.results import journal
from splittracr.results.environment import read_environment
from tests.cli.namespaces import Machine, machines
from tests.cli.processes import files_below, manifest, splittracr, start_on

pytestmark = pytest.mark.timeout(400)  # several processes, one after the other

REPORT = {"records.jsonl", "environment.json", "summary.json", "records.csv", "report.html"}


@contextmanager
def serving(
    *arguments: str, cwd: Path, machine: Machine | None = None, lines: int = 1
) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A `serve` that has printed how to join, as lists of arguments of `splittracr`."""
    server = start_on(machine, "serve", *arguments, cwd=cwd)
    assert server.stdout is not None
    try:
        printed = [server.stdout.readline() for _ in range(lines)]
        if not all(printed):
            raise AssertionError(server.communicate()[1])
        yield server, [line.removeprefix("splittracr edge ").strip() for line in printed]
    finally:
        server.terminate()
        server.communicate(timeout=100)


def folder(path: Path) -> Path:
    path.mkdir()
    return path


def words(text: str) -> str:
    """A text without its line breaks."""
    return " ".join(text.split())


def kill_all(process: subprocess.Popen[str]) -> None:
    """End a process and its children at once, as a power cut does."""
    main = psutil.Process(process.pid)
    family = [main, *main.children(recursive=True)]
    for one in family:
        one.suspend()  # so that none sees another one's end
    for one in family:
        one.kill()
    process.communicate()
    psutil.wait_procs(family[1:], timeout=100)


def wait_for_records(run: Path, count: int, deadline: float = 300) -> None:
    """Wait until the edge below `run` has recorded `count` samples."""
    end = time.monotonic() + deadline
    while sum(file.read_bytes().count(b"\n") for file in run.glob("runs/*/records.jsonl")) < count:
        assert time.monotonic() < end, "no records were written in time"
        time.sleep(0.02)


def test_an_edge_joins_by_one_line_is_killed_and_goes_on(tmp_path: Path) -> None:
    """Two network namespaces: nothing is lost, nothing is there twice, both have the report."""
    there, here, state = (folder(tmp_path / name) for name in ("server", "edge", "state"))
    manifest(there, {"workload": {"samples": 100}})
    with (
        machines() as (tower, board),
        serving("study.yaml", "--out", "out", cwd=there, machine=tower) as (server, (line,)),
    ):
        assert line.startswith(f"wss://{tower.address}:")
        with pytest.raises(AssertionError, match="No route to host"):
            _run(line.replace(tower.address, "10.77.0.9"), here, board, state)
        edge = start_on(board, "edge", line, cwd=here, XDG_STATE_HOME=str(state))
        wait_for_records(here, 3)
        kill_all(edge)
        before = len(journal.read(next(here.glob("runs/*/records.jsonl"))))
        said = _run(line, here, board, state)
        out, err = server.communicate(timeout=200)
    assert 3 <= before < 100
    assert server.returncode == 0, err
    assert f"edge-0 joined from {board.address}." in err
    (results,) = here.glob("runs/*")
    for path, printed in ((there / "out", out), (results, said)):
        assert set(files_below(path)) >= REPORT
        assert "Cutting mobilenet_v3_small at features.1.block.1.activation took" in printed
    assert "report.html" in said
    sent, kept = (journal.read(path / "records.jsonl") for path in (there / "out", results))
    assert sent == kept
    assert sorted(record.sample for record in kept) == list(range(100))
    assert read_environment(there / "out").finished_at is not None
    assert files_below(state) == []


def _run(line: str, cwd: Path, machine: Machine | None, state: Path) -> str:
    """What an edge prints that joins by `line`, and that has to succeed."""
    edge = start_on(machine, "edge", line, cwd=cwd, XDG_STATE_HOME=str(state))
    out, err = edge.communicate(timeout=300)
    assert edge.returncode == 0, err
    return out


def test_two_edges_have_a_line_each_and_what_one_lacks_is_named(tmp_path: Path) -> None:
    there, here, state = (folder(tmp_path / name) for name in ("server", "edge", "state"))
    (there / "names.txt").write_text("\n".join(f"class {i}" for i in range(1000)))
    sections = {"edge": {"replicas": 1, "outside": 1}, "dataset": {"classNames": "names.txt"}}
    manifest(there, sections)
    options = ("--host", "localhost", "--out", "out")
    with serving("study.yaml", *options, cwd=there, lines=2) as (server, (first, second)):
        lacking = splittracr("edge", first, cwd=here, timeout=300, XDG_STATE_HOME=str(state))
        assert lacking.code == 2
        assert "Missing: spec.dataset.classNames names.txt (no such file)" in words(lacking.err)
        (here / "names.txt").write_bytes((there / "names.txt").read_bytes())
        thief = splittracr("edge", first, cwd=here, XDG_STATE_HOME=str(tmp_path / "other"))
        assert thief.code == 1
        assert "does not let this edge join: the token was used already, by edge-0" in words(
            thief.err
        )
        _run(first, here, None, state)
        _run(second, here, None, state)
        out, err = server.communicate(timeout=200)
    assert server.returncode == 0, err
    assert "class " in out
    records = journal.read(there / "out" / "records.jsonl")
    keys = {(record.edge, record.sample) for record in records}
    assert keys == {(edge, sample) for edge in ("edge-0", "edge-1") for sample in range(3)}
    assert len(records) == 6


def test_a_study_that_no_edge_can_join_is_refused(tmp_path: Path) -> None:
    file = str(manifest(tmp_path, {}))
    for override, field in (
        (
            "spec.transport.security=Plain",
            "spec.transport.security: got 'Plain', expected TLS, which protects the secret with "
            "which an edge joins: leave the field out",
        ),
        ("spec.partition={mode: EdgeOnly}", "spec.partition.mode: got 'EdgeOnly'"),
    ):
        refused = splittracr("serve", file, "--set", override, cwd=tmp_path)
        assert refused.code == 2
        assert field in words(refused.err)


def test_an_address_goes_with_no_server_of_its_own(tmp_path: Path) -> None:
    address = f"wss://192.0.2.7:8765#{'A' * 43}.{'s' * 22}"
    refused = splittracr("edge", address, "--server", "wss://192.0.2.7", cwd=tmp_path)
    assert refused.code == 2
    assert "--server: got 'wss://192.0.2.7', expected nothing" in refused.err
    again = splittracr("edge", address, "--resume", cwd=tmp_path)
    assert again.code == 2
    given = "STUDY: got 'wss://192.0.2.7:8765#…'"
    assert f"{given}, expected a manifest: --resume goes with one" in again.error
    broken = splittracr("edge", address[:-1], cwd=tmp_path)
    assert broken.code == 2
    assert given in broken.err
    assert "sss" not in broken.err + again.err


def test_a_stopped_server_says_whose_results_it_lacks(tmp_path: Path) -> None:
    file = str(manifest(tmp_path, {}))
    with serving(file, "--host", "::1", cwd=tmp_path) as (server, (line,)):
        assert line.startswith("'wss://[::1]:")  # quoted, for shells
        server.terminate()
        _, err = server.communicate(timeout=200)
    assert server.returncode == 1
    assert "stopped before edge-0 had brought results" in err
