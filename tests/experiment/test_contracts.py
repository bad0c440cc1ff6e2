import re
from pathlib import Path

import polars as pl
import pytest
import yaml

from splittracr.experiment import contracts
from splittracr.experiment.contracts import EDGE_PATTERN, ExitCode, answered, edge_name, edge_names
from splittracr.experiment.errors import AllFailed, InvalidInput, SplittracrError
from splittracr.experiment.types import Place

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path
    for folder in ("workers/splittracr", "operator/splittracr_operator")
    for path in (ROOT / folder).rglob("*.py")
    if path.name != "contracts.py"
)
OURS = re.compile(r"""["'](SPLITTRACR_[A-Z_]+|/healthz|/metrics|/v1/[a-z]+|edge-[0-9{])""")


def test_no_other_module_spells_a_variable_a_path_or_an_edge() -> None:
    assert SOURCES
    found = [
        f"{p.relative_to(ROOT)}: {m[0]}" for p in SOURCES for m in OURS.finditer(p.read_text())
    ]
    assert found == []


@pytest.mark.parametrize(
    ("finished_on", "cut", "at_exit", "counts"),
    [
        (Place.SERVER, "relu", False, True),
        (Place.SERVER, "input", False, True),
        (Place.EDGE, "output", False, True),
        (Place.EDGE, "relu", False, False),
        (Place.EDGE, "relu", True, True),
        (Place.EDGE, "input", False, False),
    ],
)
def test_answered_means_the_same_of_a_sample_and_of_a_table(
    finished_on: Place, cut: str, at_exit: bool, counts: bool
) -> None:
    assert answered(finished_on, cut, at_exit) is counts
    table = pl.DataFrame({"on": [str(finished_on)], "cut": [cut], "exit": [at_exit]})
    found = table.select(answered(pl.col("on"), pl.col("cut"), pl.col("exit"))).item()
    assert found is counts


def test_names_of_edges_fit_their_pattern() -> None:
    assert edge_names(2) == ["edge-0", "edge-1"]
    assert re.fullmatch(EDGE_PATTERN, edge_name(1023))
    assert re.fullmatch(EDGE_PATTERN, edge_name("x")) is None


def test_errors_end_with_their_own_code() -> None:
    codes = (SplittracrError("x"), InvalidInput("a", 1, "b"), AllFailed("x"))
    assert [error.exit_code for error in codes] == [1, 2, 3]
    assert f"{ExitCode.ALL_FAILED}" == "3"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Place.EDGE, "'edge'"),
        (ExitCode.FAILED, "1"),
        ([Place.EDGE, 1], "['edge', 1]"),
        ((Place.SERVER,), "('server',)"),
        ({Place.EDGE: [Place.SERVER]}, "{'edge': ['server']}"),
        ("edge", "'edge'"),
        (None, "nothing"),
    ],
)
def test_a_value_is_shown_as_a_user_writes_it(value: object, text: str) -> None:
    assert str(InvalidInput("field", value, "another")) == f"field: got {text}, expected another"


def test_the_chart_uses_the_same_variables_paths_and_port() -> None:
    deployment = (ROOT / "charts/splittracr/templates/deployment.yaml").read_text()
    assert set(re.findall("SPLITTRACR_[A-Z_]+", deployment)) == {
        contracts.CONFIG,
        contracts.NAMESPACE,
    }
    assert set(re.findall(r"path: (/\S+)", deployment)) >= {contracts.HEALTH_PATH}
    values = yaml.safe_load((ROOT / "charts/splittracr/values.yaml").read_text())
    assert values["port"] == contracts.OPERATOR_PORT
