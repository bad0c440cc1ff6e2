"""A real sshd on loopback, with keys and settings of its own, and an `ssh` that knows it."""

import contextlib
import getpass
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

_SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")


@dataclass(frozen=True)
class SecureShell:
    """`url` is for --on. `path` is a folder for PATH, whose `ssh` uses the test's keys."""

    url: str
    path: Path


def _key(path: Path) -> Path:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return path


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextlib.contextmanager
def secure_shell(folder: Path) -> Iterator[SecureShell]:
    """Start an sshd. Skips the test if there is none."""
    if _SSHD is None or shutil.which("ssh") is None:
        pytest.skip("needs sshd and ssh (Debian: apt install openssh-server openssh-client)")
    host, user = _key(folder / "host"), _key(folder / "user")
    port = _free_port()
    (folder / "authorized").write_text((folder / "user.pub").read_text())
    (folder / "known").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {host}\nPidFile none\nUsePAM no\n"
        f"AuthorizedKeysFile {folder / 'authorized'}\nStrictModes no\n"
    )
    (folder / "ssh_config").write_text(
        f"Host tower\n  HostName 127.0.0.1\n  Port {port}\n"
        f"Host *\n  User {getpass.getuser()}\n  IdentityFile {user}\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {folder / 'known'}\n  GlobalKnownHostsFile /dev/null\n"
    )
    commands = folder / "bin"
    commands.mkdir()
    wrapper = commands / "ssh"
    wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder / "ssh_config"} "$@"\n')
    wrapper.chmod(0o755)
    log = (folder / "sshd.log").open("wb")
    with contextlib.suppress(PermissionError):  # of root alone, who needs it
        Path("/run/sshd").mkdir(exist_ok=True)
    daemon = subprocess.Popen(
        [_SSHD, "-D", "-e", "-f", str(folder / "sshd_config")], stdout=log, stderr=log
    )
    try:
        _wait_until_open(port, daemon, folder / "sshd.log")
        yield SecureShell(f"ssh://127.0.0.1:{port}", commands)
    finally:
        daemon.terminate()
        daemon.wait(timeout=100)
        log.close()


def _wait_until_open(port: int, daemon: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 30
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        assert daemon.poll() is None, log.read_text()
        assert time.monotonic() < end, "sshd does not listen"
        time.sleep(0.05)


def remote_command(folder: Path, root: Path) -> str:
    """The command of this checkout for a shell on the other machine, run in `folder`."""
    python = f"env PYTHONPATH={root / 'operator'}:{root / 'workers'} {sys.executable}"
    return f"cd {folder} && {python} -P -m splittracr"
