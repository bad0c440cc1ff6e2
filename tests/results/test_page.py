import re

import pytest
from pydantic import BaseModel

from splittracr.experiment.profile import CodecProfile, Profile
from splittracr.experiment.types import STAGES, Cut, Record, TensorSpec
from splittracr.results import page, summary
from splittracr.results.environment import End, Environment
from splittracr.results.tables import SCHEMA

MODELS = [
    Record,
    Environment,
    End,
    Cut,
    TensorSpec,
    summary.Summary,
    summary.Study,
    summary.Counts,
    summary.CutFigures,
    summary.Mean,
    summary.Accuracy,
    summary.Best,
    summary.Outputs,
    summary.Agreement,
    Profile,
    CodecProfile,
]
PAGE = page.markdown()


def section(title: str) -> str:
    """The part of the page below the heading that names `title`."""
    parts = re.split(r"^##+ ", PAGE, flags=re.MULTILINE)[1:]
    (found,) = (part for part in parts if f"`{title}`" in part.splitlines()[0])
    return found


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_each_key_has_a_row_with_type_and_meaning(model: type[BaseModel]) -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) ?\| (.*) \|$", section(model.__name__), re.M)
    keys = [field.alias or name for name, field in model.model_fields.items()]
    assert [row[0] for row in rows] == keys
    assert all(kind and meaning for _, kind, _, meaning in rows)


@pytest.mark.parametrize(
    "row",
    [
        "| `total_ms` | number | ms | Latency; the sum of the stages. |",
        "| `bytes_up` | integer | bytes | Sent from edge to server: the message with its header, "
        "without those of websocket, TLS and TCP. |",
        "| `started_at` | number | s since 1970 | When the sample was due. |",
        "| `outcome` | `ok` or `failed` |  | Whether there is a prediction. |",
        "| `best` | [Best](#best) or null |  | Null if no sample finished, or if cuts are no "
        "alternatives: with a cascade, in mode Adaptive, or if the cut was changed while the study "
        "ran. |",
        "| `op_ms` | list of number | ms | Every operation, one after the other. |",
        "| `top1` | number | 0 to 1 | Share whose class is ranked first. |",
    ],
)
def test_rows_show_type_unit_and_meaning(row: str) -> None:
    assert f"\n{row}\n" in PAGE


def test_stages_and_columns_are_those_of_the_records() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", section("stages"), flags=re.MULTILINE)
    assert rows == list(STAGES)
    keys = {field.alias or name for name, field in Record.model_fields.items()}
    assert set(SCHEMA) == {*keys, *(f"{stage}_ms" for stage in STAGES)} - {"stages"}


def test_what_defines_a_record_is_listed() -> None:
    for path in ("model", "dataset", "workload.batchSize", "partition.mode", "results.outputs"):
        assert f"  `spec.{path}`" in PAGE


def test_a_key_without_a_description_is_a_mistake() -> None:
    class Bare(BaseModel):
        """A model."""

        size: int

    with pytest.raises(TypeError, match=r"Bare\.size has no description"):
        list(page.table(Bare))
