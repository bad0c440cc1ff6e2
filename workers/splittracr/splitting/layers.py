"""Cuts by layer, as SplitTracr (tracr) counts layers.

Layers are the modules at depth `depth` below the network, and those above that contain no others,
in the order in which they are registered. A module that no run of the network reaches has no
number. tracr stops at the first call, in the order of calls, of a layer with the wanted number or a
higher one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from torch import nn

from splittracr.splitting.tape import Tape

Named = Sequence[tuple[str, nn.Module]]
"""Modules by their paths in the captured network."""


@dataclass(frozen=True)
class Layers:
    """The layers' paths, and for each the cut after it; None if it is inside an operation."""

    names: tuple[str, ...]
    cuts: tuple[int | None, ...]

    def valid(self) -> str:
        """The layers that have a cut: `0 (features.0) to 20 (classifier.6)`."""
        runs = groupby(enumerate(self.names), key=lambda pair: self.cuts[pair[0]] is not None)
        return ", ".join(_from_to([*run]) for valid, run in runs if valid)


def _from_to(run: Sequence[tuple[int, str]]) -> str:
    ends = dict.fromkeys((run[0], run[-1]))
    return " to ".join(f"{number} ({name})" for number, name in ends)


def layers(tape: Tape, top: Named, run: Callable[[], Any], depth: int) -> Layers:
    """Return the layers of a network down to `depth`, and the cuts of `tape` after them.

    `top` are the modules right below the network. `run` runs it once.
    """
    found = dict(_walk(top, depth))
    reached, calls = _observe(found, run)
    names = [name for name in found if name in reached]
    number = {name: i for i, name in enumerate(names)}
    ends = _ends(tape, calls)
    cuts = []
    for wanted in range(len(names)):
        stop = next((name for name in calls if number.get(name, -1) >= wanted), None)
        cuts.append(None if stop is None else ends[stop])
    return Layers(tuple(name.removeprefix("net.") for name in names), tuple(cuts))


def _walk(named: Named, depth: int) -> Iterator[tuple[str, nn.Module]]:
    for path, module in named:
        inner = [(f"{path}.{name}", child) for name, child in module.named_children()]
        if inner and depth > 1:
            yield from _walk(inner, depth - 1)
        else:
            yield path, module


def _observe(
    found: Mapping[str, nn.Module], run: Callable[[], Any]
) -> tuple[set[str], tuple[str, ...]]:
    """Return the layers that are called or hold a module that is, and all calls in order."""
    reached: set[str] = set()
    calls: dict[str, None] = {}

    def hook(layer: str, path: str) -> Callable[[nn.Module, Any, Any], None]:
        def note(_module: nn.Module, _inputs: Any, _output: Any) -> None:
            reached.add(layer)
            calls.setdefault(path)

        return note

    handles = [
        inner.register_forward_hook(hook(layer, f"{layer}.{below}" if below else layer))
        for layer, module in found.items()
        for below, inner in module.named_modules()
    ]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return reached, tuple(calls)


def _ends(tape: Tape, calls: Sequence[str]) -> dict[str, int | None]:
    """The cut after the first call of each module; None if that is inside an operation.

    A module without an operation changes nothing: its cut is that of the call before it.
    """
    whole = [op.modules[-1] for op in tape.ops if isinstance(op.called, nn.Module) and op.modules]
    ends: dict[str, int | None] = {}
    before = 0
    for name in calls:
        if any(name.startswith(f"{path}.") for path in whole):
            ends[name] = None
            continue
        before = ends[name] = _first_end(tape, name) or before
    return ends


def _first_end(tape: Tape, name: str) -> int | None:
    inside = [name in op.modules for op in tape.ops]
    if True not in inside:
        return None
    start = inside.index(True)
    return inside.index(False, start) if False in inside[start:] else len(inside)
