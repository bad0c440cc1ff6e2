"""The operations of a network as a table of the terminal."""

from collections.abc import Sequence

from rich import box
from rich.table import Table

from splittracr.cli.profiles import Timed
from splittracr.results import words
from splittracr.results.layers import shape


def per_layer(timed: Sequence[Timed]) -> Table:
    """The operations as a table, in the order in which they run."""
    title = "Operations; times are of a frame, in milliseconds"
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, title=title, title_justify="left")
    table.add_column("#", justify="right", no_wrap=True)
    for name in ("operation", "type", "output"):
        table.add_column(name, overflow="fold")
    for name in ("bytes", "params", "FLOPs", "mean", "p95", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    whole = sum(time.mean_ms for _, time in timed)
    for index, (operation, time) in enumerate(timed, start=1):
        table.add_row(
            str(index),
            operation.name,
            operation.type,
            shape(operation).replace("x", "×"),
            words.human_bytes(operation.bytes),
            words.human_count(operation.parameters),
            words.NOTHING if operation.flops is None else words.human_count(operation.flops),
            f"{time.mean_ms:.3f}",
            f"{time.p95_ms:.3f}",
            words.percent(time.mean_ms / whole if whole else None),
        )
    return table
