"""Two machines: network namespaces that see each other and nothing else."""

import contextlib
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Machine:
    """A namespace with one address."""

    name: str
    address: str

    def command(self, arguments: Sequence[str]) -> list[str]:
        """The command that runs `arguments` in this namespace."""
        return ["ip", "netns", "exec", self.name, *arguments]


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@contextlib.contextmanager
def machines() -> Iterator[tuple[Machine, Machine]]:
    """A server and an edge on one link. Skips the test if namespaces cannot be made."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("needs root and the command ip")
    unique = uuid.uuid4().hex[:8]
    server, edge = (
        Machine(f"st{kind}{unique}", f"10.77.0.{i}") for kind, i in (("s", 1), ("e", 2))
    )
    try:
        for machine in (server, edge):
            _ip("netns", "add", machine.name)
            _ip("-n", machine.name, "link", "set", "lo", "up")
        ends = f"v{unique}0", f"v{unique}1"
        _ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for machine, end in zip((server, edge), ends, strict=True):
            _ip("link", "set", end, "netns", machine.name)
            _ip("-n", machine.name, "addr", "add", f"{machine.address}/24", "dev", end)
            _ip("-n", machine.name, "link", "set", end, "up")
    except (OSError, subprocess.CalledProcessError) as error:
        _remove(server, edge)
        pytest.skip(f"network namespaces cannot be made here: {getattr(error, 'stderr', error)}")
    try:
        yield server, edge
    finally:
        _remove(server, edge)


def _remove(*made: Machine) -> None:
    for machine in made:
        subprocess.run(["ip", "netns", "del", machine.name], check=False, capture_output=True)
