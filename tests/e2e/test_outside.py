"""An edge outside of the cluster: it joins by one line, is killed, and finishes."""

import contextlib
import ipaddress
import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.namespaces import Machine
from tests.cli.processes import start_on
from tests.cli.test_two_machines import kill_all
from tests.e2e.cluster import LOAD, Study, each_once, find, run, small, start, until
from tests.e2e.conftest import RELEASE, SESSION, install

NODE_PORT = 30443


@pytest.fixture
def node(operator: None) -> Iterator[str]:
    """Address of the server's node, at which edges outside reach the operator."""
    (found,) = find("nodes", "", "splittracr.io/role=server")
    addresses = {one["type"]: one["address"] for one in found["status"]["addresses"]}
    address = str(addresses["InternalIP"])
    values = f"type=NodePort,results.join.host={address},results.join.nodePort={NODE_PORT}"
    RELEASE.install(*SESSION, "--set", f"results.join.{values}")
    yield address
    install()


@contextlib.contextmanager
def machine_beside(node: str) -> Iterator[Machine]:
    """A machine in the network of the nodes that drops inbound connections, as behind NAT.

    Skips the test unless the nodes are on a bridge of this machine.
    """
    if os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("iptables") is None:
        pytest.skip("needs root and the commands ip and iptables")
    device = json.loads(run("ip", "-j", "route", "get", node))[0]["dev"]
    if not Path(f"/sys/class/net/{device}/bridge").exists():
        pytest.skip("the nodes are on no bridge of this machine")
    name = f"st{uuid.uuid4().hex[:8]}"
    answers = "-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED"
    try:
        (own,) = json.loads(run("ip", "-j", "-4", "addr", "show", "dev", device))
        place = own["addr_info"][0]
        network = ipaddress.ip_network(f"{place['local']}/{place['prefixlen']}", strict=False)
        address = str(network.broadcast_address - 7)
        run("ip", "netns", "add", name)
        run("ip", "link", "add", f"{name}h", "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "link", "set", f"{name}h", "master", device, "up")
        for command in (
            ("ip", "link", "set", "lo", "up"),
            ("ip", "addr", "add", f"{address}/{network.prefixlen}", "dev", "eth0"),
            ("ip", "link", "set", "eth0", "up"),
            ("iptables", "-A", "INPUT", "-i", "lo", "-j", "ACCEPT"),
            ("iptables", "-A", "INPUT", *answers, "-j", "ACCEPT"),
            ("iptables", "-P", "INPUT", "DROP"),
        ):
            run("ip", "netns", "exec", name, *command)
        yield Machine(name, address)
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", f"{name}h"], check=False, capture_output=True)


def test_an_edge_outside_joins_is_killed_and_finishes(
    namespace: str, node: str, tmp_path: Path
) -> None:
    link = {
        "uplinkKilobitsPerSecond": 100_000,
        "downlinkKilobitsPerSecond": 100_000,
        "roundTripMilliseconds": 100,  # so that it is killed in the middle
    }
    spec = small(
        300,
        edge={"device": "cpu", "replicas": 1, "outside": 1},
        server={"device": "cpu", "service": {"type": "NodePort", "host": node}},
        transport={"link": link},
    )
    study = start(namespace, "outside", spec)
    message = study.wait_reason("EdgeNotJoined", 180)["message"]
    asked = message.split("`")[1].split()
    assert asked[:2] == ["splittracr", "join-token"]
    line = run(sys.executable, "-m", *asked).strip().removeprefix("splittracr edge ")
    assert line.startswith(f"wss://{node}:{NODE_PORT}#")
    here, state = tmp_path / "edge", str(tmp_path / "state")
    here.mkdir()
    with machine_beside(node) as board:
        edge = start_on(board, "edge", line, cwd=here, XDG_STATE_HOME=state)
        until(
            "the records of the edge outside",
            lambda: edge.poll() is not None or _records(here) >= 20,
            180,
        )
        assert edge.poll() is None, edge.communicate()
        until("edge-1 in the status", lambda: _outside(study) == [("edge-1", True)], 60)
        kill_all(edge)
        before = _records(here)
        assert 20 <= before < 300
        assert "edge-1" in study.wait_reason("EdgeUnreachable", 90)["message"]
        again = start_on(board, "edge", line, cwd=here, XDG_STATE_HOME=state)
        out, err = again.communicate(timeout=240 * LOAD)
    assert again.returncode == 0, err
    assert "report.html" in out
    status = study.wait_for("Succeeded", "Failed", seconds=120)
    assert status["state"] == "Succeeded", status
    assert status["progress"]["summary"] == "600/600"
    assert status["placement"] == "edge-1,outside -> gpu-1"
    assert status["results"]["edges"] == ["edge-0", "edge-1"]
    each_once(study.records(), 300, edges=2)


def _outside(study: Study) -> list[tuple[str, bool]]:
    return [(w["name"], w["ready"]) for w in study.status()["workers"] if w["outside"]]


def _records(folder: Path) -> int:
    files = folder.glob("runs/*/records.jsonl")
    return sum(file.read_bytes().count(b"\n") for file in files)
