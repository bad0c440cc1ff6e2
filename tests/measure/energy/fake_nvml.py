"""NVML without a GPU."""

# ruff: noqa: N802 - names are those of pynvml

from types import ModuleType, SimpleNamespace


class FakeNvml(ModuleType):
    """As the module pynvml behaves. `gpus` are millijoules or milliwatts, None if unsupported."""

    class NVMLError(Exception): ...

    def __init__(self, gpus: list[tuple[int | None, int | None]], *, driver: bool = True) -> None:
        super().__init__("pynvml")
        self.gpus, self.driver = gpus, driver

    def nvmlInit(self) -> None:
        if not self.driver:
            raise self.NVMLError("Driver Not Loaded")

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, i: int) -> int:
        return i

    def nvmlDeviceGetUUID(self, i: int) -> str:
        return f"GPU-00{i}"

    def nvmlDeviceGetTotalEnergyConsumption(self, i: int) -> int:
        return self._value(self.gpus[i][0])

    NVML_TEMPERATURE_GPU = NVML_CLOCK_SM = 0

    def nvmlDeviceGetUtilizationRates(self, i: int) -> SimpleNamespace:
        return SimpleNamespace(gpu=87)

    def nvmlDeviceGetTemperature(self, i: int, sensor: int) -> int:
        return 61

    def nvmlDeviceGetClockInfo(self, i: int, clock: int) -> int:
        return self._value(None)

    def nvmlDeviceGetMemoryInfo(self, i: int) -> SimpleNamespace:
        return SimpleNamespace(used=3 * 2**30)

    def nvmlDeviceGetPowerUsage(self, i: int) -> int:
        return self._value(self.gpus[i][1])

    def _value(self, value: int | None) -> int:
        if value is None:
            raise self.NVMLError("Not Supported")
        return value
