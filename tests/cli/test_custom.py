"""The shipped example of a network, a data set and a post-processor of one's own."""

import json
import sys
from pathlib import Path
from subprocess import run

from splittracr.results import journal
from tests.cli.processes import ROOT, environment, splittracr


def test_a_trained_custom_network_keeps_its_accuracy_at_every_cut(tmp_path: Path) -> None:
    weights = tmp_path / "shapes.pt"
    train = [sys.executable, str(ROOT / "configs" / "custom_study.py"), str(weights)]
    run(train, env=environment(), check=True, timeout=100)
    done = splittracr(
        "run",
        str(ROOT / "configs" / "custom.yaml"),
        "--set",
        f"spec.model.weightsFile={weights}",
        "--out",
        str(tmp_path / "out"),
        cwd=tmp_path,
    )
    assert done.code == 0, done.err
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    accuracies = {cut["cut"]: cut["accuracy"]["top1"] for cut in summary["cuts"]}
    assert len(accuracies) >= 5
    assert len(set(accuracies.values())) == 1, "the cut does not change a prediction"
    assert min(accuracies.values()) >= 0.9
    record = journal.read(tmp_path / "out" / "records.jsonl")[0]
    assert set(record.prediction[0]) == {"label", "class", "score"}
