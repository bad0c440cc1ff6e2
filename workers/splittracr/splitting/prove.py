"""Proof at start-up: every cut of a tape reproduces the uncut run, bit for bit.

One pass runs the tape twice in step. The reference is never cut; the other is cut at every
operation: its live values go through the wire's bytes and back. If both have the same values with
the same strides and the same sharing, the rest is the same computation, so the cut is exact. If
only strides differ (gaps that were not sent), the cut is a suspect until the two agree in strides
again. If values differ before that, all suspects are refused by name.
"""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

from splittracr.experiment.types import Cut, TensorSpec
from splittracr.splitting import flops
from splittracr.splitting.compare import same as same
from splittracr.splitting.compare import same_plain
from splittracr.splitting.live import pack, unpack
from splittracr.splitting.operations import operations, output_of
from splittracr.splitting.proof import Proof
from splittracr.splitting.tape import Registers, Tape
from splittracr.wire import codec
from splittracr.wire.messages import Request, decode, encode
from splittracr.wire.payload import Payload

Observe = Callable[[Tape, int, Sequence[Any], bool], None]
"""Gets the values alive at a cut, and whether both runs have agreed up to there."""

Timed = Callable[[Tape, Registers, int], float]
"""Runs one operation of a tape; returns the milliseconds that it took."""


@dataclass
class _Chain:
    """The run that is cut everywhere, and the findings so far."""

    registers: Registers
    suspects: list[int] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    parted: bool = False


@torch.inference_mode()
def prove(
    tape: Tape, example: Tensor, observe: Observe | None = None, timed: Timed | None = None
) -> Proof:
    """Prove all cuts of `tape` on one input batch and time its operations.

    Runs the network three times. `example` has the shape and batch size that will be served.
    `observe` is called at every cut. `timed` runs each operation twice; by default by wall clock.
    """
    run = timed or _by_wall_clock
    counted = flops.count(tape, example)  # also the warm-up
    reference = tape.begin(example)
    chain = _Chain(tape.begin(example))
    cuts, op_ms, outputs = [], [], []
    for k in range(len(tape) + 1):
        values = tape.alive(reference, k)
        payload = _payload_or_none(values)
        if payload is None and k < len(tape):
            chain.refused[tape.cut_names[k]] = "a value alive there cannot cross a wire"
        else:
            _step(tape, chain, k, values, sent=payload is not None)
        cuts.append(_describe(tape, k, payload))
        if observe is not None:
            observe(tape, k, values, not chain.parted)
        if k < len(tape):
            op_ms.append(run(tape, reference, k))
            run(tape, chain.registers, k)
            outputs.append(output_of(tape.made(reference, k)))
    # What is alive after the last operation is the output, so the loop has compared it.
    return Proof(
        cuts=_weighed(cuts, counted, op_ms),
        refused=chain.refused,
        op_ms=tuple(op_ms),
        uncounted=counted.unknown,
        operations=operations(tape, outputs, counted),
        former_names=tape.former_names,
    )


def _weighed(cuts: Sequence[Cut], counted: flops.Flops, op_ms: Sequence[float]) -> tuple[Cut, ...]:
    """The cuts with the head's share of the work.

    The work is that of the operations if all are counted, else their time. If both are 0, it is the
    number of operations of the graph.
    """
    known = not counted.unknown and counted.counts[-1] > 0
    sums: Sequence[float] = counted.counts if known else (0.0, *accumulate(op_ms))
    if not sums[-1]:
        sums = range(len(cuts)) if len(cuts) > 1 else (1,)
    by: Literal["operations", "time"] = "time" if counted.unknown else "operations"
    return tuple(
        cut.model_copy(update={"work": sums[cut.index] / sums[-1], "work_by": by}) for cut in cuts
    )


def _step(
    tape: Tape, chain: _Chain, k: int, reference: Sequence[Any], *, sent: bool = True
) -> None:
    """Compare the chain with the reference at cut `k`, then cut the chain there.

    It is not cut if not `sent`: at the last cut, where values need no wire.
    """
    here = tape.alive(chain.registers, k)
    if not same(here, reference):
        chain.parted = True
        # Without a suspect the operation itself is the cause, and it affects every cut before it.
        guilty = chain.suspects or range(k)
        reason = f"its output is not that of the uncut model at {tape.cut_names[k]}"
        chain.refused |= {tape.cut_names[s]: reason for s in guilty}
        here, chain.suspects = list(reference), []
    if not sent:
        return
    if _layout(here) == _layout(reference):
        chain.suspects = []
    received = through_wire(here)
    if not same(received, reference):
        chain.refused[tape.cut_names[k]] = "its live tensors do not survive the wire"
        received = copy.deepcopy(list(reference))  # keeps strides and sharing without the wire
    elif _layout(received) != _layout(reference):
        chain.suspects.append(k)
    chain.registers = tape.resume(k, received)


def _by_wall_clock(tape: Tape, registers: Registers, k: int) -> float:
    started = time.perf_counter()
    tape.run(registers, k, k + 1)
    return (time.perf_counter() - started) * 1e3


def through_wire(values: Sequence[Any]) -> list[Any]:
    """The values as the other end would get them: encoded to one frame and decoded again."""
    device = next((t.device for t in _tensors(values)), torch.device("cpu"))
    frame = b"".join(encode(Request(id=0, cut=0), codec.encode(pack(values))))
    _, payload = decode(frame)
    return unpack(codec.decode(payload), device)


def unsendable(reply: Any) -> str | None:
    """Why a reply changes on the wire; None if it does not."""
    plain = tree_map(lambda leaf: leaf.cpu() if isinstance(leaf, Tensor) else leaf, reply)
    try:
        (received,) = through_wire([plain])
    except (TypeError, ValueError) as error:
        return str(error)
    return None if same_plain(received, plain) else "its values do not survive the wire"


def _layout(values: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Strides and sharing: for each tensor its strides, the first tensor that it shares storage
    with, and the distance between the two in bytes.
    """
    tensors = _tensors(values)
    first: dict[int, int] = {}
    layout = []
    for i, tensor in enumerate(tensors):
        owner = first.setdefault(tensor.untyped_storage().data_ptr(), i) if tensor.numel() else i
        layout.append((tensor.stride(), owner, tensor.data_ptr() - tensors[owner].data_ptr()))
    return layout


def _tensors(values: Sequence[Any]) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(list(values))[0] if isinstance(leaf, Tensor)]


def _payload_or_none(values: Sequence[Any]) -> Payload | None:
    try:
        return pack(values)
    except TypeError:
        return None


def _describe(tape: Tape, k: int, payload: Payload | None) -> Cut:
    names = _tensor_names(tape.live_names(k), payload)
    live = tuple(
        TensorSpec(name=name, shape=ref.shape, dtype=ref.dtype, bytes=_nbytes(ref.shape, ref.dtype))
        for name, ref in zip(names, payload.tensors if payload else (), strict=True)
    )
    return Cut(
        index=k,
        name=tape.cut_names[k],
        live=live,
        bytes=payload.nbytes if payload else 0,
        work=0.0,  # as long as the operations after it are not measured
    )


def _nbytes(shape: Sequence[int], dtype: str) -> int:
    return int(torch.Size(shape).numel()) * int(getattr(torch, dtype).itemsize)


def _tensor_names(values: Sequence[str], payload: Payload | None) -> list[str]:
    """The value's name for a lone tensor, `name.0`, `name.1`, ... for tensors inside a value."""
    if payload is None:
        return []
    names = []
    for name, tree in zip(values, payload.values, strict=True):
        count = str(tree).count("'t':")
        names += [name] if "t" in tree else [f"{name}.{i}" for i in range(count)]
    return names
