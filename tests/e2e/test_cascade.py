"""A cascade in the cluster: a small model or an exit answers if it is sure enough, else the large
model does.

All have random weights, so that they often disagree, and audits refute the promise.
"""

from typing import Any

import pytest

from tests.e2e.cluster import Study, apply, each_once, fault, find, paced, small, start, until
from tests.e2e.test_faults import restarts

SAMPLES, PER_MINUTE = 600, 900
"""40 s of work, so that both ends are killed in the middle of it."""

NEVER_SURE = 1_000_001
"""A threshold that no sample reaches."""

NETWORK = {"name": "squeezenet1_1", "weights": "none", "inputSize": [64, 64], "numClasses": 10}


OWN, FOLDER = "exiting", "/opt/own"
"""A ConfigMap with a network that has an exit, and the folder of it in pods."""

EXITING = """
from torch import nn
from splittracr.models.registry import register

class Exit(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(16, 10)

    def forward(self, live):
        return self.fc(live.mean((2, 3)))

@register("exiting", shape=(3, 64, 64), exits={"first": "early"})
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, stride=2)
        self.second = nn.Conv2d(16, 8, 3, stride=2)
        self.fc = nn.Linear(8, 10)
        self.early = Exit()

    def forward(self, x):
        return self.fc(self.second(self.first(x).relu()).relu().mean((2, 3)))
"""


def cascade(kind: str, samples: int, threshold: int) -> dict[str, Any]:
    """A small study in mode Cascade, whose promise is that no answer in a million disagrees."""
    keys: dict[str, Any] = {
        "statistic": "Margin",
        "thresholdPerMillion": threshold,
        "maxDisagreementPerMillion": 1,
        "auditPercent": 50,
    }
    sections: dict[str, Any] = {"workload": paced(samples, PER_MINUTE)}
    if kind == "small":
        keys["model"] = {**NETWORK, "seed": 1}
        partition = {"mode": "Cascade", "cut": 8, "cascade": keys}
        return small(samples, None, model=NETWORK, partition=partition, **sections)
    keys["exits"] = "Declared"
    partition = {"mode": "Cascade", "cut": "second", "cascade": keys}
    pod = {
        "env": [{"name": "PYTHONPATH", "value": FOLDER}],
        "volumes": [{"name": OWN, "configMap": {"name": OWN}}],
        "volumeMounts": [{"name": OWN, "mountPath": FOLDER, "readOnly": True}],
    }
    ends = {end: {"device": "cpu", "pod": pod} for end in ("edge", "server")}
    model = {"name": "exiting_study:Net", "weights": "none", "inputSize": [64, 64]}
    return small(samples, None, model=model, partition=partition, **sections, **ends)


def finish(study: Study) -> None:
    status = study.wait_for("Succeeded", "Failed", seconds=240)
    assert status["state"] == "Succeeded", status


def best(record: dict[str, Any]) -> int:
    """The class that a record's network ranks first."""
    found: int = record["prediction"][0]["class"]
    return found


@pytest.mark.usefixtures("faults")
@pytest.mark.parametrize("kind", ["small", "exit"])
def test_kills_change_no_answer_of_a_cascade(kind: str, namespace: str) -> None:
    """A study whose edge is never sure shows first what is expected of each picture."""
    module = {"data": {"exiting_study.py": EXITING}}
    metadata = {"name": OWN, "namespace": namespace}
    apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, **module})
    unsure = start(namespace, "unsure", cascade(kind, 20, NEVER_SURE))
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

    study = start(namespace, "cascade", cascade(kind, SAMPLES, threshold))
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
        assert answered == (kind if name in sure else "large")
        assert record["finished_on"] == ("edge" if answered == kind else "server")
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
