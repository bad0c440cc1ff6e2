"""What may change in a study that has started."""

from typing import Any

import pytest

from tests.experiment.apiserver import Refused, admit
from tests.experiment.definition import ALL, SCHEMA, SPEC
from tests.experiment.studies import study

CHANGES = [
    {"model": {"name": "vgg11"}},
    {"model": {"name": "alexnet", "args": {"deep": [2]}}},
    {"partition": {"mode": "EdgeOnly"}},
    {"workload": {"samples": 4}},
    {"edge": {"replicas": 2}},
    {"server": {"maxEdges": 2}},
    {"results": {"claim": "other"}},
    {"partition": {"cut": 3, "onServerLoss": "Fail"}},
    {"transport": {"security": "Plain"}},
    {"transport": {"link": {"uplinkKilobitsPerSecond": 1, "downlinkKilobitsPerSecond": 1}}},
]
LIVE = [
    {"suspend": True},
    {"partition": {"cut": 4}},
    {"partition": {"cut": 3, "deadlineMilliseconds": 50}},
    {"transport": {"codec": "uint8"}},
    {"activeDeadlineSeconds": 1},
]


@pytest.mark.parametrize("change", CHANGES)
def test_what_defines_a_run_stays_once_it_has_started(change: dict[str, Any]) -> None:
    stored = admit(study(), SCHEMA)
    admit(study(**change), SCHEMA, old=stored)
    started = {**stored, "status": {"startTime": "2026-01-02T03:04:05Z"}}
    with pytest.raises(Refused, match="stays as it is once the study has started"):
        admit(study(**change), SCHEMA, old=started)


@pytest.mark.parametrize("role", ["edge", "server"])
def test_pods_may_change_until_an_edge_has_reported(role: str) -> None:
    status: dict[str, Any] = {"startTime": "2026-01-02T03:04:05Z"}
    started = {**admit(study(), SCHEMA), "status": status}
    changed = study(**{role: {"pod": {"image": "other"}}})
    admit(changed, SCHEMA, old=started)
    reported = {**started, "status": {**status, "progress": {"done": 0}}}
    with pytest.raises(Refused, match=rf"{role}\.pod stays as it is once an edge has reported"):
        admit(changed, SCHEMA, old=reported)
    admit(study(suspend=True), SCHEMA, old=reported)


@pytest.mark.parametrize("change", LIVE)
def test_the_rest_may_change_while_it_runs(change: dict[str, Any]) -> None:
    stored = admit(study(), SCHEMA)
    admit(study(**change), SCHEMA, old={**stored, "status": {"startTime": "2026-01-02T03:04:05Z"}})


def test_every_field_either_defines_a_run_or_may_change() -> None:
    rules = ALL[""]["x-kubernetes-validations"]
    paths = [rule["fieldPath"].split(".") for rule in rules if "fieldPath" in rule]
    immutable = {path[2] for path in paths}
    live = {"suspend"} | {
        "activeDeadlineSeconds",
        "pendingDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
    }
    assert immutable | live == SPEC["properties"].keys()
    for role in ("edge", "server"):
        fields = {path[3] for path in paths if path[2] == role}
        assert fields == SPEC["properties"][role]["properties"].keys()
