"""An NVIDIA GPU by NVML: the energy counter since Volta, otherwise the power at each moment.

Both change about every 100 ms, much longer than a frame takes. On A100 and H100 the reported power
covers a quarter of the time only (Yang et al., SC 2024), so the counter is used if there is one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from splittracr.measure.energy.sensor import Counter, Found, Power, Reading, Zone


@dataclass(frozen=True)
class Gpu:
    """One GPU. `api` is the module pynvml, initialised."""

    api: ModuleType
    handle: Any
    index: int

    def energy(self) -> Reading | None:
        """The energy counter, else the power; None if the GPU reports neither now."""
        try:
            return Counter(self.api.nvmlDeviceGetTotalEnergyConsumption(self.handle) / 1e3)
        except self.api.NVMLError:
            pass
        try:
            return Power(self.api.nvmlDeviceGetPowerUsage(self.handle) / 1e3)
        except self.api.NVMLError:
            return None


class Nvml:
    """The energy of a GPU."""

    interval = 0.05

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._zone = Zone("gpu", f"gpu-{gpu.index}", "nvml", tick=0.1)

    def read(self) -> Mapping[Zone, Reading]:
        """Empty while the GPU does not answer."""
        reading = self._gpu.energy()
        return {} if reading is None else {self._zone: reading}


def find(uuid: str, api: ModuleType | None = None) -> Found:
    """The energy of the GPU `uuid`. A machine may have others, which this process does not use."""
    gpu, problem = find_gpu(uuid, api)
    if gpu is None:
        return Found(problems=(problem,))
    if gpu.energy() is None:
        return Found(problems=(f"GPU {gpu.index} reports neither energy nor power",))
    return Found((Nvml(gpu),))


def find_gpu(uuid: str, api: ModuleType | None = None) -> tuple[Gpu | None, str]:
    """The GPU `uuid`, with or without `GPU-` in front; else None, and why it cannot be read."""
    if api is None:
        try:
            import pynvml as api  # type: ignore[no-redef]
        except ImportError:
            return None, f"GPU {uuid}: the package nvidia-ml-py is not installed"
    assert api is not None
    try:
        api.nvmlInit()
        for i in range(api.nvmlDeviceGetCount()):
            handle = api.nvmlDeviceGetHandleByIndex(i)
            if _bare(api.nvmlDeviceGetUUID(handle)) == _bare(uuid):
                return Gpu(api, handle, i), ""
    except api.NVMLError as error:
        return None, f"GPU {uuid}: {error}"
    return None, f"GPU {uuid}: NVML lists no such GPU; the energy of a MIG slice is not measured"


def _bare(uuid: str | bytes) -> str:
    text = uuid.decode() if isinstance(uuid, bytes) else uuid
    return text.removeprefix("GPU-").lower()
