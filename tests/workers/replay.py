"""Edges without torch: they send recorded requests over and over. Run as a process.

    python -m tests.workers.replay URL CREDENTIALS FRAME EDGES REQUESTS

FRAME is a file with one request as it travels, in front of it the length of the hello that fits.
Prints one JSON object: answers, seconds, distinct answers, and what went wrong.
"""

import asyncio
import hashlib
import json
import sys
import time
from pathlib import Path

from msgspec import structs

from splittracr import security
from splittracr.edge.dial import Endpoint
from splittracr.edge.link import Link
from splittracr.experiment.spec import OnServerLoss, Security, TransportSpec
from splittracr.wire.codec import EncodedPayload
from splittracr.wire.messages import Hello, Request, decode

IN_FLIGHT = 4


async def edge(
    endpoint: Endpoint, hello: Hello, request: Request, payload: EncodedPayload, count: int
) -> set[str]:
    """Digests of the answers to `count` requests, a few of which are under way at once."""
    digests: set[str] = set()
    slots = asyncio.Semaphore(IN_FLIGHT)

    async def ask(link: Link) -> None:
        async with slots:
            answer = await link.request(request.cut, 0, payload)
            joined = b"".join(answer.payload.buffers)
            digests.add(hashlib.sha256(joined).hexdigest())

    transport = TransportSpec(connect_timeout_seconds=60)
    opening = Link.open(endpoint, hello, transport, OnServerLoss.WAIT)
    async with opening as link, asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(ask(link))
    return digests


async def main(url: str, credentials: str, file: str, edges: str, requests: str) -> None:
    """All edges at once."""
    content = Path(file).read_bytes()
    length = int.from_bytes(content[:4], "big")
    hello = decode(content[4 : 4 + length])[0]
    request, payload = decode(content[4 + length :])
    assert isinstance(hello, Hello)
    assert isinstance(request, Request)
    files = security.TlsFiles.of(Path(credentials), security.EDGE)
    endpoint = Endpoint(url, None, security.edge_tls(Security.TLS, files, url))
    started = time.perf_counter()
    digests = await asyncio.gather(
        *(
            edge(
                endpoint,
                structs.replace(hello, edge=f"edge-{i}"),
                request,
                payload,
                int(requests),
            )
            for i in range(int(edges))
        )
    )
    seconds = time.perf_counter() - started
    assert "torch" not in sys.modules
    print(json.dumps({"seconds": seconds, "digests": sorted(set().union(*digests))}))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:6]))
