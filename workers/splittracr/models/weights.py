"""Loads weights from a file, without executing its content, and casts them."""

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from splittracr.data.home import expanded
from splittracr.experiment.errors import InvalidInput, SplittracrError, reason, why
from splittracr.experiment.spec import ModelSpec
from splittracr.models import checkpoint
from splittracr.models.random_weights import randomise

FILE = "spec.model.weightsFile"
NONE = "none"
OFFICIAL = "official"
_STATE_DICT = "a state dict saved by torch.save"

M = TypeVar("M", bound=nn.Module)

Replaceable = Callable[[str, torch.Size, torch.Size], bool]
"""Whether the parameter `name` belongs to the last layers, by its own shape and the file's."""


def file_path(spec: ModelSpec, base: Path) -> Path | None:
    """Return the file that `spec` names, relative to `base`. InvalidInput if it does not exist."""
    if spec.weights_file is None:
        return None
    path = base / expanded(spec.weights_file, FILE)
    if not path.is_file():
        raise InvalidInput(FILE, spec.weights_file, f"a file that exists (there is no {path})")
    return path


def read_state(path: Path, field: str = FILE) -> Mapping[str, Tensor]:
    """Return the state dict in a file; nothing in the file is executed.

    The file may be a checkpoint with the state dict under `state_dict`, `model` or a similar key.
    Raises InvalidInput for another file.
    """
    return read_file(path, field).state


def read_for(module: nn.Module, path: Path) -> tuple[Mapping[str, Tensor], str]:
    """Return the state dict in a file with the names of `module`, and its label.

    Raises InvalidInput for another file.
    """
    return read_file(path).for_module(module)


def read_file(path: Path, field: str = FILE) -> "StateFile":
    """Read a file of weights. Raises InvalidInput for another file."""
    return StateFile(path, *_read(path, field))


@dataclass(frozen=True)
class StateFile:
    """A state dict and its file. `key` is its key in a checkpoint, empty without one."""

    path: Path
    state: Mapping[str, Tensor]
    key: str

    def for_module(self, module: nn.Module) -> tuple[Mapping[str, Tensor], str]:
        """Return the state dict with the names of `module`, and its label."""
        state, left_out = checkpoint.named_as(module.state_dict(), self.state)
        found = [f"its {self.key}"] if self.key else []
        found += [f"names without {left_out}"] if left_out else []
        label = file_label(self.path)
        return state, f"{label} ({', '.join(found)})" if found else label


def _read(path: Path, field: str) -> tuple[Mapping[str, Tensor], str]:
    """Return the state dict in a file, and its key in the checkpoint."""
    refuse_foreign(path, field)
    if checkpoint.kind(path) == "safetensors":
        return checkpoint.read_safetensors(path, field), ""
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can break the unpickler in any way
        expected = f"a state dict saved by torch.save ({_reason(error)})"
        raise InvalidInput(field, str(path), expected) from error
    loaded, key = checkpoint.unwrapped(loaded)
    if not isinstance(loaded, Mapping) or not loaded or not _all_tensors(loaded):
        holds = checkpoint.what_it_holds(loaded)
        expected = f"a state dict saved by torch.save, tensors by name ({holds})"
        raise InvalidInput(field, str(path), expected)
    return loaded, key


def refuse_foreign(path: Path, field: str, wanted: str = _STATE_DICT) -> None:
    """Raise InvalidInput for a file of another kind than `wanted`, with that kind."""
    try:
        kind = checkpoint.kind(path)
    except OSError as error:
        raise InvalidInput(field, str(path), f"a readable file ({why(error)})") from error
    if kind not in (None, "safetensors"):
        raise InvalidInput(field, str(path), f"{wanted} (it is {kind})")


def load_state(
    module: nn.Module,
    state: Mapping[str, Tensor],
    spec: ModelSpec,
    label: str,
    replaceable: Replaceable | None = None,
) -> str:
    """Load all tensors of `state`, which `label` describes, into `module`; returns the label.

    If the number of classes differs, `replaceable` parameters become seeded random ones, and the
    label mentions it. Raises InvalidInput with the first keys that are missing, unexpected, of
    another shape or kind of type, or not finite.
    """
    own, written = module.state_dict(), spec.weights_file or label
    misshaped = [k for k in own if k in state and own[k].shape != state[k].shape]
    head = [k for k in misshaped if replaceable and replaceable(k, own[k].shape, state[k].shape)]
    if spec.num_classes is None or len(head) < len(misshaped):
        _refuse_shapes(misshaped, own, state, written, head)
    fitting = OrderedDict((k, v) for k, v in state.items() if k not in head)
    _refuse_types(fitting, own, written)
    _refuse_not_finite(fitting, own, written)
    if hasattr(state, "_metadata"):  # versions, by which modules translate old names
        fitting._metadata = state._metadata  # type: ignore[attr-defined]
    try:
        found = module.load_state_dict(fitting, strict=False)
    except (RuntimeError, ValueError) as error:  # some modules check versions themselves
        raise InvalidInput(FILE, written, f"a state dict of this model ({brief(error)})") from error
    missing = [k for k in found.missing_keys if k not in head and not _is_counter(k)]
    _refuse_names(missing, found.unexpected_keys, written)
    if not head:
        return label
    randomise(module, spec.seed, keep=lambda name: name not in head)
    return f"{label}, new head (random, seed {spec.seed})"


def cast(module: M, spec: ModelSpec) -> M:
    """Convert the floating-point parameters and buffers of `module` to `spec.dtype`, in place.

    Float32 changes nothing if some are float32, because such a network mixes types on purpose.
    Complex numbers are allowed with float32 only, and unchanged.

    Raises InvalidInput for values that the type cannot hold: complex ones, values that become
    infinite, and tensors whose values all become zero.
    """
    dtype: torch.dtype = getattr(torch, spec.dtype.value)
    tensors = dict(chain(module.named_parameters(), module.named_buffers()))
    if dtype is torch.float32 and any(t.dtype is dtype for t in tensors.values()):
        return module
    for name, tensor in tensors.items():
        loss = _loss(tensor, dtype)
        if loss is not None:
            expected = f"a type that holds {name}, {loss}"
            raise InvalidInput("spec.model.dtype", spec.dtype.value, expected)
    match dtype:
        case torch.float16:
            return module.half()
        case torch.bfloat16:
            return module.bfloat16()
        case _:
            return module.float()


def _loss(tensor: Tensor, dtype: torch.dtype) -> str | None:
    """Describe the loss of a cast to `dtype` beyond rounding; None for none."""
    if tensor.is_complex() and dtype is not torch.float32:
        return f"which is {_short(tensor.dtype)}"
    if not tensor.is_floating_point() or not tensor.numel():
        return None
    made = tensor.detach().to(dtype)
    count = int((torch.isinf(made) & torch.isfinite(tensor.detach())).sum())
    if count:
        finite = tensor.detach()[torch.isfinite(tensor.detach())].abs()
        largest = f"the largest is {float(finite.max()):.3g}"
        return f"{count} of {tensor.numel()} values become infinite ({largest})"
    if bool(tensor.detach().any()) and not bool(made.any()):
        largest = f"the largest is {float(tensor.detach().abs().max()):.3g}"
        return f"all {tensor.numel()} values become zero ({largest})"
    return None


def none_label(spec: ModelSpec) -> str:
    """Return the label of random weights."""
    return f"none (random, seed {spec.seed})"


def file_label(path: Path) -> str:
    """Return the label of weights from a file."""
    return f"file {path.name}"


def download_failed(weights: str, name: str, source: str, error: Exception) -> SplittracrError:
    """Return the error for official weights that could not be downloaded."""
    return SplittracrError(
        f"The weights {weights} of {name} could not be downloaded from {source} ({brief(error)}). "
        "That needs internet access, once for each machine. Without it, copy the weights here and "
        f"name them in {FILE}, or set spec.model.weights to `{NONE}` for seeded random weights."
    )


def brief(error: Exception, limit: int = 160) -> str:
    """Return the reason of an error: its first sentences, at most `limit` characters of them."""
    sentences = re.split(r"(?<=[.!?]) ", reason(error))
    text = sentences[0][:limit]
    for sentence in sentences[1:]:
        if len(text) + len(sentence) >= limit:
            break
        text += " " + sentence
    return text


def _reason(error: Exception) -> str:
    """Return the unpickler's message, without PyTorch's advice on how to execute the file."""
    _, found, words = str(error).partition("WeightsUnpickler error: ")
    return re.split(r"\. Please |\n", words.strip())[0] if found else brief(error)


def _all_tensors(state: Mapping[Any, Any]) -> bool:
    return all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())


def _is_counter(name: str) -> bool:
    """Whether it is a counter of batches, which only training needs, so that files may lack it."""
    return name.endswith("num_batches_tracked")


def _refuse_shapes(
    misshaped: list[str],
    own: Mapping[str, Tensor],
    state: Mapping[str, Any],
    written: str,
    head: list[str],
) -> None:
    if not misshaped:
        return
    first = next((k for k in misshaped if k not in head), misshaped[0])
    hint = ""
    if len(head) == len(misshaped):
        hint = "; set spec.model.numClasses if the file has another number of classes"
    raise InvalidInput(
        FILE,
        written,
        f"{first} of shape {list(own[first].shape)}, in the file it is {list(state[first].shape)}"
        f"{_and_more(misshaped)}{hint}",
    )


def _refuse_types(state: Mapping[str, Tensor], own: Mapping[str, Tensor], written: str) -> None:
    """Refuse tensors of another kind of type, such as int8 for quantised weights."""
    odd = [k for k in own if k in state and not _same_kind(state[k], own[k])]
    if odd:
        there, here = state[odd[0]], own[odd[0]].dtype
        kind = "quantised" if there.is_quantized else _short(there.layout, there.dtype)
        expected = f"{_short(here)} values in {odd[0]}, there they are {kind}{_and_more(odd)}"
        raise InvalidInput(FILE, written, expected)


def _same_kind(there: Tensor, here: Tensor) -> bool:
    """Whether both have the same kind of values (real, complex, integer, logical), and dense."""
    if there.layout is not torch.strided or there.is_quantized:
        return False
    return _kind(there.dtype) == _kind(here.dtype)


def _kind(dtype: torch.dtype) -> str:
    if dtype.is_complex or dtype.is_floating_point:
        return "complex" if dtype.is_complex else "real"
    return "bool" if dtype is torch.bool else "integer"


def _short(*names: object) -> str:
    return " ".join(str(n).removeprefix("torch.") for n in names if n is not torch.strided)


def _refuse_not_finite(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], written: str
) -> None:
    """Refuse values that are not finite, in the file or in the network's own type.

    A value that the network itself has at the same position, as in a mask, is allowed.
    """
    counts = {k: _not_finite(state[k], own[k]) for k in own if k in state}
    bad = [name for name, count in counts.items() if count]
    if bad:
        there, here = state[bad[0]], own[bad[0]].dtype
        also = "" if there.dtype is here else f", loaded as {_short(here)}"
        raise InvalidInput(
            FILE,
            written,
            f"finite values in {bad[0]}, {counts[bad[0]]} of {there.numel()} are not "
            f"({_short(there.dtype)}{also}){_and_more(bad)}",
        )


def _not_finite(there: Tensor, here: Tensor) -> int:
    """Count the values that are not finite after conversion to the type of `here`."""
    if not (here.is_floating_point() or here.is_complex()):
        return 0
    loaded = there.to(here.dtype)
    # If the sum is finite, so are all values. Otherwise, also after an overflow, check each.
    if bool(torch.isfinite(loaded.sum(dtype=_wide(here.dtype)))):
        return 0
    same = (loaded == here.to(loaded.device)) & ~torch.isnan(loaded)
    return int((~torch.isfinite(loaded) & ~same).sum())


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.complex128 if dtype.is_complex else torch.float64


def _refuse_names(missing: list[str], unexpected: list[str], written: str) -> None:
    if missing:
        also = f", and it has {unexpected[0]} that this model lacks" if unexpected else ""
        raise InvalidInput(FILE, written, f"{missing[0]} in it{_and_more(missing)}{also}")
    if unexpected:
        expected = f"only this model's weights, it has {unexpected[0]}"
        raise InvalidInput(FILE, written, expected + _and_more(unexpected))


def _and_more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
