"""The server worker as a process."""

import asyncio
import socket
from pathlib import Path

from aiohttp import web

from splittracr import process, replica
from splittracr.experiment.spec import SplitExperiment
from splittracr.server.worker import Server


async def serve(
    experiment: SplitExperiment,
    base: Path,
    token: str | None,
    listener: socket.socket,
    stop: asyncio.Event,
) -> None:
    """Prove the network, then serve on a bound socket until `stop` is set.

    Until the proof is done connections are refused, and edges try again.
    """
    spec = experiment.spec
    own = await process.unless(stop, asyncio.to_thread(replica.build, spec, "server", base))
    server = Server(own, spec, token)
    runner = web.AppRunner(server.app(), access_log=None)
    await runner.setup()
    await web.SockSite(runner, listener).start()
    host, port = listener.getsockname()[:2]
    process.emit("serving", host=host, port=port, device=str(own.device))
    await stop.wait()
    await server.drain()
    await runner.cleanup()
