"""A real Prometheus that scrapes the simulated cluster, and checks against any Prometheus."""

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import yaml

from splittracr.experiment.errors import InvalidInput
from splittracr.monitoring import panels
from splittracr.monitoring.collect import TimeRange, VariableValue, collect, variable_values
from splittracr.monitoring.prometheus import Prometheus, SampleRange, connect
from tests.monitoring.exporter import Cluster, served

INSTALLED = shutil.which("prometheus")
_DEADLINE = 240.0


@contextmanager
def prometheus(folder: Path, cluster: Cluster, interval: str) -> Iterator[str]:
    """The address of a Prometheus that scrapes the cluster; it keeps its data below `folder`."""
    assert INSTALLED is not None
    with served(cluster) as address:
        jobs = [
            {
                "job_name": target.replace("/", "-"),
                "metrics_path": f"/metrics/{target}",
                "static_configs": [{"targets": [address]}],
            }
            for target in cluster.targets()
        ]
        intervals = {"scrape_interval": interval, "scrape_timeout": interval}
        config = folder / "prometheus.yml"
        config.write_text(yaml.safe_dump({"global": intervals, "scrape_configs": jobs}))
        port = _free_port()
        command = [
            INSTALLED, f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}", "--log.level=error",
        ]  # fmt: skip
        log = (folder / "prometheus.log").open("wb")
        with log, subprocess.Popen(command, stdout=log, stderr=log) as process:
            try:
                yield f"http://127.0.0.1:{port}"
            finally:
                process.terminate()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def wait_for_samples(url: str, selector: str, count: int) -> SampleRange:
    """Wait until each series of the selection has so many samples."""

    async def poll() -> SampleRange:
        deadline = time.monotonic() + _DEADLINE
        async with connect(url) as client:
            while time.monotonic() < deadline:
                if await _fewest(client, selector) >= count:
                    return await _span(client, selector)
                await asyncio.sleep(0.1)
        raise TimeoutError(f"{selector} has fewer than {count} samples")

    return asyncio.run(poll())


async def _span(client: Prometheus, selector: str) -> SampleRange:
    now = await client.now()
    span = await client.sample_range(selector, now - 24 * 3600, now)
    assert span is not None, f"no samples of {selector} in the last day"
    return span


async def _fewest(client: Prometheus, selector: str) -> float:
    try:
        found = await client.query(f"min(count_over_time({selector}[1h]))", await client.now())
    except InvalidInput:  # it does not listen yet
        return 0
    return found[0].values[0] if found else 0


def check_queries(url: str, variables: Mapping[str, VariableValue]) -> dict[str, dict[str, str]]:
    """Ask every query of every dashboard; `variables` are at least `namespace` and `study`.

    Returns, by dashboard, the titles of the panels without data and the text that explains it.
    Raises AssertionError if Prometheus refuses a query, or if a panel has more than ten series.
    """

    async def check() -> dict[str, dict[str, str]]:
        async with connect(url) as client:
            return {name: await _empty_panels(client, name, variables) for name in panels.NAMES}

    return asyncio.run(check())


async def _empty_panels(
    client: Prometheus, name: str, variables: Mapping[str, VariableValue]
) -> dict[str, str]:
    board = panels.load(name)
    matchers = f'study_namespace="{variables["namespace"]}", study="{variables["study"]}"'
    span = await _span(client, f"splittracr_samples_expected{{{matchers}}}")
    step = max(span.interval, (span.end - span.start) / 100)
    time_range = TimeRange(span.start, span.end, step, span.interval)
    chosen = variables if name == "study" else {}
    collected = await collect(
        client, board, await variable_values(client, board, chosen), time_range
    )
    empty = {}
    for panel in board.panels:
        if panel.kind == "row":
            continue
        assert not collected.errors(panel), f"{panel.title}: {collected.errors(panel)}"
        series = sum(len(result.series) for result in collected.results[panel.identity])
        assert series <= 10 or panel.kind == "table", f"{panel.title} has {series} series"
        if collected.is_empty(panel):
            empty[panel.title] = panel.empty
    return empty
