"""`import splittracr as st`: studies and results."""

from pathlib import Path
from typing import Any

import pytest
import yaml

import splittracr as st
from splittracr.experiment.errors import InvalidInput, SplittracrError

STUDY: dict[str, Any] = {
    "apiVersion": "splittracr.io/v1alpha1",
    "kind": "SplitExperiment",
    "metadata": {"name": "tiny"},
    "spec": {
        "model": {"name": "squeezenet1_1", "weights": "none", "inputSize": [64, 64]},
        "partition": {"mode": "Sweep", "maxCuts": 3},
        "workload": {"samples": 4},
    },
}


def test_a_study_of_a_mapping_gives_tables_and_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    made = st.run(STUDY, overrides={"spec.workload.samples": 2}, quiet=True)
    assert capfd.readouterr().out == ""
    assert made.folder.parent.name == "runs"
    assert made.folder.name.startswith("tiny-")
    assert made.environment.manifest.spec.workload.samples == 2
    assert len(made.records) == 6
    assert set(made.records["outcome"]) == {"ok"}
    summary = made.summary
    assert list(summary["n"]) == [2, 2, 2]
    assert list(summary["cut"])[::2] == ["input", "output"]
    parts = summary[["tiers_ms.edge", "tiers_ms.link", "tiers_ms.server"]].sum(axis=1)
    assert parts.tolist() == pytest.approx(summary["total_ms.mean"].tolist())
    assert "latency" in made.figures
    assert made.figures["latency"].figure.axes
    assert made.report.is_file()
    assert made.headline in made._repr_html_().replace("&#39;", "'")
    again = st.results(made.folder)
    assert again.summary.equals(summary)


def test_a_study_of_a_file_is_what_the_command_runs(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(STUDY))
    once = {"spec.workload.samples": 1, "spec.partition": {"mode": "EdgeOnly"}}
    made = st.run(file, out=tmp_path / "out", overrides=once)
    assert made.folder == tmp_path / "out"
    assert list(made.summary["cut"]) == ["output"]
    assert "Report:" in capfd.readouterr().out
    with pytest.raises(InvalidInput, match=r"out: got '.*out', expected a new folder"):
        st.run(file, out=tmp_path / "out")


def test_a_study_that_fails_says_why(tmp_path: Path) -> None:
    refused = {"spec.partition": {"mode": "Static", "cut": "layer9"}}
    with pytest.raises(SplittracrError, match=r"spec\.partition\.cut: got 'layer9'"):
        st.run(STUDY, out=tmp_path / "out", overrides=refused, quiet=True)


@pytest.mark.parametrize(
    ("study", "message"),
    [
        ({**STUDY, "spek": {}}, "spek: got 'spek', expected a known key"),
        ({**STUDY, "spec": {"model": 3}}, "spec.model: got 3, expected"),
        ({**STUDY, "spec": Path()}, "study: got"),
        (7, "study: got 7, expected a path, a mapping or a SplitExperiment"),
        ("/no/study.yaml", "study: got '/no/study.yaml', expected a readable manifest"),
    ],
)
def test_what_is_no_study_is_named(study: Any, message: str) -> None:
    with pytest.raises(InvalidInput) as error:
        st.run(study)
    assert str(error.value).startswith(message)


def test_a_folder_without_results_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"results folder: got .*, expected to contain"):
        st.results(tmp_path)
