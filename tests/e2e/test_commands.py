"""The quickstart as a user runs it: apply, watch, fetch, delete."""

import json
import sys
from pathlib import Path

import pytest
import yaml

from tests.e2e.cluster import STUDY, Failed, Study, apply, find, run, until
from tests.e2e.conftest import ROOT


def splittracr(*arguments: str) -> str:
    return run(sys.executable, "-m", "splittracr", *arguments, seconds=120)


def test_quickstart_from_apply_to_report(namespace: str, tmp_path: Path) -> None:
    manifest = yaml.safe_load((ROOT / "configs" / "quickstart.yaml").read_text())
    manifest["metadata"]["namespace"] = namespace
    apply(manifest)
    status = Study(namespace, "quickstart").wait_for("Succeeded", "Failed", seconds=240)
    assert status["state"] == "Succeeded", status

    assert "quickstart" in splittracr("status", "-n", namespace)
    shown = splittracr("status", "quickstart", "-n", namespace)
    assert status["bestCut"]["name"] in shown
    assert "Completed" in shown
    assert '"event": "finished"' in splittracr("logs", "quickstart", "-n", namespace)
    with pytest.raises(Failed, match="has no server pods"):
        splittracr("logs", "quickstart", "-n", namespace, "--role", "server")
    with pytest.raises(Failed, match="namespace: got 'nowhere'"):
        splittracr("status", "-n", "nowhere")

    out = tmp_path / "results"
    output = splittracr("results", "quickstart", "-n", namespace, "--out", str(out))
    assert status["bestCut"]["name"] in output
    summary = json.loads((out / "summary.json").read_text())
    assert summary["counts"]["ok"] == status["progress"]["total"] == 80
    assert summary["best"]["cut"] == status["bestCut"]["name"]
    assert summary["study"]["finished"]
    assert not summary["study"]["random_weights"]
    assert (out / "report.html").stat().st_size > 10_000
    assert list((out / "pictures").glob("*.jpg"))
    (edge,) = (out / "logs").glob("quickstart-edge-*.log")
    (server,) = (out / "logs").glob("quickstart-server-*.log")  # its pod is deleted
    assert '"event": "finished"' in edge.read_text()
    assert '"event": "serving"' in server.read_text()

    splittracr("delete", "quickstart", "-n", namespace)
    until("the end of it", lambda: not find(STUDY, namespace), 30)
