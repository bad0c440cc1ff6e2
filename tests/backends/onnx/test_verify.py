"""The table of models that ONNX Runtime computes is what runs found."""

from pathlib import Path

import pytest

from splittracr.backends.onnx import sessions, verify
from splittracr.backends.onnx.verdicts import Table, Verdict

BEGIN = '<!-- Written by `make verify-models RUNTIME=onnx ARGS="--table …"`; do not edit. -->'
END = "<!-- End of what is written. -->"
EMPTY = f"before\n\n{BEGIN}\n\n{END}\n\nafter\n"


@pytest.fixture(autouse=True)
def one_pool() -> None:
    sessions.use_threads(1)


def written(*verdicts: Verdict, setup: str = "ONNX Runtime 1.0.0, PyTorch 2.0.0 on A") -> str:
    table = Table()
    for verdict in verdicts:
        table = table.added(verdict, setup)
    return table.written(EMPTY, [one.name for one in verdicts])


def test_a_run_adds_to_the_table_and_keeps_what_it_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text(written(Verdict("resnet18", refused="it is | not"), Verdict("a", 9, 6, 2e-3)))
    assert verify.main(["--only", "squeezenet1_1", "resnet18", "--table", str(page)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("squeezenet1_1 ")
    assert "at 6 of 68 cuts" in line
    text = page.read_text()
    assert "| computed | 2 | squeezenet1_1, a |" in text
    assert "| refused: it is \\| not | 1 | resnet18 |" in text
    assert "random weights and ONNX Runtime 1.0.0, PyTorch 2.0.0 on A; ONNX Runtime 1." in text
    assert "of those computed is 2.0e-03." in text
    assert text.startswith(f"before\n\n{BEGIN}\n\nOf ")
    assert text.endswith(f"{END}\n\nafter\n")


def test_a_model_is_run_again_only_if_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text(written(Verdict("squeezenet1_1", refused="no")))
    options = ["--only", "squeezenet1_1", "--table", str(page), "--memory-gibibytes", "0.01"]
    before = page.read_text()
    assert verify.main(options) == 0
    assert "left out 1 of 1 models: the table has them; --again" in capsys.readouterr().err
    assert page.read_text() == before
    assert verify.main([*options, "--again"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith("refused: does not fit into 0.01 GiB")
    assert "| refused: does not fit into 0.01 GiB | 1 | squeezenet1_1 |" in page.read_text()


def test_a_model_that_ends_its_process_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ends.py").write_text("import os\ndef network(): os.abort()\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert verify.check_apart("ends:network").refused == "its process ended: SIGABRT"


def test_a_network_of_several_sizes_is_refused() -> None:
    found = verify.check("lraspp_mobilenet_v3_large")
    assert found.refused == "each picture keeps its own size, a session takes one"
    assert found.line().endswith(f"refused: {found.refused}")


VERDICTS = [
    Verdict("a", 10, 6, 1e-6),
    Verdict("b", 10, 6, 3e-6),
    Verdict("c", refused="x < 1 | y"),
    Verdict("d", 10, 6, 0.4, "far"),
]


def test_the_table_groups_models_and_names_those_that_were_not_run() -> None:
    table = Table.read(written(*VERDICTS))
    lines = table.markdown(["a", "b", "c", "d", "e"]).splitlines()
    assert lines[0] == (
        "Of 5 models 4 were run, at 6 cuts each, with random weights and ONNX Runtime 1.0.0, "
        "PyTorch 2.0.0 on A. The largest relative error of those computed is 3.0e-06."
    )
    assert lines[4:] == [
        "| computed | 2 | a, b |",
        "| refused: far | 1 | d |",
        "| refused: x &lt; 1 \\| y | 1 | c |",
        "| not run | 1 | e |",
    ]


def test_a_table_that_is_read_is_written_again_as_it_was() -> None:
    page = written(*VERDICTS)
    table = Table.read(page)
    assert table.written(page, ["a", "b", "c", "d"]) == page
    assert {one.name: one.refused for one in table.verdicts.values()} == {
        one.name: one.refused for one in VERDICTS
    }


def test_the_table_of_the_documentation_can_be_continued() -> None:
    table = Table.read(Path("docs/models.md").read_text("utf-8"))
    assert table.verdicts["resnet18"].refused == ""
    assert "each picture keeps its own size" in table.verdicts["ssd300_vgg16"].refused


def test_models_that_only_the_page_has_keep_their_row() -> None:
    table = Table.read(written(Verdict("elsewhere")))
    assert "| computed | 1 | elsewhere |" in table.written(EMPTY, ["here"])


def test_a_pattern_without_a_model_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        verify.main(["--only", "nothing*", "none"])
    assert "no model is called like 'nothing*' or 'none'" in capsys.readouterr().err


def test_a_page_without_a_place_for_the_table_is_an_error() -> None:
    with pytest.raises(ValueError, match="the page has no lines"):
        Table.read("a page")


def test_a_table_without_its_first_line_is_an_error() -> None:
    page = f"{BEGIN}\n| computed | 1 | a |\n{END}"
    with pytest.raises(ValueError, match="has no line with the largest relative error"):
        Table.read(page)


@pytest.mark.parametrize("name", ["timm/test_convnext", "transformers/vit"])
def test_models_of_extras_are_computed(name: str) -> None:
    verdict = verify.check(name)
    assert verdict.refused == ""
    assert verdict.tried == 6
    assert verdict.largest_error < 1e-4
