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
    before = json.loads(VERSION_1)["cuts"][0]
    keys = ("edge_ms", "network_ms", "server_ms")
    assert list(found.cuts[0].tiers_ms.values()) == [before[key] for key in keys]


def test_a_summary_of_a_later_version_is_refused() -> None:
    later = json.dumps(json.loads(VERSION_1) | {"schemaVersion": 3})
    with pytest.raises(InvalidInput, match=r"schemaVersion of summary\.json: got 3, .* 2 .* 1"):
        parse(Summary, later, "summary.json", "a summary")
