"""The table of networks that ONNX Runtime computes is what a run found."""

import json
from pathlib import Path

import pytest

from splittracr.backends.onnx import sessions, verify
from splittracr.backends.onnx.verify import Verdict, replaced, table

BEGIN = '<!-- Written by `make verify-models RUNTIME=onnx ARGS="--table …"`; do not edit. -->'
END = "<!-- End of what is written. -->"
PAGE = f"before\n\n{BEGIN}\n\nold\n\n{END}\n\nafter\n"


@pytest.fixture(autouse=True)
def one_pool() -> None:
    sessions.use_threads(1)


def test_a_run_adds_to_the_verdicts_and_writes_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, page = tmp_path / "verdicts.json", tmp_path / "page.md"
    page.write_text(PAGE)
    file.write_text('{"networks": [{"name": "resnet18", "refused": "it is | not"}]}')
    options = ["--only", "squeezenet1_1", "--json", str(file), "--table", str(page)]
    assert verify.main(options) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("squeezenet1_1 ")
    assert "at 6 of 68 cuts" in line
    found = {one["name"]: one["refused"] for one in json.loads(file.read_text())["networks"]}
    assert found == {"resnet18": "it is | not", "squeezenet1_1": ""}
    text = page.read_text()
    assert "| computed | 1 | squeezenet1_1 |" in text
    assert "| refused: it is \\| not | 1 | resnet18 |" in text
    assert text.startswith(f"before\n\n{BEGIN}\n\nOf ")
    assert text.endswith(f"{END}\n\nafter\n")
    assert "old" not in text


def test_a_network_of_several_sizes_is_refused() -> None:
    found = verify.check("lraspp_mobilenet_v3_large")
    assert found.refused == "each picture keeps its own size, a session takes one"
    assert found.line().endswith(f"refused: {found.refused}")


def test_the_table_groups_networks_and_names_those_that_were_not_run() -> None:
    verdicts = [
        Verdict("a", 10, 6, 1e-6),
        Verdict("b", 10, 6, 3e-6),
        Verdict("c", refused="no"),
        Verdict("d", 10, 6, 0.4, "far"),
    ]
    lines = table({one.name: one for one in verdicts}, ["a", "b", "c", "d", "e"]).splitlines()
    assert lines[0].startswith("Of 5 models 4 were run, at 6 cuts each")
    assert lines[0].endswith("is 3.0e-06.")
    assert lines[4:] == [
        "| computed | 2 | a, b |",
        "| refused: far | 1 | d |",
        "| refused: no | 1 | c |",
        "| not run | 1 | e |",
    ]


def test_a_page_without_a_place_for_the_table_is_an_error() -> None:
    with pytest.raises(ValueError, match="the page has no lines"):
        replaced("a page", "a table")


@pytest.mark.parametrize("name", ["timm/test_convnext", "transformers/vit"])
def test_networks_of_extras_are_computed(name: str) -> None:
    verdict = verify.check(name)
    assert verdict.refused == ""
    assert verdict.tried == 6
    assert verdict.largest_error < 1e-4
