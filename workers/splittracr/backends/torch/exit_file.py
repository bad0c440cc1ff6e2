"""Trained exits, and the file that holds them: a safetensors file, which has nothing executable.

An exit is a linear layer on the averages of the live tensors at its cut.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from splittracr.experiment.errors import InvalidInput, SplittracrError, reason
from splittracr.experiment.exits import ExitsFile
from splittracr.experiment.versions import parse
from splittracr.splitting.live import as_buffer, raw_bytes

WHAT = "a file of `splittracr exits train`"
_HEADER, _LEARNT = "splittracr", "learnt"


def pooled(values: Sequence[Any]) -> Tensor:
    """The features `[1, F]` of the live values of one sample, in float32.

    They are the averages of each floating-point tensor over its positions: of `[1, C, ...]` over
    all dimensions behind C, of tokens `[1, T, C]` over T. A tensor `[1, F]` stays as it is. Other
    values do not count. Raises ValueError if there is none that counts.
    """
    tensors = [one for one in values if isinstance(one, Tensor) and one.is_floating_point()]
    found = [_average(one.float()) for one in tensors if one.dim() > 1 and len(one) == 1]
    if not found:
        raise ValueError("no live tensor has floating-point features [1, C, ...]")
    return torch.cat(found, 1)


def _average(tensor: Tensor) -> Tensor:
    match tensor.dim():
        case 2:
            return tensor
        case 3:
            return tensor.mean(1)
        case _:
            return tensor.flatten(2).mean(2)


class LinearExit(nn.Module):
    """Logits `[1, classes]` of the averages of live values. `weight` is `[classes, F]`."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, *live: Any) -> Tensor:
        """The logits."""
        return nn.functional.linear(pooled(live), self.weight, self.bias)


def key(sample: Tensor) -> int:
    """A digest of an input as a number of 64 bits."""
    digest = hashlib.blake2b(as_buffer(raw_bytes(sample)), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def encoded(file: ExitsFile, exits: Sequence[LinearExit], learnt: Iterable[int]) -> bytes:
    """The bytes of a file. `learnt` are the keys of the inputs that the exits have learnt from."""
    tensors = {_LEARNT: torch.tensor(sorted(learnt), dtype=torch.int64)}
    for i, one in enumerate(exits):
        tensors |= {f"{i}.weight": one.weight.contiguous(), f"{i}.bias": one.bias.contiguous()}
    made: bytes = _safetensors("safetensors.torch").save(tensors, {_HEADER: file.model_dump_json()})
    return made


def read(path: Path, field: str) -> tuple[ExitsFile, list[LinearExit], frozenset[int]]:
    """The content of a file, as `encoded` takes it.

    Raises InvalidInput that names `field` if there is no such file or it has other content.
    """
    if not path.is_file():
        raise InvalidInput(field, str(path), f"{WHAT} (there is no such file)")
    module = _safetensors("safetensors")
    try:
        with module.safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(_HEADER)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # its own error derives from Exception alone
        raise InvalidInput(field, str(path), f"{WHAT} ({reason(error)})") from error
    if header is None:
        raise InvalidInput(field, str(path), f"{WHAT} (these are other tensors)")
    content = parse(ExitsFile, header, str(path), WHAT)
    if not _complete(content, tensors):
        raise InvalidInput(field, str(path), f"{WHAT} (its tensors do not fit its header)")
    exits = [
        LinearExit(tensors[f"{i}.weight"], tensors[f"{i}.bias"]) for i in range(len(content.exits))
    ]
    return content, exits, frozenset(tensors[_LEARNT].tolist())


def _complete(content: ExitsFile, tensors: Mapping[str, Tensor]) -> bool:
    learnt = tensors.get(_LEARNT)
    if learnt is None or learnt.dtype is not torch.int64 or learnt.dim() != 1:
        return False
    return all(
        _is_layer(tensors.get(f"{i}.weight"), tensors.get(f"{i}.bias"), content.outputs)
        for i in range(len(content.exits))
    )


def _is_layer(weight: Tensor | None, bias: Tensor | None, outputs: int) -> bool:
    if weight is None or bias is None or weight.dim() != 2:
        return False
    floats = weight.dtype is bias.dtype is torch.float32
    shapes = len(weight) == outputs and bias.shape == (outputs,)
    return floats and shapes and bool(weight.isfinite().all() and bias.isfinite().all())


def _safetensors(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        needed = "exits need a package that is not installed: pip install safetensors"
        raise SplittracrError(needed) from error
