"""Which cuts may be batched: where the live tensors of several requests, put one after the other
along dimension 0, are those of one batch.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from splittracr.splitting.live import pack
from splittracr.splitting.tape import Tape

TOLERANCE = 1e-3
"""Largest difference from the results of single requests, relative to their largest value."""


@torch.inference_mode()
def batchable(tape: Tape, examples: Sequence[Tensor]) -> frozenset[int]:
    """The cuts at which tails may be computed together, found by doing it once.

    `examples` are two or more different input batches. Each runs alone, and all run as one, in
    step; a cut qualifies where the values alive agree. Where the final values do not, no cut does:
    some operation mixes the samples.
    """
    alone = [tape.begin(example) for example in examples]
    together = tape.begin(torch.cat(list(examples)))
    found = set()
    for k in range(len(tape) + 1):
        single = [tape.alive(registers, k) for registers in alone]
        if _independent(single[0]) and _agree(joined(single), tape.alive(together, k)):
            found.add(k)
        if k < len(tape):
            try:
                for registers in (*alone, together):
                    tape.run(registers, k, k + 1)
            except (RuntimeError, ValueError, IndexError):  # a size that is part of the graph
                return frozenset()
    return frozenset(found) if len(tape) in found else frozenset()


def joined(lives: Sequence[Sequence[Any]]) -> list[Any] | None:
    """Live values of several requests as those of one batch; None where they do not fit."""
    values = []
    for parts in zip(*lives, strict=True):
        if all(isinstance(part, Tensor) and part.dim() for part in parts):
            if len({part.shape[1:] for part in parts}) > 1:
                return None
            values.append(torch.cat(parts))
        elif all(_equal(part, parts[0]) for part in parts):
            # A copy of all, so that a request can be computed alone after its batch failed.
            values.append(parts[0].clone() if isinstance(parts[0], Tensor) else parts[0])
        else:
            return None
    return values


def _independent(values: Sequence[Any]) -> bool:
    """No two tensors share storage: a batch would have to share it in the same way."""
    try:
        payload = pack(values)
    except TypeError:
        return False
    return len(payload.buffers) == len(payload.tensors)


def _agree(found: Sequence[Any] | None, expected: Sequence[Any]) -> bool:
    return found is not None and all(
        _close(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else _equal(a, b)
        for a, b in zip(found, expected, strict=True)
    )


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and torch.equal(a, b)
    return type(a) is type(b) and bool(a == b)


def _close(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not a.numel() or not a.is_floating_point():
        return torch.equal(a, b)
    largest = float(b.abs().max())
    return bool((a - b).abs().max() <= TOLERANCE * largest)
