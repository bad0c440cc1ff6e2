"""`make bench`: measures, prints one table and writes bench.json."""

import asyncio
import inspect
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench.figure import Figure, show
from splittracr import process

_WIDTH = 132

Group = Callable[[], list[Figure] | Awaitable[list[Figure]]]


def _groups() -> dict[str, Group]:
    from bench import codecs, decisions, engine, frames, roundtrip, runtimes

    return {
        "roundtrip": roundtrip.round_trips,
        "links": roundtrip.emulated_links,
        "engine": engine.head_and_tail,
        "onnx": lambda: [*engine.in_onnx_runtime(), *runtimes.beside_torch()],
        "start": runtimes.starts,
        "codecs": codecs.codecs,
        "frames": frames.frames,
        "decisions": decisions.decisions,
    }


def main(
    out: Annotated[Path, typer.Option(help="File for the figures.")] = Path("bench.json"),
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Measure only this group: roundtrip, links, engine, onnx, start, codecs, "
            "frames, decisions."
        ),
    ] = None,
) -> None:
    """Measure the data plane on this machine, which should be idle. Takes some minutes."""
    import torch

    process.keep_freed_memory()
    torch.set_num_threads(1)
    # The default width for a pipe, 80 columns, would break every line.
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    started = time.monotonic()
    chosen = {name: group for name, group in _groups().items() if not only or name in only}
    if not chosen:
        expected = f"expected one of {', '.join(_groups())}"
        raise typer.BadParameter(f"got {', '.join(only or ())}, {expected}", param_hint="--only")
    load = os.getloadavg()[0]
    with asyncio.Runner(loop_factory=process.loop_factory()) as runner:
        figures = runner.run(_measure(chosen, console))
    show(figures, console)
    out.write_text(json.dumps([one.model_dump() for one in figures], indent=2) + "\n")
    missed = sum(one.holds is False for one in figures)
    console.print(
        f"{len(figures)} figures in {time.monotonic() - started:.0f} s on {os.cpu_count()} cores "
        f"(load before {load:.1f}), {missed} goals missed; low and high are the 10th and 90th "
        f"percentile of the rounds. Wrote {out}."
    )


async def _measure(groups: dict[str, Group], console: Console) -> Sequence[Figure]:
    figures: list[Figure] = []
    for name, group in groups.items():
        with console.status(f"measuring {name}"):
            found = group()
            figures += await found if inspect.isawaitable(found) else found
    return figures


if __name__ == "__main__":
    typer.run(main)
