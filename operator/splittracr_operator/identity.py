"""The operator's key: made once, kept in a secret of its own namespace."""

import base64
import secrets

from splittracr_operator import names
from splittracr_operator.cluster import Cluster, Refused
from splittracr_operator.keys import Keys
from splittracr_operator.settings import Settings

_BYTES = 32


async def keys(cluster: Cluster, settings: Settings) -> Keys:
    """From the secret, which is made where it is missing."""
    name = f"{settings.service}-key"
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
    return Keys(base64.b64decode(body["data"]["key"]))
