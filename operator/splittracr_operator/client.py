"""Requests of `splittracr status`, `logs`, `delete`, `results`, `join-token` to a cluster.

The command line loads this module by name: it has no Kubernetes client of its own. Every function
raises a SplittracrError if the cluster refuses or does not answer.
"""

import asyncio
import hashlib
import logging
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import yaml
from kubernetes.aio import config

from splittracr.experiment.contracts import JOIN_TOKENS_PATH
from splittracr.experiment.errors import InvalidInput, SplittracrError, reason
from splittracr.experiment.explain import parse_json
from splittracr.experiment.joining import TokenReply, TokenRequest
from splittracr.experiment.spec import KIND
from splittracr.experiment.status import LOGS, ExperimentStatus, StoredArchive, StoredResults
from splittracr.security import trusting
from splittracr_operator import tunnel
from splittracr_operator.cluster import Cluster, pod_log
from splittracr_operator.connection import ClusterError, Forbidden, Refused, Unreachable
from splittracr_operator.names import ROLE_LABEL, UID_LABEL
from splittracr_operator.study import Body, status_of
from splittracr_operator.workers import role_of

T = TypeVar("T")
Request = Callable[..., Any]
"""`request` of an aiohttp session: method, path and options."""

_ARCHIVE_SECONDS = 600
_STATUS_SECONDS = 15
"""Max age of the archives in a status; the operator writes it every 5 s."""

_WITH_MESSAGE = (config.ConfigException, yaml.YAMLError, OSError, ValueError)
_LOADING = (*_WITH_MESSAGE, AttributeError, LookupError, TypeError)
"""Errors of loading a kubeconfig. Those in _WITH_MESSAGE have a clear message."""

logging.getLogger("kubernetes").addHandler(logging.NullHandler())  # errors are raised


def studies(namespace: str | None) -> list[Body]:
    """All studies of a namespace; None is the kubeconfig's own."""

    async def ask() -> list[Body]:
        async with _cluster() as cluster:
            space = await _namespace(namespace)
            found = await cluster.list(KIND, space)
            if not found:
                await _check_namespace(cluster, space)
            return found

    return _run(ask())


def study(namespace: str | None, name: str) -> tuple[Body, ExperimentStatus]:
    """A study and its status."""

    async def ask() -> Body:
        async with _cluster() as cluster:
            return await _get(cluster, await _namespace(namespace), name)

    body = _run(ask())
    return body, status_of(body)


def logs(namespace: str | None, name: str, role: str | None, lines: int) -> dict[str, str]:
    """The last lines of each worker's log, by the pod's name. Raises an error without pods."""

    async def ask() -> dict[str, str]:
        async with _cluster() as cluster:
            space = await _namespace(namespace)
            body = await _get(cluster, space, name)
            selector = f"{UID_LABEL}={body['metadata']['uid']}"
            selector += f",{ROLE_LABEL}={role}" if role else ""
            pods = await cluster.list("Pod", space, selector)
            if not pods:
                missing, status = f"{role} pods" if role else "pods", status_of(body)
                archives = () if status.results is None else status.results.archives
                kept = any(archive.name == LOGS for archive in archives)
                hint = f"; `splittracr results {name}` fetches logs that were kept" if kept else ""
                state = f"its state is {status.standing()}"
                raise SplittracrError(f"{space}/{name} has no {missing}; {state}{hint}")
            found = {pod["metadata"]["name"]: role_of(pod) or "" for pod in pods}
            return {
                pod: await pod_log(cluster, space, pod, container, lines)
                for pod, container in sorted(found.items())
            }

    return _run(ask())


def delete(namespace: str | None, name: str) -> None:
    """Delete a study and, in the background, its children."""

    async def ask() -> None:
        async with _cluster() as cluster:
            space = await _namespace(namespace)
            await _get(cluster, space, name)  # raises if there is none
            await cluster.delete(KIND, space, name)

    _run(ask())


def archives(namespace: str | None, name: str) -> dict[str, bytes]:
    """The archives of a study's results, by the edge's name, and of its workers' logs.

    For a few seconds the store may have a newer archive than the status describes. Raises
    SplittracrError if they still differ after that.
    """

    async def ask() -> dict[str, bytes]:
        async with _cluster() as cluster:
            return await fetch_described(cluster, await _namespace(namespace), name)

    return _run(ask())


async def fetch_described(cluster: Cluster, space: str, name: str) -> dict[str, bytes]:
    """Fetch the archives again until the study's status describes them, for _STATUS_SECONDS."""
    loop = asyncio.get_running_loop()
    until = loop.time() + _STATUS_SECONDS
    while True:
        results = await _stored(cluster, space, name)
        try:
            return await fetch(cluster, space, name, results)
        except Differs:
            if loop.time() > until:
                raise
        await asyncio.sleep(1)


async def _stored(cluster: Cluster, space: str, name: str) -> StoredResults:
    """The results in the status. Raises SplittracrError if there are none in the store."""
    status = status_of(await _get(cluster, space, name))
    results = status.results
    if results is None or not (results.path or results.claim):
        state = f"its state is {status.standing()}"
        raise SplittracrError(f"{space}/{name} has no results; {state}")
    if results.path is None:
        where = f"the claim {results.claim} in namespace {space}"
        raise SplittracrError(f"the results of {name} are on {where}, not in the store")
    return results


async def fetch(
    cluster: Cluster, space: str, name: str, results: StoredResults
) -> dict[str, bytes]:
    """The archives in the operator's store, over TLS through a port-forward.

    Raises Differs if one is not what `results` describes, and SplittracrError.
    """
    if results.service is None or results.authority is None:
        older = f"the operator has not published where the results of {space}/{name} are"
        raise SplittracrError(f"{older}: it is older than this command, upgrade it")
    found = {}
    async with _store(cluster, results.service, results.authority) as request:
        stored = {archive.name: archive for archive in results.archives}
        for archive in stored or results.edges:
            async with request("GET", f"{results.path}/{archive}") as answer:
                found[archive] = await _archive(answer, name, archive)
            if archive in stored:
                check(found[archive], stored[archive], name)
    return found


def join_token(namespace: str | None, name: str, wish: TokenRequest) -> TokenReply:
    """A token with which an edge outside of the cluster joins a study."""

    async def ask() -> TokenReply:
        async with _cluster() as cluster:
            space = await _namespace(namespace)
            return await fetch_token(cluster, await _get(cluster, space, name), wish)

    return _run(ask())


async def fetch_token(cluster: Cluster, body: Body, wish: TokenRequest) -> TokenReply:
    """Ask the operator for a token, over TLS through a port-forward. Raises SplittracrError."""
    metadata, join = body["metadata"], status_of(body).join
    space, name, uid = metadata["namespace"], metadata["name"], metadata["uid"]
    if join is None:
        expected = "the number of edges outside of the cluster, at least 1, in a study that an "
        expected += "operator runs which lets edges join"
        outside = body["spec"].get("edge", {}).get("outside", 0)
        raise InvalidInput("spec.edge.outside", outside, expected)
    path, text = f"{JOIN_TOKENS_PATH}/{space}/{name}/{uid}", wish.model_dump_json()
    async with (
        _store(cluster, join.service, join.authority) as request,
        request("POST", path, data=text) as answer,
    ):
        reply = await answer.text(errors="replace")
    if answer.status != 200:
        raise SplittracrError(f"no edge can join {space}/{name}: {' '.join(reply.split())}")
    return parse_json(TokenReply, reply.encode(), "the operator's answer")


@asynccontextmanager
async def _store(cluster: Cluster, place: str, authority: str) -> AsyncIterator[Request]:
    """Requests to the operator's results port at `place`, as the user of the kubeconfig.

    Raises SplittracrError if it cannot be reached.
    """
    operator, _, service = place.partition("/")
    tls, headers = trusting(authority), {}
    if cluster.certificate is not None:
        tls.load_cert_chain(*cluster.certificate)
    if token := await cluster.token():
        headers["Authorization"] = f"Bearer {token}"
    timeout = aiohttp.ClientTimeout(total=_ARCHIVE_SECONDS)
    try:
        pod, port = await tunnel.find(cluster, operator, service)
        async with (
            tunnel.forward(cluster, operator, pod, port) as local,
            aiohttp.ClientSession(
                f"https://127.0.0.1:{local}", headers=headers, timeout=timeout
            ) as session,
        ):
            yield partial(session.request, ssl=tls, server_hostname=f"{service}.{operator}.svc")
    except (Refused, Forbidden) as error:
        if isinstance(error, Refused) and error.status != 403:
            raise
        role = f"a Role in namespace {operator} gives the right (`results.readers` of the chart)"
        raise SplittracrError(f"the results store cannot be reached: {error}; {role}") from error
    except (aiohttp.ClientError, OSError) as error:
        text = f"the results store of {place} failed: {reason(error)}"
        raise SplittracrError(text) from error


async def _archive(answer: aiohttp.ClientResponse, name: str, archive: str) -> bytes:
    """The archive in an answer. Raises SplittracrError with the message of the store."""
    if answer.status == 200:
        return await answer.read()
    if answer.status == 404:
        raise SplittracrError(
            f"this operator's store does not hold the results of {name} ({archive}): was "
            "the operator installed again, with another volume?"
        )
    message = " ".join((await answer.text(errors="replace")).split())
    cause = f"(status {answer.status}): {message}"
    raise SplittracrError(f"the results store refuses {archive} {cause}")


class Differs(SplittracrError):
    """A download is not the archive that the study's status describes."""


def check(content: bytes, archive: StoredArchive, study: str) -> None:
    """Raise Differs if a download is not the archive that the study's status describes."""
    digest = hashlib.sha256(content).hexdigest()
    if digest != archive.sha256:
        raise Differs(
            f"the archive {archive.name} of {study} is damaged or was replaced: it has "
            f"{len(content)} bytes with SHA-256 {digest}, the study's status lists {archive.bytes} "
            f"bytes with {archive.sha256}"
        )


def _run(work: Coroutine[Any, Any, T]) -> T:
    try:
        return asyncio.run(work)
    except ClusterError as error:
        raise SplittracrError(f"the request to the cluster failed: {error}") from error


@asynccontextmanager
async def _cluster() -> AsyncIterator[Cluster]:
    """The cluster of the kubeconfig or, in a pod, the pod's own."""
    try:
        connected = await Cluster.connect()
    except _LOADING as error:
        file = config.KUBE_CONFIG_DEFAULT_LOCATION
        expected = f"a file that names a cluster ({_fault(file, error)})"
        raise InvalidInput("KUBECONFIG", file, expected) from error
    async with connected as cluster:
        try:
            yield cluster
        except Unreachable as error:
            by = f", by KUBECONFIG {cluster.kubeconfig}," if cluster.kubeconfig else ""
            where = f"the API server {cluster.server}{by}"
            raise SplittracrError(f"{where} does not answer ({error})") from error


def _fault(file: str, error: Exception) -> str:
    """Why the kubeconfig, one file or several, could not be loaded."""
    try:
        paths = [Path(part).expanduser() for part in file.split(os.pathsep) if part]
    except RuntimeError as problem:  # "~" without a home folder
        return str(problem)
    found = [path for path in paths if path.exists()]
    if not found:
        return "there is no such file"
    if isinstance(error, _WITH_MESSAGE):
        return " ".join(str(error).split())
    # The client does not name content of the wrong shape in its error.
    for path in found:
        content = yaml.safe_load(path.read_text("utf-8"))
        if content is None:
            return f"{path.name} is empty"
        if not isinstance(content, dict):
            return f"{path.name} holds no mapping"
        for part in ("clusters", "contexts", "users"):
            if not isinstance(content.get(part, []), list | None):
                return f"{part} in {path.name} is no list"
    return reason(error)


async def _namespace(given: str | None) -> str:
    if given is not None:
        return given
    try:
        _, active = config.list_kube_config_contexts()
    except _LOADING:  # a pod may have no kubeconfig
        return "default"
    return str(active["context"].get("namespace", "default"))


async def _check_namespace(cluster: Cluster, namespace: str) -> None:
    """Raise InvalidInput if the namespace does not exist and the user may read namespaces."""
    try:
        await cluster.get("Namespace", None, namespace)
    except Refused as error:
        if error.status == 404:
            expected = f"a namespace of the cluster at {cluster.server}"
            raise InvalidInput("namespace", namespace, expected) from error
    except Unreachable:
        raise
    except ClusterError:  # not all users may read it
        pass


async def _get(cluster: Cluster, namespace: str, name: str) -> Body:
    try:
        return await cluster.get(KIND, namespace, name)
    except Refused as error:
        if error.status != 404:
            raise
        await _check_namespace(cluster, namespace)
        expected = f"a study in namespace {namespace} ({error})"
        raise InvalidInput("NAME", name, expected) from error
