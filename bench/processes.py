"""Child processes of a figure, which end with it."""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def serving(
    *arguments: str, environment: Mapping[str, str] | None = None
) -> AsyncIterator[dict[str, Any]]:
    """Run `python ARGUMENTS`; yields its event `serving`. It ends when its input closes."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdin=PIPE, stdout=PIPE, env=environment
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield await _event(process.stdout)
    finally:
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 20)
        except TimeoutError:
            process.kill()
            await process.wait()


async def _event(stream: asyncio.StreamReader) -> dict[str, Any]:
    async for line in stream:
        event: dict[str, Any] = json.loads(line)
        if event["event"] == "serving":
            return event
    raise RuntimeError("a server ended before it served")
