"""Lasting warnings among the events of Kubernetes."""

from typing import Any

import pytest

from splittracr_operator.warning_events import OF_JOBS, OF_PODS, lasting
from tests.control.studies import warning

SYNC = 'MountVolume.SetUp failed for volume "manifest": timed out waiting for the condition'
MISSING = 'MountVolume.SetUp failed for volume "pictures": configmap "pictures" not found'
MOUNTS = "Unable to attach or mount volumes: timed out waiting for the condition"


def normal(component: str, at: float) -> dict[str, Any]:
    return {**warning(component, "fine", at), "type": "Normal"}


@pytest.mark.parametrize(
    "events",
    [
        [],
        [warning("kubelet", SYNC, 0)],
        [warning("kubelet", SYNC, 0, 60)],
        [warning("kubelet", MISSING, 0, 4)],
        [warning("kubelet", MISSING, 0, 100), normal("kubelet", 101)],
        [warning("default-scheduler", "0/2 nodes are available", 0, 500)],
        [warning("job-controller", "exceeded quota", 0, 500)],
    ],
)
def test_no_lasting_warning_about_a_pod(events: list[dict[str, Any]]) -> None:
    assert lasting(events, OF_PODS) is None


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([warning("kubelet", MISSING, 0, 16)], MISSING),
        ([warning("kubelet", MISSING, 0, 16), warning("kubelet", MOUNTS, 123)], MISSING),
        ([warning("kubelet", SYNC, 0, 123)], SYNC),
        (
            [
                warning("kubelet", "no network", 0),
                warning("kubelet", "(combined from similar events): no network", 3, 20),
            ],
            "no network",
        ),
        (
            [
                warning("default-scheduler", "0/2 nodes", 30),
                normal("kubelet", 0),
                warning("kubelet", MISSING, 1, 20),
            ],
            MISSING,
        ),
        ([warning("attachdetach-controller", "Multi-Attach error", 0, 30)], "Multi-Attach error"),
    ],
)
def test_a_lasting_warning_about_a_pod(events: list[dict[str, Any]], message: str) -> None:
    assert lasting(events, OF_PODS) == message


def test_a_quota_blocks_a_job_until_it_has_a_pod() -> None:
    refused = warning("job-controller", "exceeded quota", 0, 15)
    assert lasting([refused], OF_JOBS) == "exceeded quota"
    assert lasting([refused, normal("job-controller", 31)], OF_JOBS) is None
    webhook = warning("job-controller", "Internal error: failed calling webhook", 0, 15)
    assert lasting([webhook], OF_JOBS) is None


def test_events_of_the_newer_kind_have_other_times() -> None:
    event = {
        "type": "Warning",
        "message": MISSING,
        "reportingComponent": "kubelet",
        "eventTime": "2026-03-01T12:00:00.000000Z",
        "firstTimestamp": None,
        "lastTimestamp": None,
        "series": {"count": 5, "lastObservedTime": "2026-03-01T12:00:20.000000Z"},
    }
    assert lasting([event], OF_PODS) == MISSING
