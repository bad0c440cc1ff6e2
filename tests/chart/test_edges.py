"""Values for edges outside of the cluster, and for sensors on the nodes of edges."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from splittracr_operator.settings import Settings
from tests.chart.render import (
    Body,
    Refused,
    config_of,
    needs_helm,
    of_kind,
    one,
    render,
)

pytestmark = needs_helm


def joins(**values: object) -> dict[str, Any]:
    return {"results": {"join": values}}


def test_no_address_outside_unless_asked_for() -> None:
    bodies = render()
    assert [body["spec"].get("type") for body in of_kind(bodies, "Service")] == [None]
    assert "joinAddress" not in config_of(bodies)


@pytest.mark.parametrize(
    ("values", "address", "port"),
    [
        (
            {"type": "NodePort", "host": "192.0.2.7", "nodePort": 30443},
            "192.0.2.7:30443",
            {"nodePort": 30443},
        ),
        ({"type": "LoadBalancer", "host": "tower.example"}, "tower.example:9443", {}),
    ],
)
def test_edges_outside_reach_the_results_port_and_no_metrics(
    values: dict[str, object], address: str, port: Body, tmp_path: Path
) -> None:
    bodies = render({**joins(**values), "resultsPort": 9443})
    service = one(bodies, "Service", "splittracr-operator-join")["spec"]
    assert service["type"] == values["type"]
    assert service["ports"] == [{"name": "results", "port": 9443, "targetPort": "results", **port}]
    assert service["selector"] == one(bodies, "Service", "splittracr-operator")["spec"]["selector"]
    config = config_of(bodies)
    assert config["joinAddress"] == address
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    environment = {"SPLITTRACR_CONFIG": str(file), "SPLITTRACR_OPERATOR_NAMESPACE": "somewhere"}
    assert Settings.read(environment).store_hosts[-1] == values["host"]
    results = one(bodies, "NetworkPolicy")["spec"]["ingress"][0]
    assert results == {"ports": [{"protocol": "TCP", "port": 9443}]}


def test_a_way_from_outside_needs_its_address() -> None:
    with pytest.raises(Refused, match=r"results\.join\.type needs results\.join\.host"):
        render(joins(type="LoadBalancer"))
    with pytest.raises(Refused, match=r"NodePort needs results\.join\.nodePort"):
        render(joins(type="NodePort", host="192.0.2.7"))


def sensor_of(values: dict[str, Any]) -> list[Body]:
    bodies = render({"sensor": {"enabled": True, **values}})
    return [b for b in bodies if b["metadata"]["name"] == "splittracr-sensor"]


def test_without_the_switch_nothing_of_the_sensors_is_there() -> None:
    assert of_kind(render(), "DaemonSet") == []
    assert "sensor" not in config_of(render())


def test_sensors_read_files_of_the_node_and_can_change_nothing() -> None:
    spec = one(sensor_of({}), "DaemonSet")["spec"]["template"]["spec"]
    assert spec["automountServiceAccountToken"] is False
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "runAsUser": 0,
        "runAsGroup": 0,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    assert mounts["sys"] == {"name": "sys", "mountPath": "/host/sys", "readOnly": True}
    assert "--sys=/host/sys" in container["args"]
    assert {v["name"]: set(v) - {"name"} for v in spec["volumes"]} == {
        "sys": {"hostPath"},
        "tmp": {"emptyDir"},
    }


def test_sensors_run_where_workers_do_unless_a_selector_says_otherwise() -> None:
    spec = one(sensor_of({}), "DaemonSet")["spec"]["template"]["spec"]
    terms = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    (term,) = terms["nodeSelectorTerms"]
    assert term["matchExpressions"] == [{"key": "splittracr.io/role", "operator": "Exists"}]
    selector = {"site": "lab"}
    spec = one(sensor_of({"nodeSelector": selector}), "DaemonSet")["spec"]["template"]["spec"]
    assert spec["nodeSelector"] == selector
    assert "affinity" not in spec


def test_sensors_answer_workers_of_their_own_node_alone() -> None:
    bodies = sensor_of({"port": 9500})
    template = one(bodies, "DaemonSet")["spec"]["template"]
    (container,) = template["spec"]["containers"]
    service, policy = one(bodies, "Service")["spec"], one(bodies, "NetworkPolicy")["spec"]
    assert service["internalTrafficPolicy"] == "Local"
    assert service["ports"] == [{"name": "sensor", "port": 9500, "targetPort": "sensor"}]
    assert container["ports"] == [{"name": "sensor", "containerPort": 9500}]
    assert "--port=9500" in container["args"]
    labels = template["metadata"]["labels"]
    assert service["selector"].items() <= labels.items()
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    (rule,) = policy["ingress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": 9500}]
    (peer,) = rule["from"]
    assert peer["podSelector"]["matchLabels"] == {
        "app.kubernetes.io/name": "splittracr",
        "app.kubernetes.io/managed-by": "splittracr-operator",
    }
    operator = one(render({"sensor": {"enabled": True}}), "Deployment")
    assert (
        not service["selector"].items()
        <= operator["spec"]["template"]["metadata"]["labels"].items()
    )


def test_the_operator_learns_where_the_sensors_are(tmp_path: Path) -> None:
    config = config_of(render({"sensor": {"enabled": True, "port": 9500}}))
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    environment = {"SPLITTRACR_CONFIG": str(file), "SPLITTRACR_OPERATOR_NAMESPACE": "lab"}
    assert Settings.read(environment).sensor_url == "http://splittracr-sensor.lab.svc:9500"
