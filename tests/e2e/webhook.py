"""An admission webhook that adds containers to workers' pods, as service meshes do.

It runs in the process of the tests, at the address from which this machine reaches the API server.
"""

import base64
import contextlib
import json
import socket
import ssl
import tempfile
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from splittracr.security import Credentials, mint
from tests.e2e.cluster import Body, apply, kubectl


@contextlib.contextmanager
def injecting(
    namespace: str, *, beside: Sequence[Body] = (), native: Sequence[Body] = ()
) -> Iterator[None]:
    """Workers' pods made in the namespace get containers `beside` their own, and `native` ones."""
    address = _own_address()
    credentials = mint([address], datetime.now(UTC))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answer = json.dumps(_answer(review["request"], beside, native)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer((address, 0), Handler) as server:
        server.socket = _context(credentials).wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"https://{address}:{server.server_port}/"
        name = f"sidecars-{namespace}"
        try:
            apply(_configuration(name, namespace, url, credentials.authority.certificate))
            yield
        finally:
            kubectl("delete", "mutatingwebhookconfiguration", name, "--ignore-not-found")
            server.shutdown()
            thread.join()


def _answer(request: Body, beside: Sequence[Body], native: Sequence[Body]) -> dict[str, Any]:
    """The review's answer: the containers come first, where meshes put theirs."""
    pod = request["object"]["spec"]
    patch = [
        {"op": "add", "path": "/spec/containers", "value": [*beside, *pod["containers"]]},
        {
            "op": "add",
            "path": "/spec/initContainers",
            "value": [*native, *pod.get("initContainers", ())],
        },
    ]
    response = {
        "uid": request["uid"],
        "allowed": True,
        "patchType": "JSONPatch",
        "patch": base64.b64encode(json.dumps(patch).encode()).decode(),
    }
    return {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "response": response,
    }


def _configuration(name: str, namespace: str, url: str, authority: bytes) -> dict[str, Any]:
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": name},
        "webhooks": [
            {
                "name": "sidecars.splittracr.io",
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "failurePolicy": "Fail",
                "timeoutSeconds": 10,
                "clientConfig": {"url": url, "caBundle": base64.b64encode(authority).decode()},
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "objectSelector": {
                    "matchExpressions": [{"key": "splittracr.io/role", "operator": "Exists"}]
                },
                "rules": [
                    {
                        "apiGroups": [""],
                        "apiVersions": ["v1"],
                        "operations": ["CREATE"],
                        "resources": ["pods"],
                    }
                ],
            }
        ],
    }


def _context(credentials: Credentials) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        pair = Path(folder) / "pair.pem"
        pair.touch(0o600)
        pair.write_bytes(credentials.server.key + credentials.server.certificate)
        context.load_cert_chain(pair)
    return context


def _own_address() -> str:
    """The address of this machine at which the API server can reach it."""
    options = ("config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}")
    server = urlsplit(kubectl(*options))
    with socket.create_connection((server.hostname or "", server.port or 443), 10) as connection:
        address: str = connection.getsockname()[0]
        return address
