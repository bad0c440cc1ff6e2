import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from splittracr.experiment.types import STAGES, Record
from splittracr.results import summary
from splittracr.results.environment import End, Environment, Run
from splittracr.results.summary import Summary
from splittracr.results.tables import SCHEMA, frame, summarise
from tests.results import synthetic

PAGE = Path(__file__).parents[2] / "docs" / "results.md"
MODELS = [
    Record,
    Environment,
    End,
    Run,
    Summary,
    summary.Study,
    summary.Counts,
    summary.CutFigures,
    summary.Mean,
    summary.Accuracy,
    summary.Best,
    summary.Outputs,
    summary.Gap,
]


def section(title: str) -> str:
    """The part of the page below the heading that names `title`."""
    parts = re.split(r"^#+ ", PAGE.read_text(), flags=re.MULTILINE)[1:]
    return next(part for part in parts if f"`{title}`" in part.splitlines()[0])


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_the_page_on_results_has_every_key_and_no_other(model: type[BaseModel]) -> None:
    rows = re.findall(r"^\| `(\w+)` \|", section(model.__name__), flags=re.MULTILINE)
    assert rows == list(model.model_fields)


def test_the_page_on_results_has_every_stage_and_column() -> None:
    assert re.findall(r"^\| `(\w+)` \|", section("stages"), flags=re.MULTILINE) == list(STAGES)
    own = {*Record.model_fields, *(f"{stage}_ms" for stage in STAGES)} - {"stages"}
    assert set(SCHEMA) == own


def test_a_summary_comes_back_from_its_file() -> None:
    cuts = synthetic.cuts(4)
    found = summarise(frame(synthetic.records(cuts, labelled=True)), synthetic.environment(cuts))
    assert Summary.model_validate_json(found.model_dump_json()) == found
