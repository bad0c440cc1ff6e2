"""`splittracr models` and `splittracr cuts`: all models, and the cuts of one."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from splittracr.backends import registry as backends
from splittracr.cli import inputs
from splittracr.experiment.contracts import Runtime
from splittracr.experiment.errors import InvalidInput, nearest
from splittracr.experiment.explain import validate
from splittracr.experiment.spec import ModelSpec
from splittracr.experiment.types import Cut, Exactness, Operation
from splittracr.models import registry
from splittracr.splitting.proof import Proof

_MIN_LIVE_WIDTH = 16
"""Min width of the column "live tensors": a shape of up to 16 characters stays on one line."""


def print_models(pattern: str, console: Console) -> None:
    """Print the names that contain `pattern`, family by family."""
    families = {
        source: [name for name in names if pattern in name]
        for source, names in registry.names().items()
    }
    if not any(families.values()):
        known = [name for names in registry.names().values() for name in names]
        raise InvalidInput("PATTERN", pattern, f"part of a model's name, {nearest(pattern, known)}")
    for source, names in families.items():
        if names:
            console.print(Text.assemble((source, "bold"), f" ({len(names)})"))
            console.print("  " + ", ".join(names), highlight=False)


def print_cuts(
    model: str,
    args: Mapping[str, Any] | None,
    input_size: str | None,
    batch: int,
    runtime: Runtime,
    console: Console,
) -> None:
    """Prove the network `model` with random weights and print its table of cuts.

    `args` are the arguments of a callable of the user. `runtime` computes both halves.
    """
    with inputs.runtime_option():
        name, proof = backends.load(runtime).prove_cuts(_spec(model, args, input_size), batch)
    console.print(_table(name, proof))
    if proof.uncounted:
        console.print(
            f"The work is unknown: {', '.join(proof.uncounted)} cannot be counted. A sweep spreads "
            "its cuts over the time instead.",
            highlight=False,
            markup=False,
        )
    whole = _whole(proof.operations)
    if whole:
        console.print(f"Stay whole, without a cut inside: {whole}.", highlight=False)
    if proof.classes_cached_at is not None:
        console.print(
            f"The classes were measured at {proof.classes_cached_at:%Y-%m-%d %H:%M} UTC and are "
            "from the cache.",
            highlight=False,
        )
    console.print(
        "Operation times are of one run on this machine, on one thread. Name a cut in "
        "spec.partition.cut by its name or number.",
        highlight=False,
    )


@dataclass(frozen=True)
class CutRow:
    """A row of the table of cuts.

    `work` is the head's share of the operations, None if unknown; `head_ms` is the time of the
    operations before the cut in PyTorch, in one run on this machine. The last three are those of
    `Cut`: how exact the cut is.
    """

    index: int
    name: str
    live: str
    bytes: int
    work: float | None
    head_ms: float
    refused: str | None
    exactness: str = "Exact"
    largest_error: float | None = None
    top1_agreement: float | None = None


def rows(proof: Proof) -> list[CutRow]:
    """Every cut of a network, in order. `refused` is the reason why a cut is not exact."""
    elapsed = [0.0, *accumulate(proof.op_ms)]
    return [
        CutRow(
            index=cut.index,
            name=cut.name,
            live=_live(cut),
            bytes=cut.bytes,
            work=cut.work if cut.work_by == "operations" else None,
            head_ms=elapsed[cut.index],
            refused=proof.refused.get(cut.name),
            exactness=cut.exactness.value,
            largest_error=cut.largest_error,
            top1_agreement=cut.top1_agreement,
        )
        for cut in proof.cuts
    ]


def _table(name: str, proof: Proof) -> Table:
    found = Counter(cut.exactness for cut in proof.offered().values())
    exact = f"{found[Exactness.EXACT]} proven exact"
    classed = found.total() > found[Exactness.EXACT]
    if classed:
        exact += f", {found[Exactness.CONSISTENT]} consistent, {found[Exactness.BOUNDED]} bounded"
    title = f"{name}: {len(proof.cuts)} cuts, {exact}"
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, title=title, title_justify="left")
    table.add_column("cut", justify="right", no_wrap=True)
    listed = rows(proof)
    widest = max((len(word) for row in listed for word in row.live.split()), default=0)
    table.add_column("name", overflow="fold")
    table.add_column("live tensors", overflow="fold", min_width=min(widest, _MIN_LIVE_WIDTH))
    for column in ("bytes", "work", "head ms"):
        table.add_column(column, justify="right", no_wrap=True)
    if classed:
        table.add_column("class", no_wrap=True)
        for column in ("error", "top-1"):
            table.add_column(column, justify="right", no_wrap=True)
    for row in listed:
        mark = ("" if row.refused is None else " refused", "red")
        table.add_row(
            str(row.index),
            Text.assemble(row.name, mark),
            row.live,
            f"{row.bytes:,}",
            "unknown" if row.work is None else f"{row.work:.1%}",
            f"{row.head_ms:.2f}",
            *(_classed(row) if classed else ()),
        )
    return table


def _classed(row: CutRow) -> tuple[str, str, str]:
    error, top1 = row.largest_error, row.top1_agreement
    return (
        row.exactness,
        "" if error is None else f"{error:.1e}",
        "" if top1 is None else f"{top1:.0%}",
    )


def _whole(operations: Sequence[Operation]) -> str:
    """`MultiheadAttention (encoder.0.attention and 11 more), Detect (model.22)`."""
    by_type: dict[str, list[str]] = {}
    for one in operations:
        if one.whole:
            by_type.setdefault(one.type, []).append(one.name)
    return ", ".join(
        f"{kind} ({names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''})"
        for kind, names in by_type.items()
    )


def _live(cut: Cut) -> str:
    shapes = [f"{'×'.join(map(str, t.shape))} {t.dtype}" for t in cut.live]
    return ", ".join(shapes[:2]) + (f" and {len(shapes) - 2} more" if len(shapes) > 2 else "")


def _spec(model: str, args: Mapping[str, Any] | None, input_size: str | None) -> ModelSpec:
    """The network as a manifest would describe it. Raises InvalidInput that names the argument."""
    size = _size(input_size)
    data = {"name": model, "weights": "none", "args": args or {}, "inputSize": size}
    options = {"name": ("MODEL", model), "inputSize": ("--input-size", input_size)}
    return validate(ModelSpec, data, "MODEL", options)


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    sides = re.fullmatch("([0-9]{1,9})x([0-9]{1,9})", text, re.IGNORECASE)
    if sides is None:
        raise InvalidInput("--input-size", text, "HEIGHTxWIDTH, such as 224x224")
    return int(sides[1]), int(sides[2])
