"""The operations of a tape as data: their names, outputs and amounts of computation."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from splittracr.experiment.types import Operation
from splittracr.splitting.flops import Flops
from splittracr.splitting.tape import Op, Tape

Output = tuple[tuple[tuple[int, ...], ...], int]
"""Shapes and bytes of the tensors in a value."""


def output_of(value: Any) -> Output:
    """Shapes and bytes of an operation's output."""
    tensors = [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
    # Nested tensors have no shape.
    shapes = tuple(() if tensor.is_nested else tuple(tensor.shape) for tensor in tensors)
    return shapes, sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def operations(tape: Tape, outputs: Sequence[Output], counted: Flops) -> tuple[Operation, ...]:
    """All operations in order; `outputs` are theirs."""
    return tuple(
        Operation(
            name=op.name,
            module=op.path,
            type=_type(op),
            shapes=shapes,
            bytes=nbytes,
            parameters=op.parameters,
            flops=counted.of(k),
            whole=_is_whole(op),
        )
        for k, (op, (shapes, nbytes)) in enumerate(zip(tape.ops, outputs, strict=True))
    )


def _type(op: Op) -> str:
    return type(op.called).__name__ if isinstance(op.called, nn.Module) else op.target


def _is_whole(op: Op) -> bool:
    return isinstance(op.called, nn.Module) and any(True for _ in op.called.children())
