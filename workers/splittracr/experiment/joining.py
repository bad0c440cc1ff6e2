"""How an edge joins a study: the address that a server prints, and the messages.

The address is `wss://HOST:PORT#DIGEST.SECRET`. The edge trusts the authority that has this digest,
and shows the secret once, in exchange for a certificate of that authority.
"""

import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Self
from urllib.parse import urlsplit

from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.types import Frozen

_TOKEN = re.compile(r"([A-Za-z0-9_-]{43})\.([A-Za-z0-9_-]{22})")
_EXPECTED = "the address that `splittracr serve` printed, such as wss://192.0.2.7:8765#TOKEN"


@dataclass(frozen=True)
class Invitation:
    """An address at which an edge may join.

    `digest` is that of the authority's certificate, `secret` lets one edge join.
    """

    host: str
    port: int
    digest: str
    secret: str = field(repr=False)

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
        """The part that is secret, with the digest."""
        return f"{self.digest}.{self.secret}"

    def __str__(self) -> str:
        return f"{self.server}#{self.token}"


def is_invitation(text: str) -> bool:
    """Whether a text is meant as an address to join at, right or wrong."""
    return "://" in text


class JoinRequest(Frozen):
    """An edge's request for a certificate, which contains its public key (PKCS #10 in PEM)."""

    request: str


class JoinReply(Frozen):
    """The name and the certificate (PEM) of an edge, and the manifest of the study."""

    edge: str
    certificate: str
    manifest: str


class Pass(Frozen):
    """The right of one edge to join. `digest` is the secret's, `used_by` that of the edge's key."""

    edge: str
    digest: str
    expires: datetime
    used_by: str | None = None


class Passes(Frozen):
    """The passes of a study."""

    passes: tuple[Pass, ...]

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
    """The edge may not join; the text says why."""
