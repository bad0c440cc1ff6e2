"""Live values and outputs in buffers of their own: their layout, copies out of them and into them.

Strides and shared memory stay as they are: later operations may write through one tensor and read
through another, and kernels depend on strides.
"""

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from splittracr.experiment.errors import SplittracrError

_PLAIN = (type(None), bool, int, float, str, torch.dtype, torch.device, torch.Size)


class TensorLayout(NamedTuple):
    """A tensor in one of the storages of its values, without its contents."""

    storage: int
    nbytes: int  # of the whole storage
    device: torch.device
    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int


class Layout(NamedTuple):
    """The layout of values. Two with the same one differ only in the contents of their tensors."""

    structure: Hashable
    leaves: tuple[TensorLayout | tuple[type, str], ...]

    @property
    def tensors(self) -> list[TensorLayout]:
        """Those of tensors, in order."""
        return [leaf for leaf in self.leaves if isinstance(leaf, TensorLayout)]


def layout(values: Any) -> Layout | None:
    """The layout of a tree of values; None unless it holds dense tensors and plain values only."""
    leaves, structure = tree_flatten(values)
    storages: dict[tuple[torch.device, int], int] = {}
    made: list[TensorLayout | tuple[type, str]] = []
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            if not _is_dense(leaf):
                return None
            storage = leaf.untyped_storage()
            place = leaf.device, storage.data_ptr() or -len(storages) - 1  # none if it is empty
            index = storages.setdefault(place, len(storages))
            shape, strides, offset = tuple(leaf.shape), leaf.stride(), int(leaf.storage_offset())
            made.append(
                TensorLayout(
                    index, storage.nbytes(), leaf.device, leaf.dtype, shape, strides, offset
                )
            )
        elif type(leaf) in _PLAIN:
            made.append((type(leaf), repr(leaf)))
        else:
            return None
    return Layout(structure, tuple(made))


class Buffers:
    """The memory of `values`, which it takes as it is.

    Raises SplittracrError if they hold anything but dense tensors and plain values.
    """

    def __init__(self, values: Any) -> None:
        found = layout(values)
        if found is None:
            raise SplittracrError("it holds more than dense tensors and plain values")
        self.values, self.layout = values, found
        self._leaves, self._structure = tree_flatten(values)
        self._first: dict[int, int] = {}  # by storage the place of a leaf in it
        for place, leaf in enumerate(found.leaves):
            if isinstance(leaf, TensorLayout):
                self._first.setdefault(leaf.storage, place)
        self._storages = {k: _bytes(self._leaves[place]) for k, place in self._first.items()}

    @property
    def nbytes(self) -> int:
        """The bytes of all storages."""
        return sum(storage.nbytes for storage in self._storages.values())

    def fill(self, values: Any) -> None:
        """Copy values of the same layout into this memory."""
        leaves, _ = tree_flatten(values)
        for k, place in self._first.items():
            self._storages[k].copy_(_bytes(leaves[place]), non_blocking=True)

    def copy(self) -> Any:
        """The values in new memory."""
        new = {k: storage.clone().untyped_storage() for k, storage in self._storages.items()}
        leaves = [
            _view(new[as_is.storage], as_is) if isinstance(as_is, TensorLayout) else leaf
            for leaf, as_is in zip(self._leaves, self.layout.leaves, strict=True)
        ]
        return tree_unflatten(leaves, self._structure)


def copied(values: Sequence[Any]) -> list[Any]:
    """Values in new memory, in the same layout."""
    return list(Buffers(list(values)).copy())


def _is_dense(tensor: Tensor) -> bool:
    odd = tensor.is_nested or tensor.is_quantized or tensor.is_conj() or tensor.is_neg()
    return type(tensor) is Tensor and tensor.layout is torch.strided and not odd


def _bytes(tensor: Tensor) -> Tensor:
    """All of a tensor's storage."""
    storage = tensor.untyped_storage()
    raw = torch.empty(0, dtype=torch.uint8, device=tensor.device)
    return raw.set_(storage, 0, (storage.nbytes(),))  # type: ignore[call-overload,no-any-return]


def _view(storage: torch.UntypedStorage, as_is: TensorLayout) -> Tensor:
    raw = torch.empty(0, dtype=as_is.dtype, device=as_is.device)
    return raw.set_(storage, as_is.offset, as_is.shape, as_is.strides)
