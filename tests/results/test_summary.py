import json
from pathlib import Path

import pytest

from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.versions import parse
from splittracr.results.summary import Summary
from splittracr.results.tables import frame, summarise
from tests.results import synthetic

VERSION_1 = (Path(__file__).parent / "version1" / "summary.json").read_text()


def test_a_summary_comes_back_from_its_file() -> None:
    cuts = synthetic.cuts(4)
    found = summarise(frame(synthetic.records(cuts, labelled=True)), synthetic.environment(cuts))
    assert Summary.model_validate_json(found.model_dump_json()) == found


def test_a_summary_of_version_1_is_read() -> None:
    assert "schemaVersion" not in json.loads(VERSION_1)
    found = parse(Summary, VERSION_1, "summary.json", "a summary")
    assert (found.schema_version, found.counts.ok) == (2, 6)
    assert [cut.cut for cut in found.cuts] == ["input", "output"]
    before = json.loads(VERSION_1)
    assert found.study.link == before["study"]["network"] == "as it is"
    keys = ("edge_ms", "network_ms", "server_ms")
    for cut, old in zip(found.cuts, before["cuts"], strict=True):
        keys = ("edge_ms", "network_ms", "server_ms")
        assert list(cut.tiers_ms.values()) == [old[key] for key in keys]
        assert cut.stages_ms["link"] == old["stages_ms"]["network"]
        assert cut.stages_ms.keys() == (old["stages_ms"].keys() - {"network"}) | {"link"}


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ('"network": "as it is"', '"network": 3', "study.link"),
        ('"network_ms": 0.0', '"network_ms": "x"', "cuts[1].tiers_ms.link"),
        ('"network": 0.0', '"network": "x"', "cuts[1].stages_ms.link"),
    ],
)
def test_a_wrong_value_in_a_summary_of_version_1_is_named(old: str, new: str, field: str) -> None:
    assert VERSION_1.count(old) == 1
    with pytest.raises(InvalidInput) as caught:
        parse(Summary, VERSION_1.replace(old, new), "summary.json", "a summary")
    assert caught.value.field == f"{field} of summary.json (a summary)"


@pytest.mark.parametrize(
    ("key", "value", "field"),
    [("study", 3, "study"), ("cuts", {"network_ms": 1}, "cuts"), ("cuts", [3], "cuts[0]")],
)
def test_another_shape_in_a_summary_of_version_1_is_named(
    key: str, value: object, field: str
) -> None:
    wrong = json.dumps(json.loads(VERSION_1) | {key: value})
    with pytest.raises(InvalidInput) as caught:
        parse(Summary, wrong, "summary.json", "a summary")
    assert caught.value.field == f"{field} of summary.json (a summary)"


def test_a_summary_of_a_later_version_is_refused() -> None:
    later = json.dumps(json.loads(VERSION_1) | {"schemaVersion": 3})
    with pytest.raises(InvalidInput, match=r"schemaVersion of summary\.json: got 3, .* 2 .* 1"):
        parse(Summary, later, "summary.json", "a summary")
