"""Tokens of a study, derived from one key of the operator.

A derived token needs no place to be kept and no permission to read secrets: after a restart the
operator derives the same ones again (HMAC as a pseudo-random function).
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
        """What an edge shows to the server."""
        return self._derive("session", uid)

    def control(self, uid: str) -> str:
        """What the operator shows to an edge, and an edge to the results store."""
        return self._derive("control", uid)

    def tokens(self, uid: str) -> tuple[str, str]:
        """The tokens in the environment of a study's workers."""
        return self.session(uid), self.control(uid)

    def authority(self, uid: str) -> bytes:
        """Seed of the study's certificate authority, which so survives the loss of its secret."""
        return bytes.fromhex(self._derive("authority", uid))

    def store_authority(self) -> Pair:
        """The authority behind the results store's certificates, always the same."""
        seed = bytes.fromhex(self._derive("store-authority", ""))
        return standing_authority("splittracr results store", seed)

    def _derive(self, purpose: str, uid: str) -> str:
        return hmac.digest(self.key, f"{purpose}:{uid}".encode(), hashlib.sha256).hex()
