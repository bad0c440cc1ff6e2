"""What the server's log says of strangers."""

import asyncio
import logging

import pytest
from aiohttp import web

from splittracr.server.main import quiet_about_strangers


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

    with quiet_about_strangers(), caplog.at_level(logging.INFO):
        asyncio.run(body())
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.exc_info is None
    assert record.getMessage().startswith("refused what is no HTTP: ")
