"""The notebook of the documentation runs from top to bottom."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.cli.processes import environment

NOTEBOOK = Path(__file__).parent.parent / "docs" / "notebook.ipynb"


def test_the_notebook_is_stored_without_outputs() -> None:
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        assert not cell.get("outputs"), cell.source
        assert cell.get("execution_count") is None, cell.source


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_notebook_runs(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute(env=environment())
    shown = {
        cell.source: [set(output.get("data", ())) for output in cell.outputs]
        for cell in notebook.cells
        if cell.cell_type == "code"
    }
    for source in ("model.cuts", "plan.break_even"):
        assert "text/html" in shown[source][-1], f"{source} is a table"
    for source in ("plan.figure", 'results.figures["latency"]'):
        assert "image/png" in shown[source][-1], f"{source} is a picture"
    equal = next(cell for cell in notebook.cells if cell.source.startswith("bool("))
    assert equal.outputs[-1]["data"]["text/plain"] == "True"
    (folder,) = (tmp_path / "runs").iterdir()
    assert (folder / "report.html").is_file()
