"""From a tape to an ONNX graph that knows the live values of every cut by name.

The tape is exported once, with every value that is alive at some cut as an output. Each such output
is a name in the raw graph, so a cut is a set of names. PyTorch's older exporter is used: it keeps
one node an operation (the newer one splits some up) and takes a tenth of the time.
"""

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import onnx
import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_unflatten

from splittracr.backends.onnx.graph import Graph, Value
from splittracr.experiment.errors import FrameFailed, SplittracrError
from splittracr.splitting.attention import unfused_attention
from splittracr.splitting.tape import Tape

OPSET = 17
MAX_BYTES = 2**31
"""Bytes of weights: protobuf has no larger message."""


@dataclass(frozen=True)
class Live:
    """The live values at a cut: their structure, and for each leaf a tensor of the graph, or the
    leaf itself if it is no tensor.
    """

    structure: TreeSpec
    leaves: tuple[Any, ...]

    @property
    def tensors(self) -> dict[str, Value]:
        """The tensors by name; two leaves may be the same one."""
        return {leaf.name: leaf for leaf in self.leaves if isinstance(leaf, Value)}

    def named(self, values: Sequence[Any]) -> dict[str, Tensor]:
        """The tensors in `values` by their names in the graph."""
        found, structure = _flat(values)
        if structure != self.structure:
            raise ValueError(f"live values {structure}, expected {self.structure}")
        named = {}
        for leaf, tensor in zip(self.leaves, found, strict=True):
            if isinstance(leaf, Value):
                _check(leaf, tensor)
                named[leaf.name] = tensor
        return named

    def filled(self, tensors: dict[str, Tensor]) -> list[Any]:
        """The live values with these tensors."""
        leaves = [tensors[x.name] if isinstance(x, Value) else x for x in self.leaves]
        return list(tree_unflatten(leaves, self.structure))


@dataclass(frozen=True)
class Exported:
    """A network as a graph, and the live values of each cut in it."""

    graph: Graph
    live: tuple[Live, ...]


class _AllLive(nn.Module):
    """A tape whose outputs are all values that are alive at some cut.

    An operation may write into a value: its contents before and after are two outputs. `plain` has
    the live values without tensors, by cut and place. After a call `positions` has the output of
    each tensor, by cut.
    """

    def __init__(self, tape: Tape, plain: Sequence[Mapping[int, Any]]) -> None:
        super().__init__()
        self.body = tape.module  # holds the parameters
        self._tape, self._plain = tape, plain
        self.positions: list[list[int]] = []

    def train(self, mode: bool = True) -> Self:
        """Set the mode of this module only: that of a graph of torch.export cannot be set."""
        self.training = mode
        return self

    def forward(self, batch: Tensor) -> tuple[Tensor, ...]:
        registers = self._tape.begin(batch)
        kept: list[Tensor] = []  # an id belongs to one of them as long as they are here
        copies: list[Tensor] = []
        position: dict[tuple[int, int], int] = {}
        self.positions = []
        for k in range(len(self._tape) + 1):
            alive, plain = list(self._tape.alive(registers, k)), self._plain[k]
            if plain:
                # A tracer's sizes are tensors, made of values that a part may not have.
                alive = [plain.get(i, value) for i, value in enumerate(alive)]
                registers = self._tape.resume(k, alive)
            leaves, _ = _flat([value for i, value in enumerate(alive) if i not in plain])
            here = []
            for leaf in leaves:
                if not isinstance(leaf, Tensor):
                    continue
                state = (id(leaf), leaf._version)
                if state not in position:
                    position[state] = len(copies)
                    kept.append(leaf)
                    copies.append(leaf.clone())
                here.append(position[state])
            self.positions.append(here)
            self._tape.run(registers, k, k + 1)
        return tuple(copies)


def export(tape: Tape, example: Tensor, max_bytes: int = MAX_BYTES) -> Exported:
    """Export a tape on the processor for batches like `example`.

    If ONNX lacks an operation, the error of the exporter is raised. Raises SplittracrError for
    more than `max_bytes` of weights.
    """
    _check_weights(tape.module, max_bytes)
    with torch.inference_mode(False), torch.no_grad():
        batch = example.clone()
        alive = _alive(tape, batch.clone())
        plain = [{i: one for i, one in enumerate(values) if _is_plain(one)} for values in alive]
        module, written = _AllLive(tape, plain).eval(), io.BytesIO()
        # It prints a graph that it cannot export, and standard output carries a worker's events.
        torch._C._jit_set_onnx_log_output_stream("stderr")
        with warnings.catch_warnings(), unfused_attention():
            warnings.simplefilter("ignore")  # of tracing, and that there is a newer exporter
            torch.onnx.export(
                module,
                (batch,),
                written,  # type: ignore[arg-type]  # the older exporter takes a file, too
                dynamo=False,
                opset_version=OPSET,
                do_constant_folding=False,
            )
    known = {
        name: tensor.detach().numpy()
        for name, tensor in module.state_dict().items()
        if tensor.is_contiguous() and tensor.dtype is not torch.bfloat16
    }
    graph = Graph(onnx.load_from_string(written.getvalue()), known)
    live = []
    for values, positions in zip(alive, module.positions, strict=True):
        leaves, structure = _flat(values)
        names = iter([graph.outputs[i] for i in positions])
        found = [_value(next(names), x) if isinstance(x, Tensor) else x for x in leaves]
        live.append(Live(structure, tuple(found)))
    return Exported(graph, tuple(live))


def _check_weights(module: nn.Module, max_bytes: int) -> None:
    nbytes = sum(tensor.nbytes for tensor in module.state_dict().values())
    if nbytes > max_bytes:
        found, limit = (f"{size / 2**20:,.0f} MiB" for size in (nbytes, max_bytes))
        raise SplittracrError(f"its weights have {found}, a graph of ONNX holds at most {limit}")


def _alive(tape: Tape, batch: Tensor) -> list[list[Any]]:
    """The live values at every cut."""
    registers, found = tape.begin(batch), []
    for k in range(len(tape) + 1):
        found.append(tape.alive(registers, k))
        tape.run(registers, k, k + 1)
    return found


def _flat(values: Sequence[Any]) -> tuple[list[Any], TreeSpec]:
    """The leaves and the structure of live values; a value without tensors is one leaf."""
    return tree_flatten(list(values), is_leaf=_is_plain)


def _is_plain(value: Any) -> bool:
    return not any(isinstance(leaf, Tensor) for leaf in tree_leaves(value))


def _check(value: Value, tensor: Tensor) -> None:
    """Raise FrameFailed if a tensor has another type or size than the graph was made for."""
    found = _value(value.name, tensor)
    if (found.dtype, found.shape) != (value.dtype, value.shape):
        raise FrameFailed(
            f"a tensor {found.dtype} {list(found.shape)}, expected {value.dtype} "
            f"{list(value.shape)}: runtime OnnxRuntime takes one size of input and batch; Torch "
            "takes several"
        )


def _value(name: str, tensor: Tensor) -> Value:
    return Value(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
