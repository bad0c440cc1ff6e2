"""The operator's role allows what it really asks for, and nothing else."""

import re

import yaml

from tests.e2e.cluster import find, proxied, small, start, until
from tests.e2e.conftest import ROOT

SERIES = re.compile(
    r'splittracr_operator_api_requests_total\{group="(.*?)",resource="(.*?)",verb="(.*?)"\}'
)
WATCHED = {
    ("splittracr.io", "splitexperiments"),
    ("", "pods"),
    ("", "configmaps"),
    ("", "services"),
    ("apps", "deployments"),
    ("batch", "jobs"),
    ("networking.k8s.io", "networkpolicies"),
}
"""What kopf lists and watches by itself."""


def granted() -> set[tuple[str, str, str]]:
    """By the roles that are bound to the operator."""
    bodies = list(yaml.safe_load_all((ROOT / "deploy" / "operator.yaml").read_text()))
    bound = {
        (body["roleRef"]["kind"], body["roleRef"]["name"])
        for body in bodies
        if any(s["name"] == "splittracr-operator" for s in body.get("subjects", ()))
    }
    return {
        (group, resource, verb)
        for body in bodies
        if (body["kind"], body["metadata"]["name"]) in bound
        for rule in body.get("rules", ())
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_what_is_granted_is_what_is_used(namespace: str) -> None:
    runtime = {"device": "cpu", "pod": {"runtimeClassName": "nothing"}}
    refused = start(namespace, "refused", small(1, edge=runtime))
    assert "nothing" in refused.wait_reason("PodRefused")["message"]
    whole = start(namespace, "whole", small(100_000))
    until("both pods", lambda: len(whole.pods()) == 2, 60)
    whole.patch({"suspend": True})
    whole.wait_for("Suspended")
    alone = {"partition": {"mode": "EdgeOnly"}, "ttlSecondsAfterFinished": 0}
    start(namespace, "short", small(1, None, **alone)).wait_for("Succeeded")
    of_it = "splittracr.io/study=short"
    until("the removal", lambda: not find("configmaps", namespace, of_it), 60)

    used = {match.groups() for match in SERIES.finditer(proxied("/metrics").decode())}
    watches = {(*kind, verb) for kind in WATCHED for verb in ("list", "watch")}
    assert used | watches == granted()
