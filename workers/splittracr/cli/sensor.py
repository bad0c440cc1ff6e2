"""`splittracr sensor`: the energy sensors of this machine over HTTP. It needs none of the
extras.
"""

import asyncio
import signal
from pathlib import Path

from splittracr.cli import output
from splittracr.experiment.contracts import ENERGY_PATH
from splittracr.measure.energy import sampler, service
from splittracr.measure.health import serve as serve_http


async def serve(host: str, port: int, sys: Path) -> int:
    """Serve until SIGTERM or SIGINT. Raises InvalidInput if the port cannot be bound."""
    found = await asyncio.to_thread(sampler.host, sys)
    sampling = sampler.Sampler(found.sensors)
    runner, url = await serve_http(service.app(sampling, found.problems), host, port, "--port")
    console = output.console()
    zones = [zone for sensor in found.sensors for zone in sensor.read()]
    named = ", ".join(f"{zone.component} {zone.zone} ({zone.source})" for zone in zones)
    console.print(f"{url}{ENERGY_PATH}: {named or 'no sensor'}", highlight=False, soft_wrap=True)
    for problem in found.problems:
        console.print(f"not read: {problem}", highlight=False, soft_wrap=True)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    sampling.start()
    try:
        await stop.wait()
    finally:
        sampling.stop()
        await runner.cleanup()
    return 0
