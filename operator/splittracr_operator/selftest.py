"""Checks of an installed operator, from a pod in its cluster; `helm test` runs them.

`api` checks the interfaces for users and Prometheus, with an account that may create studies. All
of its requests are dry runs. `permissions` checks the permissions of its account, which is the
operator's. Both print one line for each check; the exit status is 1 if any check failed.
"""

import argparse
import asyncio
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import aiohttp

from splittracr.experiment.contracts import HEALTH_PATH, METRICS_PATH, RESULTS_PATH
from splittracr.experiment.crd import PLURAL
from splittracr.experiment.spec import API_VERSION, GROUP, KIND
from splittracr.experiment.spec_rules import CUT_NEEDS_STATIC
from splittracr_operator.cluster import Cluster
from splittracr_operator.connection import ClusterError, Permission

_CHILD_VERBS = ("list", "watch", "create", "patch", "delete")
RIGHTS: Mapping[tuple[str, str], Sequence[str]] = {
    (GROUP, PLURAL): ("list", "watch"),
    (GROUP, f"{PLURAL}/status"): ("patch",),
    ("", "pods"): ("list", "watch"),
    ("", "pods/log"): ("get",),
    ("", "configmaps"): _CHILD_VERBS,
    ("", "services"): _CHILD_VERBS,
    ("apps", "deployments"): _CHILD_VERBS,
    ("batch", "jobs"): _CHILD_VERBS,
    ("networking.k8s.io", "networkpolicies"): _CHILD_VERBS,
    ("", "secrets"): ("create",),
    ("", "events"): ("list", "create"),
}
"""Verbs that the operator needs in namespaces with studies, by API group and resource."""

REVIEWS = (
    Permission("authentication.k8s.io", "tokenreviews", "create"),
    Permission("authorization.k8s.io", "subjectaccessreviews", "create"),
)
"""Permissions in the whole cluster, for users that read results."""

_METRIC = "splittracr_operator_build_info"
_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_SECONDS = 10.0
_TRIES = 60
_RETRY_SECONDS = 1.0

Outcome = tuple[str, str | None]
"""Name of a check, and the cause of its failure; None if it passed."""


def permissions() -> Iterator[Permission]:
    """`RIGHTS`, one verb each."""
    for (group, resource), verbs in RIGHTS.items():
        yield from (Permission(group, resource, verb) for verb in verbs)


async def check_permissions(
    cluster: Cluster,
    namespace: str,
    key_secret: str,
    watched: Sequence[str],
    *,
    reviews: bool = False,
) -> list[Outcome]:
    """Check the permissions in the namespaces `watched` (empty: all) and on the operator's key.

    `reviews` adds those that a Role cannot give.
    """
    own = await _review(cluster, namespace, Permission("", "secrets", "get"), key_secret)
    found = [own]
    if reviews:
        found += [await _review(cluster, "", needed) for needed in REVIEWS]
    for space in watched or ("",):  # an empty namespace means all namespaces
        found += [await _review(cluster, space, needed) for needed in permissions()]
    return found


async def check_api(
    cluster: Cluster, namespace: str, url: str, store: str, tries: int = _TRIES
) -> list[Outcome]:
    """Check the admission of studies, the operator at `url` and its results at `store`."""
    valid = {"model": {"name": "alexnet"}, "partition": {"cut": 5}}
    invalid = {"model": {"name": "alexnet"}, "partition": {"mode": "Sweep", "cut": 5}}
    return [
        ("a valid study is accepted", await _refusal(cluster, namespace, valid)),
        (
            "an invalid study is refused",
            _unless(CUT_NEEDS_STATIC.text, await _refusal(cluster, namespace, invalid)),
        ),
        ("the operator is healthy", await _page(f"{url}{HEALTH_PATH}", tries=tries)),
        (
            "the results store answers over TLS, and only to users",
            await _page(f"{store}{RESULTS_PATH}/x/x/x", status=401, tries=tries),
        ),
        ("metrics are served", await _page(f"{url}{METRICS_PATH}", _METRIC, tries=tries)),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one group of checks; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m splittracr_operator.selftest", description=__doc__
    )
    groups = parser.add_subparsers(dest="group", required=True)
    api = groups.add_parser("api", help="as a user: admission, results store, metrics")
    api.add_argument("--url", required=True, help="of the operator's /healthz and /metrics")
    api.add_argument("--store", required=True, help="of its results store")
    rights = groups.add_parser("permissions", help="as the operator: its rights")
    rights.add_argument("--key-secret", required=True, help="name of the Secret with its key")
    rights.add_argument("--reviews", action="store_true", help="check those for users, too")
    rights.add_argument("--watch", action="append", default=[], help="a namespace with studies")
    for group in (api, rights):
        group.add_argument("--namespace", required=True, help="of the operator")
    outcomes = asyncio.run(_run(parser.parse_args(arguments)))
    for name, fault in outcomes:
        print(f"ok    {name}" if fault is None else f"FAIL  {name}: {fault}", flush=True)
    return 1 if any(fault is not None for _, fault in outcomes) else 0


async def _run(options: argparse.Namespace) -> list[Outcome]:
    async with await Cluster.connect() as cluster:
        if options.group == "api":
            return await check_api(cluster, options.namespace, options.url, options.store)
        return await check_permissions(
            cluster,
            options.namespace,
            options.key_secret,
            options.watch,
            reviews=options.reviews,
        )


async def _review(cluster: Cluster, namespace: str, needed: Permission, name: str = "") -> Outcome:
    """Check whether this account has a permission."""
    resource, _, subresource = needed.resource.partition("/")
    attributes = {
        "namespace": namespace,
        "group": needed.group,
        "resource": resource,
        "subresource": subresource,
        "verb": needed.verb,
        "name": name,
    }
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    resource_name = ".".join(filter(None, (needed.resource, needed.group)))
    where = f"in namespace {namespace}" if namespace else "in all namespaces"
    check = f"may {needed.verb} {resource_name}{f' {name}' if name else ''} {where}"
    try:
        status: Mapping[str, Any] = (await cluster.request("POST", _REVIEWS, body))["status"]
    except ClusterError as error:
        return check, str(error)
    return check, None if status["allowed"] else status.get("reason") or "no role allows it"


async def _refusal(cluster: Cluster, namespace: str, spec: Mapping[str, Any]) -> str | None:
    """The API server's refusal of a study; None if it accepts it."""
    path = f"/apis/{API_VERSION}/namespaces/{namespace}/{PLURAL}"
    body = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"generateName": "selftest-", "namespace": namespace},
        "spec": spec,
    }
    try:
        await cluster.request("POST", f"{path}?dryRun=All&fieldValidation=Strict", body)
    except ClusterError as error:
        return str(error)
    return None


def _unless(expected: str, refusal: str | None) -> str | None:
    """The fault of a refusal that should contain `expected`; None if it has none."""
    if refusal is None:
        return "the API server accepts it: are the rules of the CustomResourceDefinition there?"
    return None if expected in refusal else refusal


async def _page(url: str, content: str = "", *, tries: int, status: int = 200) -> str | None:
    """The fault of a page of the operator; None if it has none.

    Retries, since an operator that was just installed may not listen yet.
    """
    fault = None
    for _ in range(tries):
        fault = await _fault(url, content, status)
        if fault is None:
            break
        await asyncio.sleep(_RETRY_SECONDS)
    return fault


async def _fault(url: str, content: str, status: int) -> str | None:
    try:
        timeout = aiohttp.ClientTimeout(total=_SECONDS)
        # The request has no credentials, so the certificate need not be checked.
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(url, ssl=False) as answer,
        ):
            text = await answer.text()
    except TimeoutError:
        return f"{url} does not answer within {_SECONDS:g} s"
    except aiohttp.ClientError as error:
        return f"{url} cannot be reached: {error}"
    if answer.status != status:
        return f"{url}: status {answer.status}"
    return None if content in text else f"{url} does not contain {content}"


if __name__ == "__main__":
    sys.exit(main())
