"""Floating-point operations of a tape, as torch counts them.

torch has formulas for products of matrices and convolutions. Kernels that fuse several of them are
counted here by separate formulas, or are made not to fuse. The remaining kernels are unknown.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from splittracr.splitting.attention import unfused_attention
from splittracr.splitting.tape import Tape

_UNCOUNTED = re.compile(
    r"lstm|gru|rnn|attention|transformer|conv|mkldnn|mm_?$|cdist|euclidean|trilinear"
    r"|_fft_|linalg|svd|qr|cholesky|solve|inverse"
)
"""Names of torch's kernels that compute products, so that no formula means an unknown number."""

_LIGHT = frozenset(
    {
        *("torchvision::nms", "torchvision::roi_align", "torchvision::roi_pool"),
        *("aten::_thnn_fused_lstm_cell", "aten::_thnn_fused_gru_cell"),  # what follows the products
    }
)
"""Kernels that handle each value alone."""

_TORCH = frozenset({"aten", "prim", "prims", "profiler"})


@dataclass(frozen=True)
class Flops:
    """`counts[k]` operations of the first k of a tape; `unknown` names kernels without a count, and
    `incomplete` has the operations of the tape that run one.
    """

    counts: tuple[int, ...]
    unknown: tuple[str, ...] = ()
    incomplete: frozenset[int] = frozenset()

    def of(self, k: int) -> int | None:
        """Those of operation `k` of the tape; None if they cannot be counted."""
        return None if k in self.incomplete else self.counts[k + 1] - self.counts[k]


def count(tape: Tape, example: Tensor) -> Flops:
    """Count the floating-point operations of each operation of `tape` by running it once."""
    counts, incomplete = [0], set()
    # Outside inference mode torch decomposes `linear` and the like into operations with a formula.
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        unfused_attention(),
        _Counter() as counter,
    ):
        registers = tape.begin(example.clone())
        for k in range(len(tape)):
            counter.complete = True
            tape.run(registers, k, k + 1)
            counts.append(counter.total)
            if not counter.complete:
                incomplete.add(k)
    return Flops(tuple(counts), tuple(sorted(counter.unknown)), frozenset(incomplete))


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up formulas.

    `FlopCounterMode` does that and more: its first use imports sympy and half of torch's compiler,
    which takes seconds of every worker's start. A mode of one's own does so too, by default.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Whether torch imports its compiler to keep it away from this mode."""
        return False

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0
        self.unknown: set[str] = set()
        self.complete = True

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = str(func._schema.name)
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        elif name in _OWN:
            self.total += _OWN[name](args)
        elif _is_unknown(name):
            self.unknown.add(name)
            self.complete = False
        return out


def _is_unknown(name: str) -> bool:
    library, _, kernel = name.partition("::")
    if library not in _TORCH:
        return name not in _LIGHT
    return _UNCOUNTED.search(kernel) is not None


def _attention(args: Sequence[Any]) -> int:
    """Queries `[..., L, E]` times keys `[..., S, E]`, and that times values `[..., S, V]`."""
    query, key, value = args[:3]
    return 2 * _rows(query) * int(key.shape[-2]) * int(query.shape[-1] + value.shape[-1])


def _recurrent(sequence: Tensor, weights: Sequence[Tensor]) -> int:
    """Every weight matrix once for each entry of a sequence `[T, N, I]`."""
    return 2 * _rows(sequence) * sum(one.numel() for one in weights if one.dim() == 2)


def _rows(tensor: Tensor) -> int:
    return tensor.numel() // max(1, tensor.shape[-1])


_OWN: dict[str, Callable[[Sequence[Any]], int]] = {
    "aten::_scaled_dot_product_flash_attention_for_cpu": _attention,
    "aten::mkldnn_rnn_layer": lambda args: _recurrent(args[0], args[1:3]),
    "aten::_cudnn_rnn": lambda args: _recurrent(args[0], args[1]),
    "aten::mv": lambda args: 2 * int(args[0].numel()),
    "aten::addmv": lambda args: 2 * int(args[1].numel()),
    "aten::dot": lambda args: 2 * int(args[0].numel()),
}
