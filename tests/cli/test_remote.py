"""`run --on`: the server on another machine, started by ssh."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from splittracr.cli.remote import Remote
from splittracr.experiment.errors import InvalidInput
from splittracr.results import journal
from tests.cli.processes import ROOT, Finished, files_below, manifest, splittracr, start
from tests.cli.secure_shell import SecureShell, remote_command, secure_shell

pytestmark = pytest.mark.timeout(400)  # several processes, one after the other


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureShell]:
    with secure_shell(tmp_path_factory.mktemp("ssh")) as found:
        yield found


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """The folder in which the server runs."""
    folder = tmp_path / "there"
    folder.mkdir()
    return folder


def arguments(shell: SecureShell, there: Path, *more: str) -> tuple[str, ...]:
    return ("--on", shell.url, "--remote-command", remote_command(there, ROOT), *more)


def path(shell: SecureShell) -> str:
    return f"{shell.path}{os.pathsep}{os.environ['PATH']}"


def run(shell: SecureShell, *options: str, cwd: Path) -> Finished:
    return splittracr(
        "run", "study.yaml", "--out", "out", *options, cwd=cwd, timeout=300, PATH=path(shell)
    )


@pytest.mark.parametrize("forward", [False, True])
def test_both_machines_have_the_results(
    tmp_path: Path, shell: SecureShell, there: Path, forward: bool
) -> None:
    manifest(tmp_path, {})
    options = arguments(shell, there, *(["--forward"] if forward else []))
    done = run(shell, *options, cwd=tmp_path)
    assert done.code == 0, done.err
    assert "Cutting mobilenet_v3_small at features.1.block.1.activation took" in done.out
    assert ("the way through ssh" in done.out) is forward
    (copy,) = there.glob("runs/study-*")
    for folder in (tmp_path / "out", copy):
        assert {"records.jsonl", "report.html", "records.csv"} <= set(files_below(folder))
    here, elsewhere = (journal.read(f / "records.jsonl") for f in (tmp_path / "out", copy))
    assert here == elsewhere
    assert [record.sample for record in here] == [0, 1, 2]


def test_ctrl_c_stops_the_server_there(tmp_path: Path, shell: SecureShell, there: Path) -> None:
    manifest(tmp_path, {"workload": {"samples": 100_000}})
    records = tmp_path / "out" / "records.jsonl"
    command = ("run", "study.yaml", "--out", "out", *arguments(shell, there))
    running = start(*command, cwd=tmp_path, PATH=path(shell))
    try:
        wait_for(lambda: records.exists() and bool(journal.read(records)), "records")
        servers = [p for p in psutil.process_iter() if in_folder(p, there)]
        assert len(servers) >= 2  # serve, and its worker
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=200)
    finally:
        running.kill()
    assert running.returncode == 1
    assert "stopped" in err
    _, alive = psutil.wait_procs(servers, timeout=100)
    assert alive == []
    assert journal.read(records)


def in_folder(process: psutil.Process, folder: Path) -> bool:
    try:
        return process.cwd() == str(folder)
    except psutil.Error:
        return False


def wait_for(true: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 300
    while not true():
        assert time.monotonic() < end, f"no {what} in time"
        time.sleep(0.02)


def test_a_command_that_is_not_there_is_said(tmp_path: Path, shell: SecureShell) -> None:
    manifest(tmp_path, {})
    options = ("--on", shell.url, "--remote-command", "splittracr-of-nobody")
    done = run(shell, *options, cwd=tmp_path)
    assert done.code == 1
    assert "has no such command (--remote-command names it, now 'splittracr-of-nobody')" in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", [("--forward",), ("--remote-command", "splittracr")])
def test_an_option_of_another_machine_needs_one(tmp_path: Path, option: tuple[str, ...]) -> None:
    manifest(tmp_path, {})
    done = splittracr("run", "study.yaml", "--out", "out", *option, cwd=tmp_path)
    assert done.code == 2
    assert f"--on: got nothing, expected the machine of the server, which {option[0]}" in done.err
    assert not (tmp_path / "out").exists()


def test_what_ssh_says_is_shown(tmp_path: Path, shell: SecureShell) -> None:
    manifest(tmp_path, {})
    done = run(shell, "--on", "ssh://127.0.0.1:1", cwd=tmp_path)
    assert done.code == 1
    assert "ssh to 127.0.0.1 failed:" in done.err
    assert "Connection refused" in done.err


def test_what_the_server_refuses_is_shown(tmp_path: Path, shell: SecureShell, there: Path) -> None:
    manifest(tmp_path, {"model": {"name": "mobilenet_v3_small", "weightsFile": "none.pt"}})
    done = run(shell, *arguments(shell, there), cwd=tmp_path)
    assert done.code == 1
    assert "spec.model.weightsFile: got 'none.pt'" in " ".join(done.err.split())


@pytest.mark.parametrize(
    ("text", "target", "port"),
    [
        ("ssh://tower", "tower", None),
        ("ssh://me@192.0.2.7:2222/", "me@192.0.2.7", 2222),
        ("ssh://[2001:db8::7]", "2001:db8::7", None),
    ],
)
def test_a_machine_is_read(text: str, target: str, port: int | None) -> None:
    remote = Remote.parse(text, "splittracr", forward=False)
    assert (remote.target, remote.port) == (target, port)


@pytest.mark.parametrize(
    "text",
    ["tower", "http://tower", "ssh://", "ssh://me:secret@tower", "ssh://tower/home", "ssh://-oX"],
)
def test_what_is_no_machine_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="--on: got"):
        Remote.parse(text, "splittracr", forward=False)
