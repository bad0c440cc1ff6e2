"""Finds the cuts that may be batched: the live tensors of several requests, joined along dimension
0, are those of one batch.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from splittracr.splitting.compare import same
from splittracr.splitting.live import pack
from splittracr.splitting.tape import Tape

TOLERANCE = 1e-3
"""Largest difference from the results of single requests, relative to the largest value of the same
row. A type with few digits may differ by more: by some units in its last place.
"""

_UNITS = 8
_NEXT_TO_NOTHING = 1e-6
"""Share of the largest value of all rows that is rounding, also in a row of zeros."""

_DARKER = 64


@torch.inference_mode()
def batchable(tape: Tape, examples: Sequence[Tensor]) -> frozenset[int]:
    """The cuts at which tails may be computed together, found by doing it once.

    `examples` are two or more different input batches. A much darker one and one of zeros are
    added, since a statistic over the batch may be the same for inputs that are alike. Each runs
    alone, and all run as one in both orders, in step. A cut qualifies if the values alive agree. If
    the final values differ, no cut does: some operation mixes the samples.
    """
    first = examples[0]
    darker = first // _DARKER if not first.is_floating_point() else first / _DARKER
    inputs = [*examples[:-1], darker, torch.zeros_like(first), examples[-1]]
    return _batchable(tape, inputs) & _batchable(tape, inputs[::-1])


def _batchable(tape: Tape, inputs: Sequence[Tensor]) -> frozenset[int]:
    alone = [tape.begin(example) for example in inputs]
    together = tape.begin(torch.cat(list(inputs)))
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


def agree(together: Any, alone: Sequence[Any]) -> bool:
    """Whether the output of several requests as one batch is that of each alone."""
    leaves, structure = tree_flatten(together)
    single = [tree_flatten(one) for one in alone]
    if all(spec == structure for _, spec in single):
        return _agree(joined([parts for parts, _ in single]), leaves)
    one_each = [leaf for parts, _ in single for leaf in parts]  # a list with one entry a picture
    return len(one_each) == len(leaves) and _agree(one_each, leaves)


def joined(lives: Sequence[Sequence[Any]]) -> list[Any] | None:
    """Live values of several requests as those of one batch; None if they do not fit."""
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
    return type(a) is type(b) and same(a, b)  # a tuple may hold tensors


def _close(a: Tensor, b: Tensor) -> bool:
    """Whether each row of `a` is that of `b` except for rounding."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not a.numel() or not (a.is_floating_point() or a.is_complex()):
        return torch.equal(a, b)
    share = max(TOLERANCE, _UNITS * torch.finfo(a.dtype).eps)
    rows = (a.reshape(len(a), -1), b.reshape(len(b), -1)) if a.dim() else (a[None], b[None])
    known = torch.isfinite(rows[0]) & torch.isfinite(rows[1])
    if not torch.isclose(rows[0][~known], rows[1][~known], 0, 0, equal_nan=True).all():
        return False
    difference = torch.where(known, (rows[0] - rows[1]).abs(), 0.0)
    size = torch.where(known, rows[1].abs(), 0.0)
    least = _NEXT_TO_NOTHING * size.max()
    return bool((difference.amax(-1) <= share * size.amax(-1) + least).all())
