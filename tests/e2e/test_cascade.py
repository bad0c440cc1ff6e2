"""A cascade in the cluster: the small model answers if it is sure enough, else the large one.

Both have random weights, so that they often disagree, and audits refute the promise.
"""

from typing import Any

import pytest

from tests.e2e.cluster import Study, each_once, fault, find, small, start, until
from tests.e2e.test_faults import restarts

SAMPLES, PER_MINUTE = 600, 900
"""40 s of work, so that both ends are killed in the middle of it."""

NEVER_SURE = 1_000_001
"""A threshold that no sample reaches."""

NETWORK = {"name": "squeezenet1_1", "weights": "none", "inputSize": [64, 64], "numClasses": 10}


def cascade(samples: int, threshold: int) -> dict[str, Any]:
    """A small study in mode Cascade, whose promise is that no answer in a million disagrees."""
    keys = {
        "model": {**NETWORK, "seed": 1},
        "statistic": "Margin",
        "thresholdPerMillion": threshold,
        "maxDisagreementPerMillion": 1,
        "auditPercent": 50,
    }
    partition = {"mode": "Cascade", "cut": 8, "cascade": keys}
    arrival = {"mode": "Open", "framesPerMinute": PER_MINUTE}
    workload = {"samples": samples, "arrival": arrival}
    return small(samples, None, model=NETWORK, partition=partition, workload=workload)


def finish(study: Study) -> None:
    status = study.wait_for("Succeeded", "Failed", seconds=240)
    assert status["state"] == "Succeeded", status


def best(record: dict[str, Any]) -> int:
    """The class that a record's network ranks first."""
    found: int = record["prediction"][0]["class"]
    return found


@pytest.mark.usefixtures("faults")
def test_kills_change_no_answer_of_a_cascade(namespace: str) -> None:
    """A study whose edge is never sure shows first what is expected of each picture."""
    unsure = start(namespace, "unsure", cascade(20, NEVER_SURE))
    finish(unsure)
    records = unsure.records()
    each_once(records, 20)
    assert {record["network"] for record in records} == {"large"}
    assert unsure.condition("Degraded")["status"] == "False"
    large = {record["name"]: best(record) for record in records}
    sureness = {record["name"]: record["sureness"] for record in records}
    threshold = sorted(sureness.values())[len(sureness) // 2]
    sure = {name for name, value in sureness.items() if value >= threshold}
    assert 0 < len(sure) < len(sureness)

    study = start(namespace, "cascade", cascade(SAMPLES, threshold))
    done = study.wait_done(60, 180)
    assert done < SAMPLES // 2
    assert fault("pods-kill", "edge-1", namespace, "cascade-edge").strip() == "1"
    until("the edge started again", lambda: restarts(study, "edge") == 1, 60)
    study.wait_done(done + 60, 180)
    assert fault("pods-kill", "gpu-1", namespace, "cascade-server").strip() == "1"
    until("the server started again", lambda: restarts(study, "server") == 1, 60)
    finish(study)

    records = study.records()
    each_once(records, SAMPLES)
    for record in records:
        name, answered = record["name"], record["network"]
        assert record["sureness"] == sureness[name]
        assert (answered == "small") is (name in sure)
        assert record["finished_on"] == ("edge" if answered == "small" else "server")
        if answered == "large":
            assert (best(record), record["audit"]) == (large[name], None)
        elif record["audit"] is None:
            assert record["bytes_up"] == 0
        else:
            assert record["bytes_up"] > 0
            assert (record["audit"] == "agrees") is (best(record) == large[name])
    assert "disagrees" in {record["audit"] for record in records}

    degraded = study.condition("Degraded")
    assert (degraded["status"], degraded["reason"]) == ("True", "CascadeDrifted")
    assert "Audits at edge-0 show" in degraded["message"]
    reasons = [event["reason"] for event in find("events", namespace)]
    assert reasons.count("CascadeDrifted") == 1
    assert study.status()["progress"]["summary"] == f"{SAMPLES}/{SAMPLES}"
