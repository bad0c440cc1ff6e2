"""Network policies by values."""

from tests.chart.render import (
    Body,
    config_of,
    needs_helm,
    of_kind,
    one,
    render,
)

pytestmark = needs_helm


def test_network_policy_of_the_operator() -> None:
    spec = one(render(), "NetworkPolicy")["spec"]
    results, metrics = spec["ingress"]
    assert results["ports"] == [{"protocol": "TCP", "port": 8443}]
    edges, tests = results["from"]
    assert edges["podSelector"]["matchLabels"]["splittracr.io/role"] == "edge"
    assert tests.keys() == {"podSelector"}
    assert metrics == {"ports": [{"protocol": "TCP", "port": 8080}]}
    dns, server, edges = spec["egress"]
    assert {port["port"] for port in dns["ports"]} == {53}
    assert {port["port"] for port in server["ports"]} == {443, 6443, 8443, 16443}
    assert [port["port"] for port in edges["ports"]] == [9090]
    off = render({"networkPolicy": {"enabled": False}})
    assert of_kind(off, "NetworkPolicy") == []
    assert config_of(off)["networkPolicy"] == {"enabled": False}


def test_network_policy_of_watched_namespaces() -> None:
    """A pod elsewhere that copies the labels of workers is no peer."""
    policy = {"apiServerCIDRs": ["10.0.0.1/32"]}

    def peers(watched: list[str]) -> tuple[Body, Body]:
        bodies = render({"watchNamespaces": watched, "networkPolicy": policy})
        spec = one(bodies, "NetworkPolicy")["spec"]
        (edge,) = spec["egress"][2]["to"]
        return spec["ingress"][1]["from"][1], edge

    name = {"key": "kubernetes.io/metadata.name", "operator": "In"}
    pods = {
        "matchLabels": {
            "app.kubernetes.io/name": "splittracr",
            "app.kubernetes.io/managed-by": "splittracr-operator",
        }
    }
    everywhere: Body = {"namespaceSelector": {}, "podSelector": pods}
    assert peers([]) == (everywhere, everywhere)
    watched = {"matchExpressions": [{**name, "values": ["team-a", "team-b"]}]}
    expected = {"namespaceSelector": watched, "podSelector": pods}
    assert peers(["team-a", "team-b"]) == (expected, expected)


def test_network_policy_with_known_api_servers() -> None:
    policy = {"apiServerCIDRs": ["10.0.0.1/32"], "apiServerPorts": [6443]}
    block = {"ipBlock": {"cidr": "10.0.0.1/32"}}
    spec = one(render({"networkPolicy": policy}), "NetworkPolicy")["spec"]
    ingress = spec["ingress"][1]
    assert ingress["from"][0] == block
    assert len(ingress["from"]) == 3  # workers and tests besides
    assert spec["egress"][1]["to"] == [block]
    everybody = {"enabled": True, "podSelector": {"matchLabels": {"a": "b"}}}
    opened = render({"networkPolicy": policy, "monitoring": everybody})
    peers = one(opened, "NetworkPolicy")["spec"]["ingress"][1]["from"]
    peer = {"namespaceSelector": {}, "podSelector": {"matchLabels": {"a": "b"}}}
    assert peers[3:] == [peer]
    assert config_of(opened)["monitoring"] == peer


def test_tests_may_reach_the_operator() -> None:
    bodies = render({"networkPolicy": {"apiServerCIDRs": ["10.0.0.1/32"]}})
    peers = one(bodies, "NetworkPolicy")["spec"]["ingress"][1]["from"]
    selectors = [
        peer["podSelector"]["matchLabels"]
        for peer in peers
        if len(peer) == 1 and "podSelector" in peer
    ]
    (selector,) = selectors
    pods = [body for body in bodies if body["kind"] == "Pod"]
    assert pods
    for pod in pods:
        assert selector.items() <= pod["metadata"]["labels"].items()
