"""Calls for objects of the API server, which are plain dictionaries.

Each call raises a ClusterError of `connection` if it fails.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from splittracr.experiment.crd import PLURAL
from splittracr.experiment.spec import API_VERSION, KIND
from splittracr_operator import names
from splittracr_operator.connection import Connection, Refused, permission
from splittracr_operator.objects import Manifest
from splittracr_operator.study import Body

_PAGE = 500
"""Objects of one page of a list."""

_RESOURCES = {
    "ConfigMap": ("v1", "configmaps"),
    "Deployment": ("apps/v1", "deployments"),
    "Event": ("v1", "events"),
    "Job": ("batch/v1", "jobs"),
    "Namespace": ("v1", "namespaces"),
    "NetworkPolicy": ("networking.k8s.io/v1", "networkpolicies"),
    "Pod": ("v1", "pods"),
    "Secret": ("v1", "secrets"),
    "Service": ("v1", "services"),
    KIND: (API_VERSION, PLURAL),
}
WATCHED = ("Pod", "Job", "Deployment", "Service", "ConfigMap", "NetworkPolicy")
"""Kinds of children that the operator watches."""


def resource(kind: str) -> tuple[str, str]:
    """API version and plural of a kind."""
    return _RESOURCES[kind]


Bodies = list[Body]
"""Objects; within `Cluster`, `list` is a method."""


class Cluster(Connection):
    """A connection to the API server, with calls for objects of the kinds in `_RESOURCES`."""

    async def get(self, kind: str, namespace: str | None, name: str) -> Body:
        """One object. Raises Refused with status 404 if there is none."""
        return await self.request("GET", _path(kind, namespace, name))

    async def list(self, kind: str, namespace: str | None, selector: str = "") -> Bodies:
        """All objects of a kind, of one namespace or of all, page by page."""
        try:
            return await self._list_pages(kind, namespace, selector, _PAGE)
        except Refused as error:
            if error.status != 410:
                raise
            # The list has expired at the API server: the pages took too long.
            return await self._list_pages(kind, namespace, selector, 0)

    async def _list_pages(
        self, kind: str, namespace: str | None, selector: str, limit: int
    ) -> Bodies:
        """The same with `limit` objects a page; 0 means all at once."""
        version, _ = _RESOURCES[kind]
        items: Bodies = []
        token = ""
        while True:
            given = {"labelSelector": selector, "limit": limit, "continue": token}
            query = urlencode({key: value for key, value in given.items() if value})
            found = await self.request("GET", f"{_path(kind, namespace)}?{query}")
            # Items of a list come without version and kind.
            items += [{"apiVersion": version, "kind": kind, **item} for item in found["items"]]
            token = found.get("metadata", {}).get("continue", "")
            if not token:
                return items

    async def events(self, namespace: str, uid: str) -> Bodies:
        """The events about an object."""
        query = f"?fieldSelector=involvedObject.uid={uid}"
        found = await self.request("GET", _path("Event", namespace) + query)
        items: Bodies = found["items"]
        return items

    async def create(self, manifest: Manifest) -> Body:
        """Create an object. Raises Refused with status 409 if there is one."""
        path = _path(manifest["kind"], manifest["metadata"]["namespace"])
        return await self.request("POST", path, manifest)

    async def apply(self, manifest: Manifest) -> Body:
        """Create an object, or set the fields that the manifest names (server-side apply)."""
        metadata = manifest["metadata"]
        path = _path(manifest["kind"], metadata["namespace"], metadata["name"])
        query = f"?fieldManager={names.MANAGER}&force=true"
        self._count(permission("POST", _path(manifest["kind"], metadata["namespace"])))
        return await self.request("PATCH", path + query, manifest, "application/apply-patch+yaml")

    async def patch(self, manifest: Manifest) -> Body:
        """Merge the fields of a manifest into an object (merge patch)."""
        metadata = manifest["metadata"]
        path = _path(manifest["kind"], metadata["namespace"], metadata["name"])
        query = f"?fieldManager={names.MANAGER}"
        return await self.request("PATCH", path + query, manifest, "application/merge-patch+json")

    async def delete(self, kind: str, namespace: str, name: str) -> None:
        """Delete an object and, in the background, the objects that it owns.

        An object that does not exist is no error.
        """
        options = {"propagationPolicy": "Background"}
        try:
            await self.request("DELETE", _path(kind, namespace, name), options)
        except Refused as error:
            if error.status != 404:
                raise

    async def patch_status(self, namespace: str, name: str, status: Mapping[str, Any]) -> Body:
        """Merge fields into a study's status."""
        path = _path(KIND, namespace, name) + "/status"
        return await self.request("PATCH", path, {"status": status}, "application/merge-patch+json")

    async def log(
        self, namespace: str, pod: str, container: str, size: int, *, previous: bool = False
    ) -> bytes:
        """The last `size` bytes of a container's log, from the start of a line.

        `previous` selects the container before its last restart.
        """
        query = urlencode({"container": container, "previous": str(previous).lower()})
        return await self.tail(f"{_path('Pod', namespace, pod)}/log?{query}", size)


async def pod_log(cluster: Cluster, namespace: str, pod: str, container: str, lines: int) -> str:
    """The last lines of a container's log."""
    query = urlencode({"container": container, "tailLines": lines})
    path = f"{_path('Pod', namespace, pod)}/log?{query}"
    status, content = await cluster.raw("GET", path)
    text = content.decode(errors="replace")
    if status >= 400:
        return f"({text.strip()[:500]})"
    return text


def _path(kind: str, namespace: str | None, name: str | None = None) -> str:
    version, plural = _RESOURCES[kind]
    parts: Sequence[str | None] = (
        "/api" if "/" not in version else "/apis",
        version,
        *(("namespaces", namespace) if namespace else ()),
        plural,
        name,
    )
    return "/".join(part for part in parts if part)
