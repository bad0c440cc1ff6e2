"""Whether operations can be recorded once and replayed: found by running them under watch.

A graph of a device replays kernels with their arguments, without the processor. So no operation
may wait for the device, and the contents of tensors may decide only the values that it writes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from splittracr.experiment.errors import SplittracrError

_OWN = ("aten", "prims", "prim")
_DEPENDS = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
_aten = torch.ops.aten
_INDEXING = (_aten.index, _aten.index_put, _aten.index_put_)
_MASKS = (torch.bool, torch.uint8)


class NotRecordable(SplittracrError):
    """An operation cannot be recorded."""


def screened(function: Callable[[list[Any]], Any], values: list[Any]) -> list[Tensor]:
    """Run `function`; return the tensors that it uses and has neither been given nor made.

    A recording has their addresses, so it has to keep them. Raises NotRecordable with the name of
    the first operation that cannot be recorded.
    """
    watch = _Watch(values)
    with watch:
        function(values)
    return list(watch.kept.values())


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Judges each operation before it runs."""

    def __init__(self, given: Sequence[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._made = {_storage(one) for one in _tensors(given)}
        self.kept: dict[int, Tensor] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        del types
        keywords = dict(kwargs or {})
        obstacle = _obstacle(func, args)
        if obstacle is not None:
            raise NotRecordable(f"{func} {obstacle}")
        with self:  # in inference mode an operation may hide those that it consists of
            result = func.decompose(*args, **keywords)
        if result is not NotImplemented:
            return result
        used = _tensors([args, keywords])
        result = func(*args, **keywords)
        made = _tensors([result])
        if _crosses(used, made):
            raise NotRecordable(f"{func} copies between devices")
        for one in used:
            if _storage(one) not in self._made:
                self.kept[_storage(one)] = one
        self._made |= {_storage(one) for one in made}
        return result


def _obstacle(func: Any, args: Sequence[Any]) -> str | None:
    if func.namespace not in _OWN:
        return "is of another library and may wait for the device"
    if func.overloadpacket in _INDEXING:  # with a mask they count its elements first
        masked = any(one.dtype in _MASKS for one in _tensors(args[1]))
        return "depends on the contents of a mask" if masked else None
    if any(tag in func.tags for tag in _DEPENDS):
        return "depends on the contents of a tensor"
    return None


def _crosses(used: Sequence[Tensor], made: Sequence[Tensor]) -> bool:
    """Whether values went from one device to another. A number that an operation takes from the
    processor is none: its kernel has it as an argument.
    """
    devices = {one.device.type for one in made}
    return bool(devices) and any(
        one.device.type not in devices and (one.dim() or "cpu" in devices) for one in used
    )


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else id(tensor)
