from pathlib import Path

import pytest
import yaml

from splittracr.cli import generate
from splittracr.experiment import crd, reference
from splittracr.experiment.spec import ExperimentSpec

ROOT = Path(__file__).parents[2]


def test_the_repository_is_up_to_date() -> None:
    assert generate.drift(ROOT) == [], "run `make generate`"


def test_write_then_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = ["--root", str(tmp_path)]
    assert generate.main([*root, "--check"]) == 1
    assert generate.main(root) == 0
    assert "wrote docs/manifest.md\n" in capsys.readouterr().out
    assert generate.main([*root, "--check"]) == 0
    assert generate.write(tmp_path) == []
    assert capsys.readouterr().out == ""


def test_what_needs_helm_is_left_out_without_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert generate.main(["--root", str(tmp_path)]) == 0
    said = "left out deploy/operator.yaml: helm is not on the PATH\n"
    assert capsys.readouterr().out.endswith(said)
    assert not (tmp_path / "deploy").exists()


@pytest.mark.parametrize("path", generate.FILES)
def test_check_shows_the_difference_and_names_the_command(
    path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generate.write(tmp_path)
    (tmp_path / path).write_text((tmp_path / path).read_text() + "changed by hand\n")
    assert generate.main(["--root", str(tmp_path), "--check"]) == 1
    out = capsys.readouterr().out
    assert "-changed by hand" in out
    assert out.endswith("Generated files are out of date: run `make generate`.\n")


def test_custom_resource_names_its_command() -> None:
    text = (ROOT / "crds" / "splitexperiments.splittracr.io.yaml").read_text()
    assert "make generate" in text.splitlines()[0]
    assert yaml.safe_load(text) == crd.definition()


def test_every_field_stands_in_the_manual() -> None:
    def rows(path: str, schema: crd.Schema) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        for name, field in schema["properties"].items():
            inner = "properties" in field
            found += rows(f"{path}.{name}", field) if inner else [(path, name)]
        return found

    sections = {
        section.partition("`")[0]: section for section in reference.markdown().split("\n## `")[1:]
    }
    for path, name in rows("spec", crd.structural(ExperimentSpec)):
        assert f"\n| `{name}` |" in sections[path]


def test_manual_shows_type_default_bounds_and_meaning() -> None:
    page = reference.markdown()
    assert "| `topK` | integer | `5` | 1 to 1000 | Classes reported a picture. |" in page
    assert "| `name` | text | required | 1 to 253 characters |" in page
    assert "- cut goes with mode Static or Cascade" in page
