"""Proof at start-up: every cut of a tape reproduces the uncut run, bit for bit.

One pass runs the tape twice in step. The reference is never cut; the other is cut at every
operation: its live values go through the wire's bytes and back. Where both hold the same values
with the same strides and the same sharing, whatever follows is the same computation, so the cut
is exact. Where only strides differ (gaps that were not sent), the cut is a suspect until the two
agree in strides again; if values part before that, all suspects are refused by name.
"""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.flop_counter import flop_registry

from splittracr.experiment.types import Cut, TensorSpec
from splittracr.splitting.compare import same as same
from splittracr.splitting.live import pack, unpack
from splittracr.splitting.tape import Registers, Tape
from splittracr.wire import codec
from splittracr.wire.messages import Request, decode, encode
from splittracr.wire.payload import Payload

Observe = Callable[[Tape, int, Sequence[Any], bool], None]
"""Gets the values alive at a cut, and whether both runs have agreed up to there."""


@dataclass(frozen=True)
class Proof:
    """What start-up found: every cut as data, the refused ones with the reason, op times in ms."""

    cuts: tuple[Cut, ...]
    refused: dict[str, str]
    op_ms: tuple[float, ...]

    def offered(self) -> dict[int, Cut]:
        """The proven cuts by index."""
        return {cut.index: cut for cut in self.cuts if cut.name not in self.refused}


@dataclass
class _Chain:
    """The run that is cut everywhere, and what has been found so far."""

    registers: Registers
    suspects: list[int] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    parted: bool = False


@torch.inference_mode()
def prove(tape: Tape, example: Tensor, observe: Observe | None = None) -> Proof:
    """Prove all cuts of `tape` on one input batch and time its operations.

    Runs the network three times. `example` has the shape and batch size that will be served.
    `observe` is called at every cut.
    """
    flops = _flops(tape, example)  # also the warm-up
    reference = tape.begin(example)
    chain = _Chain(tape.begin(example))
    cuts, op_ms = [], []
    for k in range(len(tape) + 1):
        values = tape.alive(reference, k)
        payload = _payload_or_none(values)
        if payload is None:
            chain.refused[tape.cut_names[k]] = "a value alive there cannot cross a wire"
        else:
            _step(tape, chain, k, values)
        cuts.append(_describe(tape, k, payload, flops))
        if observe is not None:
            observe(tape, k, values, not chain.parted)
        if k < len(tape):
            op_ms.append(_run_both(tape, reference, chain, k))
    # What is alive after the last operation is the output, so the loop has compared it.
    return Proof(tuple(cuts), chain.refused, tuple(op_ms))


def _step(tape: Tape, chain: _Chain, k: int, reference: Sequence[Any]) -> None:
    """Compare the chain with the reference at cut `k`, then cut the chain there."""
    here = tape.alive(chain.registers, k)
    if not same(here, reference):
        chain.parted = True
        # Without a suspect the operation itself is to blame, and it spoils every cut before it.
        guilty = chain.suspects or range(k)
        reason = f"its output is not that of the uncut network at {tape.cut_names[k]}"
        chain.refused |= {tape.cut_names[s]: reason for s in guilty}
        here, chain.suspects = list(reference), []
    if _layout(here) == _layout(reference):
        chain.suspects = []
    received = through_wire(here)
    if not same(received, reference):
        chain.refused[tape.cut_names[k]] = "its live tensors do not survive the wire"
        received = copy.deepcopy(list(reference))  # keeps strides and sharing without the wire
    elif _layout(received) != _layout(reference):
        chain.suspects.append(k)
    chain.registers = tape.resume(k, received)


def _run_both(tape: Tape, reference: Registers, chain: _Chain, k: int) -> float:
    started = time.perf_counter()
    tape.run(reference, k, k + 1)
    elapsed = time.perf_counter() - started
    tape.run(chain.registers, k, k + 1)
    return elapsed * 1e3


def through_wire(values: Sequence[Any]) -> list[Any]:
    """The values as the other end would have them: encoded to one frame and decoded again."""
    device = next((t.device for t in _tensors(values)), torch.device("cpu"))
    frame = b"".join(encode(Request(id=0, cut=0), codec.encode(pack(values))))
    _, payload = decode(frame)
    return unpack(codec.decode(payload), device)


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


def _describe(tape: Tape, k: int, payload: Payload | None, flops: Sequence[int]) -> Cut:
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
        work=flops[k] / flops[-1] if flops[-1] else k / max(len(tape), 1),
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


class _FlopCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up torch's own formulas. `FlopCounterMode` does that too, and more: its first use
    imports sympy and half of torch's compiler, which takes seconds of every worker's start.
    """

    total = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


def _flops(tape: Tape, example: Tensor) -> list[int]:
    """Floating-point operations of the first k operations, for every k, as torch counts them."""
    counts = [0]
    # Outside inference mode torch decomposes `linear` and the like into operations with a formula.
    with torch.inference_mode(False), torch.no_grad(), _FlopCounter() as counter:  # type: ignore[no-untyped-call]
        registers = tape.begin(example.clone())
        for k in range(len(tape)):
            tape.run(registers, k, k + 1)
            counts.append(counter.total)
    return counts
