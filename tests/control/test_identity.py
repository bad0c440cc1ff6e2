import asyncio
import base64
from typing import Any

import pytest

from splittracr.experiment.errors import InvalidInput
from splittracr_operator import identity
from splittracr_operator.cluster import Cluster
from splittracr_operator.connection import Refused
from tests.control.studies import settings

CHOSEN = settings(key_secret="own-key")


class Safe(Cluster):
    """A cluster with at most one secret."""

    def __init__(self, secret: dict[str, Any] | None) -> None:
        self.secret = secret
        self.made = 0

    async def get(self, kind: str, namespace: str | None, name: str) -> dict[str, Any]:
        assert (kind, namespace, name) == ("Secret", "splittracr-system", "own-key")
        if self.secret is None:
            raise Refused(404, "not found")
        return self.secret

    async def create(self, manifest: dict[str, Any]) -> dict[str, Any]:
        assert manifest["metadata"]["name"] == "own-key"
        self.made += 1
        self.secret = manifest
        return manifest


def encoded(key: bytes) -> dict[str, Any]:
    return {"data": {"key": base64.b64encode(key).decode()}}


def test_a_key_is_created_once() -> None:
    safe = Safe(None)
    first = asyncio.run(identity.keys(safe, CHOSEN))
    assert asyncio.run(identity.keys(safe, CHOSEN)) == first
    assert (len(first.key), safe.made) == (32, 1)


@pytest.mark.parametrize("size", [32, 64])
def test_an_existing_key_is_used_unchanged(size: int) -> None:
    safe = Safe(encoded(b"u" * size))
    assert asyncio.run(identity.keys(safe, CHOSEN)).key == b"u" * size
    assert safe.made == 0


@pytest.mark.parametrize(
    ("secret", "got"),
    [
        ({}, "nothing"),
        ({"data": None}, "nothing"),
        ({"data": {"other": "eA=="}}, "nothing"),
        ({"data": {"key": "§"}}, "'no base64'"),
        (encoded(b"hidden"), "'6 bytes'"),
        (encoded(b"h" * 31), "'31 bytes'"),
    ],
)
def test_a_malformed_secret_is_named_and_not_shown(secret: dict[str, Any], got: str) -> None:
    safe = Safe(secret)
    with pytest.raises(InvalidInput) as caught:
        asyncio.run(identity.keys(safe, CHOSEN))
    assert str(caught.value) == (
        f"Secret splittracr-system/own-key: data.key: got {got}, "
        "expected a key of at least 32 random bytes"
    )
    assert safe.made == 0
