"""Energy as data: how reliable a value is, watts of a machine, joules of a window."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from splittracr.experiment.contracts import Role
from splittracr.experiment.types import Frozen

Watts = Annotated[float, Field(ge=0)]


class Kind(StrEnum):
    """How reliable a value is."""

    MEASURED = "measured"
    ESTIMATED = "estimated"
    MODELLED = "modelled"


DECLARED = "declared"
"""The source of values that are made from the manifest's `spec.edge.power`."""


class MeasuredPower(Frozen):
    """Power of a machine, by its own sensors."""

    compute_watts: Watts = Field(description="Mean power while it runs the whole model.")
    idle_watts: Watts = Field(description="Mean power while it waits.")
    source: str = Field(description="The sensors that were read.")
    kind: Kind = Field(description="`measured` or `estimated`.")


class EnergyWindow(Frozen):
    """The energy of one zone in one stretch of time.

    A window begins and ends while no frame is in flight.
    """

    of: Literal["cut", "study", "idle"] = Field(
        description="`cut`: frames at one cut, one after the other. `study`: all recorded frames. "
        "`idle`: no frames."
    )
    role: Role = Field(description="The end that was measured.")
    edge: str = Field(description="Name of the edge that ran the frames.")
    cut: str | None = Field(description="Name of the cut; null if the frames had several cuts.")
    cut_index: int | None = Field(description="Operations on the edge; null as above.")
    component: str = Field(
        description="`cpu`, `gpu`, `memory`, `soc`, `system` (all of the machine), `link` or "
        "`other`."
    )
    zone: str = Field(description="Name of the measured part, as the sensor gives it.")
    source: str = Field(
        description="What was read: `rapl`, `nvml`, `ina3221`, `pmic`, `battery`, "
        "or the name that an energy reader of another package gives."
    )
    kind: Kind = Field(description="`measured`, `estimated` or `modelled`.")
    frames: int = Field(description="Frames that ran in the window.")
    seconds: float = Field(description="Length of the window.")
    joules: float | None = Field(description="Null if it could not be measured; `note` says why.")
    resolution_seconds: float = Field(description="Time between two changes of the sensor's value.")
    readings_per_second: float = Field(description="How often the sensor was read.")
    note: str = Field(default="", description="Why there are no joules; empty if there are.")

    @property
    def joules_per_frame(self) -> float | None:
        """The energy over the frames; None without joules or frames."""
        return None if self.joules is None or not self.frames else self.joules / self.frames


class MachineLoad(Frozen):
    """Figures of a machine; null if it cannot be read. Loads are per cent of all of it."""

    cpu_percent: float | None = Field(default=None, description="Load of all processor cores.")
    cpu_celsius: float | None = Field(default=None, description="Temperature of the processor.")
    cpu_hertz: float | None = Field(default=None, description="Clock of the processor.")
    gpu_percent: float | None = Field(default=None, description="Load of the GPU.")
    gpu_celsius: float | None = Field(default=None, description="Temperature of the GPU.")
    gpu_hertz: float | None = Field(default=None, description="Clock of the GPU.")
    gpu_watts: float | None = Field(default=None, description="Power of the GPU at the moment.")
    gpu_memory_bytes: float | None = Field(
        default=None, description="Memory of the GPU that is in use by all processes."
    )


class MachineUsage(Frozen):
    """How busy the machine of a worker was, sampled every second."""

    role: Role = Field(description="The worker.")
    edge: str = Field(description="Name of the edge that wrote this.")
    samples: int = Field(description="Samples; without one all figures are null.")
    mean: MachineLoad = Field(description="Mean of the samples.")
    largest: MachineLoad = Field(description="Largest of the samples.")
    memory_bytes: int | None = Field(description="Largest resident memory of the worker's process.")


class FrameEnergy(Frozen):
    """Energy of a frame at a cut, of one zone."""

    role: Role = Field(description="The end that uses it.")
    component: str = Field(description="As in `energy` of `environment.json`.")
    zone: str = Field(description="Name of the measured part, as the sensor gives it.")
    source: str = Field(description="What was read, or `declared`.")
    kind: Kind = Field(description="`measured`, `estimated` or `modelled`.")
    joules_per_frame: float | None = Field(
        description="Mean over all windows of the cut; null if none could be measured."
    )
    watts: float | None = Field(description="Mean power in those windows; null if modelled.")
    frames: int = Field(description="Frames in those windows.")
    seconds: float | None = Field(description="Their length; null if modelled.")
    resolution_seconds: float | None = Field(
        description="Time between two changes of the sensor's value; null if modelled."
    )
    readings_per_second: float | None = Field(
        description="How often the sensor was read; null if modelled."
    )
    machine: bool = Field(
        description="Whether this zone is counted in the energy of its machine; zones that are "
        "part of another one are not."
    )
    note: str = Field(default="", description="Why there are no joules; empty if there are.")
