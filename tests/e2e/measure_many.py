"""Measure the operator under many studies: `python -m tests.e2e.measure_many`, on an idle cluster.

300 suspended studies, then 20 of them run concurrently as EdgeOnly studies of five samples. Prints
the time of the installed operator, the 99th percentile of its reconciles (between two bounds of its
histogram) and its memory.
"""

import json
import re
import sys
import time
import uuid

from tests.e2e.cluster import apply, find, kubectl, proxied, small, until

STUDIES, RUNNING = 300, 20


def metrics() -> dict[str, float]:
    lines = proxied("/metrics").decode().splitlines()
    return {name: float(value) for name, value in (n.rsplit(" ", 1) for n in lines if n[0] != "#")}


def reconciles(now: dict[str, float], before: dict[str, float]) -> list[tuple[float, float]]:
    """(bound in seconds, reconciles that took at most as long) between two readings."""
    pattern = re.compile(r'splittracr_operator_reconcile_seconds_bucket\{le="(.*)"\}')
    found = (
        (pattern.fullmatch(name), value - before.get(name, 0.0)) for name, value in now.items()
    )
    return [(float(match[1]), count) for match, count in found if match]


def percentile(buckets: list[tuple[float, float]], share: float) -> str:
    """The bounds of the percentile."""
    total, low = buckets[-1][1], 0.0
    for bound, count in buckets:
        if count >= share * total:
            return f"{low * 1e3:g} to {bound * 1e3:g} ms ({total:.0f} reconciles)"
        low = bound
    raise AssertionError("the last bucket of a histogram counts all")


def states(namespace: str) -> list[str]:
    return [item.get("status", {}).get("state", "") for item in find("splits", namespace)]


def report(title: str, started: float, before: dict[str, float]) -> None:
    now = metrics()
    memory = now["process_resident_memory_bytes"] / 2**20
    slowest = percentile(reconciles(now, before), 0.99)
    seconds = time.monotonic() - started
    print(f"{title}: {seconds:.1f} s, p99 of a reconcile {slowest}, {memory:.0f} MiB")


def main() -> int:
    namespace = f"many-{uuid.uuid4().hex[:6]}"
    apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    try:
        print(f"before: {metrics()['process_resident_memory_bytes'] / 2**20:.0f} MiB")
        spec = small(5, None, partition={"mode": "EdgeOnly"}, suspend=True)
        bodies = [
            {
                "apiVersion": "splittracr.io/v1alpha1",
                "kind": "SplitExperiment",
                "metadata": {"name": f"study-{number}", "namespace": namespace},
                "spec": spec,
            }
            for number in range(STUDIES)
        ]
        before, started = metrics(), time.monotonic()
        apply(*bodies)
        until("all suspended", lambda: states(namespace).count("Suspended") == STUDIES, 120)
        report(f"{STUDIES} suspended", started, before)

        before, started = metrics(), time.monotonic()
        for number in range(RUNNING):
            kubectl(
                *("-n", namespace, "patch", "split", f"study-{number}", "--type=merge"),
                *("-p", json.dumps({"spec": {"suspend": False}})),
            )
        until("all ended", lambda: states(namespace).count("Succeeded") == RUNNING, 900)
        report(f"{RUNNING} run", started, before)
    finally:
        kubectl("delete", "namespace", namespace, "--wait=false")
    return 0


if __name__ == "__main__":
    sys.exit(main())
