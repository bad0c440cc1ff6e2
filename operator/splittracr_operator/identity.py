"""The operator's key: created once, stored in a secret of its namespace."""

import base64
import secrets

from splittracr.experiment.errors import InvalidInput
from splittracr_operator import names
from splittracr_operator.cluster import Cluster
from splittracr_operator.connection import Refused
from splittracr_operator.keys import Keys
from splittracr_operator.settings import Settings
from splittracr_operator.study import Body

_BYTES = 32


async def keys(cluster: Cluster, settings: Settings) -> Keys:
    """Read the key from its secret, or create the secret if it does not exist.

    Raises InvalidInput if the secret has no usable key, and ClusterError.
    """
    name = settings.key_secret
    try:
        body = await cluster.get("Secret", settings.namespace, name)
    except Refused as error:
        if error.status != 404:
            raise
        body = await cluster.create(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {
                    "name": name,
                    "namespace": settings.namespace,
                    "labels": {"app.kubernetes.io/managed-by": names.MANAGER},
                },
                "immutable": True,
                "data": {"key": base64.b64encode(secrets.token_bytes(_BYTES)).decode()},
            }
        )
    return Keys(_key(body, f"Secret {settings.namespace}/{name}"))


def _key(body: Body, where: str) -> bytes:
    """The key in a secret. Errors contain no part of it."""
    expected = f"a key of at least {_BYTES} random bytes"
    encoded = (body.get("data") or {}).get("key")
    if encoded is None:
        raise InvalidInput(f"{where}: data.key", None, expected)
    try:
        key = base64.b64decode(encoded, validate=True)
    except ValueError as error:
        raise InvalidInput(f"{where}: data.key", "no base64", expected) from error
    if len(key) < _BYTES:
        raise InvalidInput(f"{where}: data.key", f"{len(key)} bytes", expected)
    return key
