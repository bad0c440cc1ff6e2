"""What a network computes from seeded inputs, part by part, for comparison with the other end.

A graph names some of its operations without their code: modules that were not traced, functions
of other packages, scripts. Their code can differ while the graphs are equal, so the values before
and after each of them are digested, and those of the output and of the post-processing. Libraries
whose versions are compared (sources.py) need no digests of their own.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from splittracr.splitting.canonical import canonical
from splittracr.splitting.tape import Op, Tape
from splittracr.wire.messages import PartDigest, Summary

MAX_PARTS = 256
"""Cuts at which values are digested, the output included."""

_MAX_TENSORS = 64
_MAX_NAME = 1024
_SAMPLED = 1 << 16  # elements of a large tensor inside the network
_MAX_MADE_UP = 1 << 20  # elements for a post-processor of this project, whose code is known
_PERIOD = 1 << 16  # made-up values before they repeat
_KNOWN = {"torch", "torchvision", "ultralytics", "timm", "transformers", "splittracr"}
_BUILT_IN = {"_operator", "operator", "builtins", "math"}
_NAMESPACES = {"aten", "prim", "prims"}


class Reducer(Protocol):
    """The part of a post-processor that both ends run."""

    def reduce(self, output: Any) -> Sequence[Mapping[str, Tensor]]:
        """A few tensors for each picture of a batch."""


class Behaviour:
    """Collects digests: `observe` is called by the proof's run, `finish` makes another run.

    `output` is the network's output for the proof's input.
    """

    def __init__(self) -> None:
        self.output: Any = None
        self._cuts: dict[int, str] | None = None
        self._digests: list[PartDigest] = []
        self._repeatable = 0  # cuts below are the same in every run

    def observe(self, tape: Tape, cut: int, values: Sequence[Any], repeatable: bool) -> None:
        """Digest the values alive at `cut` if an opaque operation is beside it."""
        if self._cuts is None:
            self._cuts = watched(tape)
        if repeatable:
            self._repeatable = cut + 1
        if cut in self._cuts:
            name, last = self._cuts[cut], cut == len(tape)
            self._digests.append(part_digest(name, list(values), repeatable, sample=not last))
        if cut == len(tape):
            self.output = tape.tail(cut, values)

    @torch.inference_mode()
    def finish(
        self, tape: Tape, batch: Tensor, postprocessor: Reducer, name: str
    ) -> tuple[PartDigest, ...]:
        """All digests: those observed, those of the input `batch`, and those of the results of the
        post-processor called `name` for its output and for made-up values of this structure.
        """
        assert self._cuts is not None, "the proof has not run"
        steady = self._repeatable > len(tape)
        registers = tape.begin(batch)
        try:
            for k in range(len(tape) + 1):
                if k in self._cuts:
                    part, alive = f"{self._cuts[k]}, second input", tape.alive(registers, k)
                    self._digests.append(
                        part_digest(part, alive, k < self._repeatable, sample=k < len(tape))
                    )
                if k < len(tape):
                    tape.run(registers, k, k + 1)
        except Exception as error:  # noqa: BLE001 - the network's own code
            self._digests.append(_raised("the model, second input", error))
            return tuple(self._digests)
        output = tape.result(registers)
        name = f"post-processor {name}"
        self._digests.append(_reduced(name, postprocessor, output, steady))
        if not _is_ours(postprocessor) or _elements(output) <= _MAX_MADE_UP:
            name, made_up = f"{name}, made-up values", tree_map(_made_up, output)
            self._digests.append(_reduced(name, postprocessor, made_up, True, exact=True))
        return tuple(self._digests)


def watched(tape: Tape) -> dict[int, str]:
    """The cuts before and after each opaque operation, and the last one, with a name for the
    operations since the cut before.
    """
    cuts: dict[int, str] = {}
    for k, op in enumerate(tape.ops):
        called = opaque(op)
        if called is not None:
            if k and k not in cuts:
                cuts[k] = f"the operations up to {tape.ops[k - 1].name}"
            cuts[k + 1] = f"operation {op.name} ({called})"
    cuts.setdefault(len(tape), "the model's output")
    kept = sorted(cuts, reverse=True)[:: -(-len(cuts) // MAX_PARTS)]
    if len(kept) < len(cuts):
        return {k: f"the operations up to {tape.cut_names[k]}" for k in kept}
    return cuts


def opaque(op: Op) -> str | None:
    """The callable of an operation if the graph does not contain its code; None otherwise."""
    called = op.called
    match called:
        case None:
            return None
        case nn.Module():
            return None if all(map(_is_plain, called.modules())) else type_name(called)
        case torch._ops.OpOverload():
            return None if called.namespace in _NAMESPACES else str(called)
        case torch._ops.OpOverloadPacket():
            name = str(called)
            return None if name.partition(".")[0] in _NAMESPACES else name
        case torch.jit.ScriptFunction() | torch.ScriptObject():
            return script_name(called)
        case _:
            module = getattr(called, "__module__", None) or "builtins"
            name = getattr(called, "__qualname__", None) or type(called).__qualname__
            known = module.partition(".")[0] in _KNOWN | _BUILT_IN
            return None if known else f"{module}.{name}"


def type_name(module: nn.Module) -> str:
    """The class of a module, that of the source if it was scripted."""
    if isinstance(module, torch.jit.ScriptModule):
        script = getattr(module, "_c", None)
        if script is not None:
            return script_name(script)
    return f"{type(module).__module__}.{type(module).__qualname__}"


def script_name(script: Any) -> str:
    """The source of a ScriptFunction or ScriptObject, as `module.name`."""
    function = isinstance(script, torch.jit.ScriptFunction)
    name = script.qualified_name if function else script._type().qualified_name()
    parts = str(name).removeprefix("__torch__.").split(".")
    return ".".join(part for part in parts if not part.startswith("___torch_mangle_"))


def _is_plain(module: nn.Module) -> bool:
    """Whether a module is a library's, without hooks or added attributes."""
    if isinstance(module, torch.jit.ScriptModule):
        return False
    hooked = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    return type(module).__module__.partition(".")[0] in _KNOWN and not hooked


def part_digest(
    name: str,
    value: Any,
    repeatable: bool = True,
    *,
    exact: bool = False,
    sample: bool = False,
) -> PartDigest:
    """The digest of a value, and its floating-point tensors in numbers.

    With `exact` input also those of integers, which otherwise depend on the last bit, such as the
    index of the largest score. With `sample` only some elements of large tensors count.
    """
    if sample:
        value = tree_map(_sampled, value)
    try:
        digest = hashlib.sha256(canonical(value).encode()).hexdigest() if repeatable else ""
    except (NotImplementedError, RuntimeError):  # such as a quantized tensor
        digest = ""
    wanted = [t for t in _tensors(value) if exact or t.is_floating_point()]
    return PartDigest(name[:_MAX_NAME], digest, tuple(map(_summary, wanted[:_MAX_TENSORS])))


def _sampled(value: Any) -> Any:
    """Evenly spaced elements of a large tensor."""
    if not isinstance(value, Tensor) or value.is_nested or value.layout is not torch.strided:
        return value
    if value.numel() <= _SAMPLED:
        return value
    step = value.numel() // _SAMPLED | 1  # odd: no column of a picture alone
    return value.detach().reshape(-1)[::step]


def _summary(tensor: Tensor) -> Summary:
    dtype = str(tensor.dtype).removeprefix("torch.")
    kind = f"{dtype}[{','.join(map(str, tensor.shape))}]"
    plain = tensor.layout is torch.strided and not (tensor.is_complex() or tensor.is_quantized)
    if not tensor.numel() or not plain:
        return Summary(kind, 0.0, 0.0, 0.0)
    values = _sampled(tensor.detach()).cpu().double().nan_to_num(0.0, 0.0, 0.0)
    size = values.abs()
    return Summary(kind, _number(values.mean()), _number(size.mean()), _number(_rms(size)))


def _rms(size: Tensor) -> Tensor:
    largest = size.max()
    return largest * (size / largest).square().mean().sqrt() if largest else largest


def _number(value: Tensor) -> float:
    return float(value.nan_to_num(0.0))


def _reduced(
    name: str, postprocessor: Reducer, output: Any, steady: bool, *, exact: bool = False
) -> PartDigest:
    """The results of a post-processor for `output`; not compared if they differ between two
    calls.
    """
    made = []
    for _ in range(1 if _is_ours(postprocessor) else 2):  # this project's are the same twice
        try:
            one = part_digest(
                name, list(map(dict, postprocessor.reduce(output))), steady, exact=exact
            )
        except Exception as error:  # noqa: BLE001 - the user's own code
            one = _raised(name, error)
        made.append(one)
    return made[0] if made[0] == made[-1] else PartDigest(name, "")


def _is_ours(postprocessor: Reducer) -> bool:
    return type(postprocessor).__module__.startswith("splittracr.")


def _elements(output: Any) -> int:
    return sum(tensor.numel() for tensor in _tensors(output))


def _tensors(value: Any) -> list[Tensor]:
    """The tensors in a value; nested ones, which have no shape, are left out."""
    leaves = tree_leaves(value)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and not leaf.is_nested]


def _raised(name: str, error: Exception) -> PartDigest:
    return PartDigest(name, f"raises {type(error).__qualname__}")


def _made_up(value: Any) -> Any:
    """Values in [-4, 4) from seeded integers in place of floating-point ones."""
    if not isinstance(value, Tensor) or value.is_nested or not value.is_floating_point():
        return value
    draw = np.random.Generator(np.random.Philox(2))
    count = value.numel()
    bits = draw.integers(-(2**23), 2**23, min(count, _PERIOD), dtype=np.int32)
    flat = torch.from_numpy(bits).to(torch.float32) / 2**21
    repeated = flat.repeat(-(-count // max(len(flat), 1)))[:count]
    return repeated.reshape(value.shape).to(value.dtype).to(value.device)
