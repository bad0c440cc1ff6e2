"""NVIDIA GPUs by NVML: the energy counter since Volta, otherwise the power at each moment.

Both move about every 100 ms, far longer than a frame takes. On A100 and H100 the reported power
covers a quarter of the time only (Yang et al., SC 2024), so the counter is used where there is one.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from splittracr.measure.energy.sensor import Counter, Found, Power, Reading, Zone


class Nvml:
    """All GPUs that NVML shows this process. `api` is the module pynvml, initialised."""

    tick = 0.1
    interval = 0.05

    def __init__(self, api: ModuleType, handles: Mapping[Zone, Any]) -> None:
        self._api = api
        self._handles = handles

    def read(self) -> Mapping[Zone, Reading]:
        """The GPUs that answer now."""
        found: dict[Zone, Reading] = {}
        for zone, handle in self._handles.items():
            reading = read(self._api, handle)
            if reading is not None:
                found[zone] = reading
        return found


def find(api: ModuleType | None = None) -> Found:
    """GPUs by NVML. Without the module pynvml or a driver there are none."""
    if api is None:
        try:
            import pynvml as api  # type: ignore[no-redef]
        except ImportError:
            return Found()
    assert api is not None
    try:
        api.nvmlInit()
        count = api.nvmlDeviceGetCount()
    except api.NVMLError:  # no NVIDIA driver on this machine
        return Found()
    handles, problems = {}, []
    for i in range(count):
        try:
            handle = api.nvmlDeviceGetHandleByIndex(i)
        except api.NVMLError as error:
            problems.append(f"GPU {i}: {error}")
            continue
        if read(api, handle) is None:
            problems.append(f"GPU {i} reports neither energy nor power")
        else:
            handles[Zone("gpu", f"gpu-{i}", "nvml")] = handle
    return Found((Nvml(api, handles),) if handles else (), tuple(problems))


def read(api: ModuleType, handle: Any) -> Reading | None:
    """The energy counter of a GPU, else its power; None if it has neither."""
    try:
        return Counter(api.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3)
    except api.NVMLError:
        pass
    try:
        return Power(api.nvmlDeviceGetPowerUsage(handle) / 1e3)
    except api.NVMLError:
        return None
