"""Tokens of a study, derived from one key of the operator.

Derived tokens need no storage and no permission to read secrets. After a restart the operator
derives the same tokens again (HMAC as a pseudo-random function).
"""

import hashlib
import hmac
from dataclasses import dataclass

from splittracr.security import Pair, standing_authority


@dataclass(frozen=True)
class Keys:
    """Derives tokens from `key`, which has at least 32 bytes."""

    key: bytes

    def session(self, uid: str) -> str:
        """The token with which edges authenticate to the server."""
        return self._derive("session", uid)

    def control(self, uid: str) -> str:
        """The token of the operator at edges, and of edges at the results store."""
        return self._derive("control", uid)

    def edge(self, uid: str, edge: str) -> str:
        """The token of an edge outside of the cluster at the operator."""
        return self._derive("edge", f"{uid}/{edge}")

    def join(self, wish: bytes) -> bytes:
        """The digest that makes a token for joining out of what it is for."""
        return bytes.fromhex(self._derive("join", wish.hex()))

    def tokens(self, uid: str) -> tuple[str, str]:
        """The tokens in the environment of a study's workers."""
        return self.session(uid), self.control(uid)

    def authority(self, uid: str) -> bytes:
        """Seed of the study's certificate authority. A new secret gets the same authority."""
        return bytes.fromhex(self._derive("authority", uid))

    def store_authority(self) -> Pair:
        """The authority of the results store's certificates, the same after each restart."""
        seed = bytes.fromhex(self._derive("store-authority", ""))
        return standing_authority("splittracr results store", seed)

    def _derive(self, purpose: str, uid: str) -> str:
        return hmac.digest(self.key, f"{purpose}:{uid}".encode(), hashlib.sha256).hex()
