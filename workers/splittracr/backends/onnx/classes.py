"""How exact each cut of a study is whose halves are not both computed by PyTorch.

Every cut is run on a few batches as the study runs it. Its output is compared with that of the
uncut model in PyTorch and in ONNX Runtime.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from splittracr.backends.onnx.halves import Halves
from splittracr.backends.torch.proven import ProvenNetwork
from splittracr.experiment.contracts import Runtime
from splittracr.experiment.errors import SplittracrError, reason
from splittracr.experiment.types import Cut, Exactness
from splittracr.splitting.compare import same
from splittracr.splitting.proof import Proof
from splittracr.splitting.tape import Tape

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ends:
    """The runtimes of the two ends."""

    edge: Runtime
    server: Runtime


@dataclass(frozen=True)
class Outputs:
    """The outputs of the uncut model for a batch, as live values of the last cut."""

    batch: Tensor
    torch: list[Any]
    onnx: list[Any]
    first: tuple[int | None, ...]


class _OtherOutputError(Exception):
    """An output that cannot be compared in numbers."""


@torch.inference_mode()
def outputs(own: ProvenNetwork, halves: Halves, batches: Sequence[Tensor]) -> list[Outputs]:
    """The outputs that the cuts are compared with."""
    made = []
    for batch in batches:
        eager = own.tape.head(halves.last, batch.clone())
        uncut = halves.run(0, halves.last, [batch])
        made.append(Outputs(batch, eager, uncut, _first(own, eager)))
    return made


@torch.inference_mode()
def classify(own: ProvenNetwork, halves: Halves, ends: Ends, known: Sequence[Outputs]) -> Proof:
    """The proof of `own` with the exactness of each cut; one that cannot be run is refused."""
    cuts, refused = [], dict(own.proof.refused)
    for cut in own.proof.cuts:
        made = cut
        if cut.name not in refused and _uses_onnx(cut.index, halves.last, ends):
            try:
                made = _classified(own, halves, ends, known, cut)
            except _OtherOutputError as error:
                refused[cut.name] = str(error)
            except Exception as error:  # noqa: BLE001 - a library's own, of a half that it refuses
                refused[cut.name] = f"ONNX Runtime cannot compute a half: {reason(error)}"
        cuts.append(made)
    return replace(own.proof, cuts=tuple(cuts), refused=refused)


def error(expected: Sequence[Any], found: Sequence[Any]) -> float:
    """The largest difference of the numbers in two outputs, relative to the largest size in the
    same tensor of `expected`.

    Raises SplittracrError if they differ in more than numbers.
    """
    try:
        return _error(expected, found)
    except _OtherOutputError as other:
        raise SplittracrError(str(other)) from other


def _uses_onnx(cut: int, last: int, ends: Ends) -> bool:
    head = cut > 0 and ends.edge is Runtime.ONNX_RUNTIME
    return head or (cut < last and ends.server is Runtime.ONNX_RUNTIME)


def _classified(
    own: ProvenNetwork, halves: Halves, ends: Ends, known: Sequence[Outputs], cut: Cut
) -> Cut:
    exact = consistent = True
    largest, agreeing, ranked = 0.0, 0, 0
    for one in known:
        made = _run(own.tape, halves, ends, cut.index, one.batch)
        exact = exact and same(made, one.torch)
        consistent = consistent and same(made, one.onnx)
        largest = max(largest, _error(one.torch, made))
        for a, b in zip(one.first, _first(own, made), strict=True):
            ranked += a is not None
            agreeing += a is not None and a == b
    if exact:
        return cut
    return cut.model_copy(
        update={
            "exactness": Exactness.CONSISTENT if consistent else Exactness.BOUNDED,
            "largest_error": largest,
            "top1_agreement": agreeing / ranked if ranked else None,
        }
    )


def _run(tape: Tape, halves: Halves, ends: Ends, cut: int, batch: Tensor) -> list[Any]:
    """The live values of the last cut, computed as the study does it at `cut`."""
    if ends.edge is Runtime.TORCH:
        live = tape.head(cut, batch.clone())
    else:
        live = halves.run(0, cut, [batch.clone()])
    if ends.server is Runtime.ONNX_RUNTIME:
        return halves.run(cut, halves.last, live)
    registers = tape.resume(cut, live)
    tape.run(registers, cut, len(tape))
    return tape.alive(registers, len(tape))


def _first(own: ProvenNetwork, live: Sequence[Any]) -> tuple[int | None, ...]:
    """The first class of each sample; None if the results rank none."""
    try:
        reduced = own.reduce(own.tape.tail(len(own.tape), list(live)))
        rankings = [own.postprocessor.ranking(one) for one in reduced]
    except Exception as error:  # noqa: BLE001 - a post-processor of the user's own
        log.debug("no classes to compare: %s", reason(error))
        return ()
    return tuple(ranking[0] if ranking else None for ranking in rankings)


def _error(expected: Sequence[Any], found: Sequence[Any]) -> float:
    (a, spec_a), (b, spec_b) = tree_flatten(list(expected)), tree_flatten(list(found))
    if spec_a != spec_b:
        raise _OtherOutputError("its output has another structure than that of PyTorch")
    return max((_leaf_error(x, y) for x, y in zip(a, b, strict=True)), default=0.0)


def _leaf_error(expected: Any, found: Any) -> float:
    if same(expected, found):
        return 0.0
    tensors = isinstance(expected, Tensor) and isinstance(found, Tensor)
    if not tensors or not expected.is_floating_point() or expected.shape != found.shape:
        raise _OtherOutputError("its output differs from that of PyTorch in more than rounding")
    a, b = expected.double(), found.double()
    equal = (a == b) | (a.isnan() & b.isnan())
    largest = float(torch.where(equal, 0.0, (a - b).abs()).nan_to_num(math.inf).max())
    size = float(a.abs().nan_to_num(0.0, 0.0).max())
    return largest / size if size else (math.inf if largest else 0.0)
