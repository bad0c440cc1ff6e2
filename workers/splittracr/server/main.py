"""The server worker as a process."""

import asyncio
import logging
import socket
import ssl
from pathlib import Path

from aiohttp import web

from splittracr import process, replica
from splittracr.experiment.spec import Mode, SplitExperiment
from splittracr.planning.emulation import Direction
from splittracr.server.listener import is_loopback, url
from splittracr.server.worker import Server
from splittracr.transport.emulate import sender_conditions

log = logging.getLogger(__name__)


async def serve(
    experiment: SplitExperiment,
    base: Path,
    token: str | None,
    tls: ssl.SSLContext | None,
    listener: socket.socket,
    stop: asyncio.Event,
) -> None:
    """Prove the network, then serve on a bound socket until `stop` is set.

    Until the proof is done connections are refused, and edges try again.
    """
    spec = experiment.spec
    certificates = tls is not None and tls.verify_mode is not ssl.CERT_NONE
    if not token and not certificates and not is_loopback(listener):
        log.warning("no token is set: every edge that reaches this machine is served")
    downlink = sender_conditions(spec.transport.link, Direction.DOWN, base)
    own = await process.unless(stop, process.in_thread(replica.build, spec, "server", base))
    profile = None
    if spec.partition.mode is Mode.ADAPTIVE:
        measuring = process.in_thread(replica.measured, own, spec, replica.frames(own, 2))
        profile = await process.unless(stop, measuring)
    server = Server(own, spec, token, downlink, certificates=certificates, profile=profile)
    runner = web.AppRunner(server.app(), access_log=None)
    await runner.setup()
    site = web.SockSite(runner, listener, ssl_context=tls)
    await site.start()
    process.emit("serving", url=url(listener, tls=tls is not None), device=str(own.device))
    await stop.wait()
    await site.stop()
    await server.drain()
    await runner.cleanup()
