"""The server as a process: its log, and its ports."""

import asyncio
import logging
from pathlib import Path

import pytest
from aiohttp import web

from splittracr.backends.torch import build
from splittracr.experiment import manifest
from splittracr.experiment.errors import InvalidInput
from splittracr.server.listener import bind
from splittracr.server.main import serve, without_tracebacks_of_bad_requests
from tests.experiment.studies import study


def test_what_is_no_http_is_worth_one_line(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        runner = web.AppRunner(web.Application(), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        reader, writer = await asyncio.open_connection(*runner.addresses[0][:2])
        writer.write(b"GET / HTTP/1.1\r\nno header\r\n\r\n")
        await reader.read()
        writer.close()
        await writer.wait_closed()
        await runner.cleanup()

    with without_tracebacks_of_bad_requests(), caplog.at_level(logging.INFO):
        asyncio.run(body())
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.exc_info is None
    assert record.getMessage().startswith("refused a request that is not HTTP: ")


def test_a_metrics_port_that_is_taken_is_named(tmp_path: Path) -> None:
    async def body() -> None:
        with bind("127.0.0.1", 0) as taken, bind("127.0.0.1", 0) as listener:
            taken.listen()
            port = taken.getsockname()[1]
            experiment = manifest.from_object(study(server={"metricsPort": port}))
            with pytest.raises(InvalidInput, match=rf"spec.server.metricsPort: got {port}"):
                await serve(experiment, build, tmp_path, None, None, listener, asyncio.Event())

    asyncio.run(body())
