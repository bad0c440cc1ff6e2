"""The operator's role allows the requests that it sends, and no others."""

import base64
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.e2e.cluster import (
    OPERATOR,
    Failed,
    Study,
    apply,
    each_once,
    find,
    get,
    kubectl,
    proxied,
    run,
    run_pod,
    small,
    start,
    until,
)
from tests.e2e.conftest import ROOT
from tests.e2e.helm import IMAGES

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
    results = Study(namespace, "short").status()["results"]
    url = f"https://splittracr-operator.{OPERATOR}.svc:8443{results['path']}/edge-0"
    token = f"Bearer {account(namespace, 'viewer', 'view')}"
    asked = [(url, results["authority"], token)]
    assert ask(namespace, asked, labels=EDGE_LABELS)[0][0] == 200

    used = {match.groups() for match in SERIES.finditer(proxied("/metrics").decode())}
    watches = {(*kind, verb) for kind in WATCHED for verb in ("list", "watch")}
    assert used | watches == granted()


# ------------------------------------------------------------------------------ results for users

EDGE_LABELS = {
    "app.kubernetes.io/name": "splittracr",
    "app.kubernetes.io/managed-by": "splittracr-operator",
    "splittracr.io/role": "edge",
}
"""With them a pod passes the NetworkPolicy of the results port."""

ASK = """
import json, ssl, sys, urllib.error, urllib.request
answers = []
for url, authority, token in json.loads(sys.argv[1]):
    tls = ssl.create_default_context(cadata=authority) if authority else None
    request = urllib.request.Request(url, headers={"Authorization": token} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=4, context=tls) as answer:
            answers.append([answer.status, len(answer.read())])
    except urllib.error.HTTPError as error:
        answers.append([error.code, error.read().decode()])
    except OSError as error:
        answers.append([0, str(error)])
print(json.dumps(answers))
"""
"""Asks for pages: (URL, certificate of the authority, header) each; prints status and content."""


@pytest.fixture
def read(namespace: str) -> Study:
    """A study with results."""
    study = start(namespace, "read", small(5, None, partition={"mode": "EdgeOnly"}))
    study.wait_for("Succeeded")
    until("results", lambda: study.status().get("results"), 20)
    return study


def ask(space: str, asked: list[tuple[str, str, str]], **options: Any) -> list[list[Any]]:
    """What a pod in a namespace is answered."""
    command = ["python3", "-c", ASK, json.dumps(asked)]
    shown = run_pod(space, os.environ[IMAGES["operator"]], command, "server", **options)
    found: list[list[Any]] = json.loads(shown)
    return found


def account(namespace: str, name: str, *roles: str) -> str:
    """The token of a new service account with cluster roles in its namespace."""
    kubectl("-n", namespace, "create", "serviceaccount", name)
    for role in roles:
        subject = f"--serviceaccount={namespace}:{name}"
        kubectl("-n", namespace, "create", "rolebinding", name, f"--clusterrole={role}", subject)
    return kubectl("-n", namespace, "create", "token", name).strip()


def test_a_pod_elsewhere_reads_no_results(read: Study, second_namespace: str) -> None:
    results = read.status()["results"]
    viewer = account(read.namespace, "viewer", "view")
    stranger = account(second_namespace, "stranger", "view")
    service = f"splittracr-operator.{OPERATOR}.svc"
    uid, authority = read.body()["metadata"]["uid"], results["authority"]
    path = f"{results['path']}/edge-0"
    url, plain = f"https://{service}:8443{path}", f"http://{service}:8080"
    tokens = ["", "Bearer x.y.z", f"Bearer {stranger}", f"Bearer {viewer}"]
    asked = [(url, authority, token) for token in tokens]
    others = [f"{plain}{path}", f"{plain}/v1/results/{uid}/edge-0?key={'0' * 64}"]
    asked += [(other, "", f"Bearer {viewer}") for other in others]

    answers = ask(second_namespace, asked, labels=EDGE_LABELS)
    assert [status for status, _ in answers] == [401, 401, 403, 200, 404, 401]
    assert "send a bearer token" in answers[0][1]
    assert f"{second_namespace}:stranger" in answers[2][1]
    assert answers[3][1] > 100
    # The NetworkPolicy refuses all pods but edges, with any credentials.
    assert ask(second_namespace, [asked[3]])[0][0] == 0


def test_a_user_reads_results_with_the_credentials_of_the_kubeconfig(
    read: Study, second_namespace: str, tmp_path: Path
) -> None:
    each_once(read.records(), 5)  # as the administrator of these tests
    accounts = {
        "viewer": {"token": account(read.namespace, "viewer", "view")},
        "stranger": {"token": account(second_namespace, "stranger", "view")},
        "certified": certified(f"ada-{read.namespace}", tmp_path),
    }
    rights = ["--verb=get", "--resource=splitexperiments.splittracr.io"]
    kubectl("-n", read.namespace, "create", "role", "status", *rights)
    subject = f"--serviceaccount={second_namespace}:stranger"
    kubectl("-n", read.namespace, "create", "rolebinding", "status", "--role=status", subject)
    user = f"--user=ada-{read.namespace}"
    kubectl("-n", read.namespace, "create", "rolebinding", "ada", "--clusterrole=view", user)
    with pytest.raises(Failed, match=r"`results\.readers` of the chart"):
        fetch(read, accounts["viewer"], tmp_path / "no-way")

    ways = [f"--serviceaccount={read.namespace}:viewer", subject, user]
    name = read.namespace
    kubectl(*("-n", OPERATOR, "create", "rolebinding", name, "--role=splittracr-results"), *ways)
    try:
        for known in ("viewer", "certified"):
            fetch(read, accounts[known], tmp_path / known)
            lines = (tmp_path / known / "records.jsonl").read_text().splitlines()
            each_once([json.loads(line) for line in lines], 5)
        with pytest.raises(Failed, match=r"(?s)status 403.*:stranger.*may not get"):
            fetch(read, accounts["stranger"], tmp_path / "stranger")
    finally:
        kubectl("-n", OPERATOR, "delete", "rolebinding", name)


def fetch(study: Study, user: dict[str, str], out: Path) -> str:
    """`splittracr results`, as a user of a kubeconfig."""
    config = json.loads(kubectl("config", "view", "--raw", "--minify", "-o", "json"))
    config["users"] = [{"name": config["contexts"][0]["context"]["user"], "user": user}]
    file = out.with_suffix(".kubeconfig")
    file.write_text(json.dumps(config))
    command = [sys.executable, "-m", "splittracr", "results", study.name]
    options = ["-n", study.namespace, "--out", str(out)]
    return run("env", f"KUBECONFIG={file}", *command, *options, seconds=120)


def certified(name: str, folder: Path) -> dict[str, str]:
    """A user of the cluster with a client certificate, signed on request."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject)
    pem = request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    spec = {
        "request": base64.b64encode(pem).decode(),
        "signerName": "kubernetes.io/kube-apiserver-client",
        "expirationSeconds": 3600,
        "usages": ["client auth"],
    }
    kind = {"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest"}
    apply({**kind, "metadata": {"name": name}, "spec": spec})
    try:
        kubectl("certificate", "approve", name)
        signed = lambda: get("csr", "default", name)["status"].get("certificate")  # noqa: E731
        certificate = until("a signed certificate", signed, 30)
    finally:
        kubectl("delete", "csr", name)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    encoded = base64.b64encode(private).decode()
    return {"client-certificate-data": certificate, "client-key-data": encoded}


def test_no_secret_is_in_status_events_or_logs(read: Study) -> None:
    uid = read.body()["metadata"]["uid"]
    read.records()
    (secret,) = find("secrets", read.namespace, f"splittracr.io/uid={uid}")
    hidden = [base64.b64decode(value).decode() for value in secret["data"].values()]
    hidden = [value for name, value in zip(secret["data"], hidden, strict=True) if name != "ca.crt"]
    assert len(hidden) >= 2
    shown = json.dumps([read.body(), find("events", read.namespace)])
    shown += json.dumps(find("configmaps", read.namespace))
    shown += kubectl("-n", OPERATOR, "logs", "deploy/splittracr-operator", "--tail=-1")
    shown += "".join(
        kubectl("-n", read.namespace, "logs", p["metadata"]["name"]) for p in read.pods()
    )
    for value in hidden:
        assert value not in shown
    assert "?" not in read.status()["results"]["path"]
