"""Joins a study: trusts its server by the digest in the invitation, and gets a certificate.

What an edge got is kept in a folder. With it the edge continues after it was killed.
"""

import hashlib
import http.client
import os
import shutil
import ssl
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from datetime import UTC, datetime
from pathlib import Path

from splittracr import security
from splittracr.experiment import manifest
from splittracr.experiment.contracts import (
    AUTHORITY_PATH,
    CONTROL_TOKEN,
    JOIN_PATH,
    REPORTS,
    REPORTS_PATH,
    RESULTS_PATH,
    SESSION_PATH,
    STORE_AUTHORITY,
)
from splittracr.experiment.errors import (
    HandshakeRefused,
    InvalidInput,
    ServerLost,
    of_system,
    reason,
)
from splittracr.experiment.explain import parse_json
from splittracr.experiment.joining import Invitation, JoinReply, JoinRequest
from splittracr.experiment.spec import SplitExperiment
from splittracr.experiment.types import Frozen
from splittracr.results.files import write_atomically
from splittracr.security import AUTHORITY, EDGE, TlsFiles

_SECONDS = 15  # for an answer
_MAX_BYTES = 2**22
_STATE = "joined.json"
_REPORTS = "reports-url"
MANIFEST = "study.yaml"
"""File in the folder of an edge that has joined: the manifest, as the server sent it."""


class _State(Frozen):
    """The state that is kept besides certificates and the manifest."""

    edge: str
    out: str | None = None
    server: str | None = None
    token: str | None = None


@dataclass(frozen=True)
class Joined:
    """An edge that has joined. `folder` holds its credentials and the manifest.

    `out` is the folder of its results, None until `keep` was called. For a study in a cluster,
    `server` is the URL of its server, and `token` is for the operator.
    """

    invitation: Invitation
    folder: Path
    edge: str
    out: Path | None
    server: str | None = None
    token: str | None = dataclass_field(default=None, repr=False)

    @property
    def manifest(self) -> Path:
        """The manifest's file."""
        return self.folder / MANIFEST

    @property
    def session_url(self) -> str:
        """The URL of the server's session."""
        return f"{self.server or self.invitation.server}{SESSION_PATH}"

    def results_url(self, uid: str) -> str:
        """The URL to which this edge sends its results."""
        return f"{_https(self.invitation)}{RESULTS_PATH}/{uid}/{self.edge}"

    def tls(self) -> ssl.SSLContext:
        """TLS for the results, with this edge's certificate if the server takes them."""
        if self.token is not None:
            return security.trusting((self.folder / STORE_AUTHORITY).read_text())
        return security.client_context(TlsFiles.of(self.folder, EDGE), datetime.now(UTC))

    def environment(self) -> dict[str, str]:
        """Variables of the edge process, by which it finds the operator of a cluster."""
        if self.token is None:
            return {}
        return {CONTROL_TOKEN: self.token, REPORTS: str(self.folder / _REPORTS)}

    def keep(self, out: Path) -> "Joined":
        """Note the folder of results, so that this edge continues there after it was killed."""
        state = _State(edge=self.edge, out=str(out.resolve()), server=self.server, token=self.token)
        _write_state(self.folder, state)
        return replace(self, out=out)

    def forget(self) -> None:
        """Remove the credentials: the study has ended."""
        shutil.rmtree(self.folder, ignore_errors=True)


def kept_at(invitation: Invitation) -> Path:
    """The folder for what the edge gets by this invitation."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    name = hashlib.sha256(invitation.token.encode()).hexdigest()[:16]
    return Path(state) / "splittracr" / "joined" / name


def join(invitation: Invitation, folder: Path) -> Joined:
    """Join, or continue as the edge that joined with this invitation before.

    Raises Untrusted if the server is not the one of the invitation, HandshakeRefused with the
    server's reason if it does not admit this edge, and ServerLost if it does not answer.
    """
    known = _state(folder)
    if known is None:
        _join(invitation, folder)
        known = _state(folder)
        assert known is not None
    out = None if known.out is None else Path(known.out)
    return Joined(invitation, folder, known.edge, out, known.server, known.token)


def _state(folder: Path) -> _State | None:
    try:
        text = (folder / _STATE).read_bytes()
    except FileNotFoundError:
        return None
    return parse_json(_State, text, str(folder / _STATE))


def _write_state(folder: Path, state: _State) -> None:
    write_atomically(folder / _STATE, state.model_dump_json().encode())


def _join(invitation: Invitation, folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority = _ask(invitation, "GET", AUTHORITY_PATH, security.untrusting())
    security.check_authority(authority, invitation.digest, invitation.server)
    key = _key(folder / f"{EDGE}.key")
    reply = _ask(
        invitation,
        "POST",
        JOIN_PATH,
        security.trusting(authority.decode()),
        JoinRequest(request=security.certificate_request(key).decode()).model_dump_json(),
    )
    joined = parse_json(JoinReply, reply, "the server's answer")
    state = _State(edge=joined.edge)
    if joined.cluster is not None:
        reports = _https(invitation) + REPORTS_PATH
        write_atomically(folder / _REPORTS, reports.encode())
        write_atomically(folder / STORE_AUTHORITY, authority)
        authority = joined.cluster.authority.encode()
        state = _State(edge=joined.edge, server=joined.cluster.server, token=joined.cluster.token)
    write_atomically(folder / f"{AUTHORITY}.crt", authority)
    write_atomically(folder / f"{EDGE}.crt", joined.certificate.encode())
    write_atomically(folder / MANIFEST, joined.manifest.encode())
    _write_state(folder, state)


def _https(invitation: Invitation) -> str:
    return invitation.server.replace("wss://", "https://")


def _key(path: Path) -> bytes:
    """This edge's private key, made before it is used: the reply may be lost on its way."""
    if not path.exists():
        write_atomically(path, security.new_key())  # in a folder for its owner only
    return path.read_bytes()


def _ask(
    invitation: Invitation, method: str, path: str, tls: ssl.SSLContext, body: str | None = None
) -> bytes:
    """The answer to a request. Only a request with a body contains the secret."""
    url = invitation.server
    headers = {} if body is None else {"Authorization": f"Bearer {invitation.secret}"}
    connection = http.client.HTTPSConnection(
        invitation.host, invitation.port, timeout=_SECONDS, context=tls
    )
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        content = answer.read(_MAX_BYTES)
    except ssl.SSLError as error:
        raise security.explain(error, url, "STUDY") from error
    except OSError as error:
        raise ServerLost(f"no server answers at {url}: {of_system(error)}") from error
    except (UnicodeError, http.client.HTTPException) as error:
        raise ServerLost(f"no server answers at {url}: {reason(error)}") from error
    finally:
        connection.close()
    match answer.status:
        case 200:
            return content
        case 503:
            raise ServerLost(f"{url} lets no edge join now: {content.decode(errors='replace')}")
        case 403 | 400:
            words = content.decode(errors="replace")[:1000]
            raise HandshakeRefused(f"the server at {url} does not let this edge join: {words}")
    expected = (
        f"`splittracr serve`, or an operator that lets edges join (it answers {answer.status})"
    )
    raise InvalidInput("STUDY", url, expected)


def study(joined: Joined) -> SplitExperiment:
    """The manifest that the server sent."""
    return manifest.parse(joined.manifest.read_text("utf-8"), origin="the server's manifest")
