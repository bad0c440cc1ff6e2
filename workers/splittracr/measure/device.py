"""The device that a backend computes on, as clocks and metrics see it."""

from collections.abc import Mapping
from typing import Protocol


class Device(Protocol):
    """A device. `str()` of it is its name in the manifest, such as `cpu` or `cuda:0`."""

    @property
    def name(self) -> str:
        """The accelerator's own name, or the processor's."""

    @property
    def uuid(self) -> str | None:
        """The accelerator's identity, by which its driver finds it; None for a processor."""

    @property
    def capability(self) -> str:
        """The instruction set in use, or the accelerator's name and compute capability."""

    @property
    def threads(self) -> int:
        """Threads of one operation on the processor."""

    def synchronise(self) -> None:
        """Wait for everything that was launched."""

    def finish(self) -> float:
        """Wait likewise; return the seconds that the device still took."""

    def memory(self) -> Mapping[str, float]:
        """Bytes that tensors occupy: `current`, and the `peak` so far. Empty for the processor."""
