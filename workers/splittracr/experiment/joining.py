"""How an edge joins a study: the address that a server prints, and the messages.

The address is `wss://HOST:PORT#DIGEST.SECRET`. The edge trusts the authority that has this digest,
and shows the secret once, in exchange for a certificate. The address is that of `splittracr serve`
or, for a study in a cluster, of the operator, which also takes the reports of the edge.
"""

import re
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from datetime import datetime
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import Field, StringConstraints

from splittracr.experiment.contracts import EDGE_PATTERN
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.report import WorkerReport
from splittracr.experiment.settings import LiveSettings, Outcome
from splittracr.experiment.types import Frozen

_TOKEN = re.compile(r"([A-Za-z0-9_-]{43})\.([A-Za-z0-9_-]{22}|[A-Za-z0-9_-]{51})")
_EXPECTED = (
    "the address that `splittracr serve` printed, or `splittracr join-token`, such as "
    "wss://192.0.2.7:8765#TOKEN"
)


EdgeName = Annotated[str, StringConstraints(pattern=f"^{EDGE_PATTERN}$")]


@dataclass(frozen=True)
class Invitation:
    """An address at which an edge may join.

    `digest` is that of the authority's certificate, `secret` admits one edge.
    """

    host: str
    port: int
    digest: str
    secret: str = dataclass_field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an address. Raises InvalidInput, which does not show the secret."""
        shown = re.split("[#?]", text)[0]
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise InvalidInput("STUDY", shown, f"{_EXPECTED} ({error})") from error
        token = _TOKEN.fullmatch(parts.fragment)
        if parts.scheme != "wss" or not host or not port or parts.path not in ("", "/"):
            raise InvalidInput("STUDY", shown, _EXPECTED)
        if token is None:
            raise InvalidInput("STUDY", f"{shown}#…", f"{_EXPECTED}, with its whole token")
        return cls(host, port, token[1], token[2])

    @property
    def server(self) -> str:
        """The URL of the server, without the token."""
        return f"wss://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def token(self) -> str:
        """The secret part, with the digest."""
        return f"{self.digest}.{self.secret}"

    def __str__(self) -> str:
        return f"{self.server}#{self.token}"


def is_invitation(text: str) -> bool:
    """Whether a text looks like an address to join at, right or wrong."""
    return "://" in text


class JoinRequest(Frozen):
    """An edge's request for a certificate, which contains its public key (PKCS #10 in PEM)."""

    request: str


class InCluster(Frozen):
    """What an edge needs besides for a study in a cluster, whose server is another machine.

    `server` is its URL, `authority` the certificate (PEM) that signs the server's. The edge shows
    `token` to the operator, with its reports and its results.
    """

    server: str
    authority: str
    token: str = Field(repr=False)


class JoinReply(Frozen):
    """The name and the certificate (PEM) of an edge, and the manifest of the study."""

    edge: str
    certificate: str
    manifest: str
    cluster: InCluster | None = None


class TokenRequest(Frozen):
    """A user's request for a token: for `edge`, or for the first one that has not joined."""

    edge: EdgeName | None = None
    seconds: int = Field(default=3600, ge=1, le=31_536_000)


class TokenReply(Frozen):
    """A token for `edge`. `address` is where the edge joins, if the operator knows it."""

    edge: str
    token: str = Field(repr=False)
    expires: datetime
    address: str | None = None


class Report(Frozen):
    """A message of an edge outside of the cluster: its report, and its answer to settings.

    `outcome` is its answer to the settings of `answered`, a generation of the study.
    """

    report: WorkerReport
    answered: int | None = None
    outcome: Outcome = Outcome.ACCEPTED
    message: str = Field(default="", max_length=1000)


class Instructions(Frozen):
    """The answer to a report: the live settings of the study."""

    settings: LiveSettings


class Pass(Frozen):
    """The right of one edge to join. `digest` is the secret's, `used_by` that of the edge's key."""

    edge: str
    digest: str
    expires: datetime
    used_by: str | None = None


class Passes(Frozen):
    """The passes of a study."""

    passes: tuple[Pass, ...] = ()

    @property
    def joined(self) -> frozenset[str]:
        """The edges that have joined."""
        return frozenset(one.edge for one in self.passes if one.used_by is not None)

    def offering(self, new: Pass) -> "Passes":
        """These passes and one more, unless it is among them already."""
        known = any(one.digest == new.digest for one in self.passes)
        return self if known else Passes(passes=(*self.passes, new))

    def admit(self, digest: str, key: str, now: datetime) -> tuple["Passes", Pass]:
        """Use the pass whose secret has `digest` for the edge whose public key has digest `key`.

        The same edge may ask again, as it may have missed the reply. Raises Refused.
        """
        found = next((one for one in self.passes if one.digest == digest), None)
        if found is None:
            raise Refused("the token is not one of this study")
        if found.used_by not in (None, key):
            raise Refused(f"the token was used already, by {found.edge}: each lets one edge join")
        if found.used_by is None and now > found.expires:
            raise Refused(f"the token expired at {found.expires:%Y-%m-%d %H:%M:%S} UTC")
        used = found.model_copy(update={"used_by": key})
        others = (used if one is found else one for one in self.passes)
        return Passes(passes=tuple(others)), used


class Refused(Exception):
    """The edge may not join; the text is the reason."""
