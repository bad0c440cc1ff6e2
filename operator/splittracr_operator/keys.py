"""Tokens of a study, derived from one key of the operator.

A derived token needs no place to be kept and no permission to read secrets: after a restart the
operator derives the same ones again (HMAC as a pseudo-random function).
"""

import hashlib
import hmac
from dataclasses import dataclass


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

    def reader(self, uid: str) -> str:
        """What opens a study's results to read; stands in its status."""
        return self._derive("reader", uid)

    def authority(self, uid: str) -> bytes:
        """Seed of the study's certificate authority, which so survives the loss of its secret."""
        return bytes.fromhex(self._derive("authority", uid))

    def _derive(self, purpose: str, uid: str) -> str:
        return hmac.digest(self.key, f"{purpose}:{uid}".encode(), hashlib.sha256).hex()
