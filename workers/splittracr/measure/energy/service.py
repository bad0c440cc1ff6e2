"""The sensors of a node over HTTP, so that workers need no rights on its files.

`GET /v1/energy` answers with the joules of each zone since the service started. It reads the
sensors for each request, so that a worker's window has fresh readings. `Remote` reads the page: to
a worker the service is a sensor like others.
"""

import asyncio
import json
import secrets
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aiohttp import web

from splittracr.experiment.contracts import ENERGY_PATH
from splittracr.experiment.energy import Kind
from splittracr.measure.energy.account import Snapshot
from splittracr.measure.energy.sampler import Sampler
from splittracr.measure.energy.sensor import Counter, Found, Reading, Zone
from splittracr.measure.health import add_health

_MAX_BYTES = 2**20
_TIMEOUT = 0.5  # seconds; the service is on this node


def app(sampler: Sampler, problems: tuple[str, ...] = ()) -> web.Application:
    """The service. `problems` are the reasons why sensors of the node are not read."""
    counter_id = secrets.token_hex(8)

    async def energy(_: web.Request) -> web.Response:
        snapshot = await asyncio.to_thread(sampler.snapshot)
        return web.json_response(page(snapshot, counter_id, problems))

    made = web.Application()
    add_health(made)
    made.router.add_get(ENERGY_PATH, energy)
    return made


def page(snapshot: Snapshot, counter_id: str, problems: tuple[str, ...]) -> dict[str, Any]:
    """Return the body. `counter_id` changes if joules were lost or the service started again."""
    zones = [
        {**asdict(zone), "joules": total.joules, "counter_id": f"{counter_id}/{total.gaps}"}
        for zone, total in snapshot.totals.items()
    ]
    return {"zones": zones, "problems": list(problems)}


class Remote:
    """The sensors of a service. While it does not answer there are no readings."""

    interval = 1.0

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/") + ENERGY_PATH
        # Without the proxies of the environment: the service is on this node.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def read(self) -> Mapping[Zone, Reading]:
        try:
            return parse(self.fetch())
        except (OSError, ValueError):
            return {}

    def fetch(self) -> bytes:
        """The page as it is. Raises OSError without an answer."""
        with self._opener.open(self._url, timeout=_TIMEOUT) as answer:
            body: bytes = answer.read(_MAX_BYTES)
        return body


def find(url: str) -> Found:
    """The sensors of the service at `url`, and the problems that it reports."""
    remote = Remote(url)
    try:
        body = remote.fetch()
        zones, problems = parse(body), json.loads(body).get("problems", [])
    except urllib.error.URLError as error:
        return Found(problems=(f"sensor service {url}: {error.reason}",))
    except (OSError, ValueError) as error:
        return Found(problems=(f"sensor service {url}: {error}",))
    return Found((remote,) if zones else (), tuple(str(problem) for problem in problems))


def find_named(file: Path) -> Found:
    """The same, of the URL in a file; none if there is no such file."""
    try:
        url = file.read_text().strip()
    except OSError:
        return Found()
    return find(url) if url else Found()


def parse(body: bytes) -> Mapping[Zone, Reading]:
    """The zones of a page. Raises ValueError for another page."""
    found: dict[Zone, Reading] = {}
    try:
        for zone in json.loads(body)["zones"]:
            key = Zone(
                component=str(zone["component"]),
                zone=str(zone["zone"]),
                source=str(zone["source"]),
                kind=Kind(zone["kind"]),
                tick=float(zone["tick"]),
            )
            found[key] = Counter(float(zone["joules"]), counter_id=str(zone["counter_id"]))
    except (KeyError, TypeError) as error:
        raise ValueError(f"no page of a sensor service: {error!r}") from error
    return found
