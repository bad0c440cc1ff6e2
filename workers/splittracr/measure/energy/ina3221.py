"""Jetson boards: INA3221 power monitors on I2C, with the files of both drivers.

NVIDIA's older driver (`ina3221x`) has `rail_name_N`, `in_powerN_input` in milliwatts,
`in_voltageN_input` in millivolts and `in_currentN_input` in milliamperes. The one of Linux
(`ina3221`) has `inN_label`, `inN_input` in millivolts, `currN_input` in milliamperes and, on some
kernels, `powerN_input` in microwatts. They lie in the device's folder or in one below it.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from splittracr.measure.energy.files import number, word
from splittracr.measure.energy.sensor import Found, Power, Reading, Zone

_CHANNELS = (1, 2, 3)
_UNUSED = re.compile("nc|none|unused|", re.IGNORECASE)


@dataclass(frozen=True)
class _Rail:
    """One channel. Each file comes with its unit in watts, volts or amperes."""

    zone: Zone
    power: tuple[Path, float]
    voltage: tuple[Path, float]
    current: tuple[Path, float]

    def watts(self) -> float | None:
        """Power as the driver computes it, else voltage times current."""
        power = number(self.power[0])
        if power is not None:
            return power * self.power[1]
        volts, amperes = number(self.voltage[0]), number(self.current[0])
        if volts is None or amperes is None:
            return None
        return volts * self.voltage[1] * amperes * self.current[1]


class Ina3221:
    """All rails of a board."""

    interval = 0.02

    def __init__(self, rails: tuple[_Rail, ...]) -> None:
        self._rails = rails

    def read(self) -> Mapping[Zone, Reading]:
        """The rails that can be read now."""
        values = ((rail.zone, rail.watts()) for rail in self._rails)
        return {zone: Power(watts) for zone, watts in values if watts is not None}


def find(sys: Path) -> Found:
    """INA3221 monitors below `sys`, usually /sys."""
    rails: dict[str, _Rail] = {}
    for driver in ("ina3221x", "ina3221"):
        for device in sorted((sys / "bus/i2c/drivers" / driver).glob("*-*")):
            for rail in _rails(device):
                if rail.watts() is not None:
                    rails.setdefault(rail.zone.zone, rail)
    return Found((Ina3221(tuple(rails.values())),) if rails else ())


def _rails(device: Path) -> Iterator[_Rail]:
    for folder in (device, *sorted(device.glob("hwmon/hwmon*")), *sorted(device.glob("*device*"))):
        for i in _CHANNELS:
            name = word(folder / f"in{i}_label") or word(folder / f"rail_name_{i}")
            if name is None or _UNUSED.fullmatch(name):
                continue
            zone = Zone(component(name), name, "ina3221", tick=0.01)
            if (folder / f"rail_name_{i}").exists():
                yield _Rail(
                    zone,
                    (folder / f"in_power{i}_input", 1e-3),
                    (folder / f"in_voltage{i}_input", 1e-3),
                    (folder / f"in_current{i}_input", 1e-3),
                )
            else:
                yield _Rail(
                    zone,
                    (folder / f"power{i}_input", 1e-6),
                    (folder / f"in{i}_input", 1e-3),
                    (folder / f"curr{i}_input", 1e-3),
                )


def component(rail: str) -> str:
    """The part of the board that a rail feeds, by its name: `VDD_CPU_GPU_CV` feeds several."""
    words = set(re.split("[^a-z0-9]+", rail.lower()))
    if {"in", "total", "system"} & words:
        return "system"
    if {"ddr", "ddrq", "vddrq"} & words:
        return "memory"
    parts = [part for part in ("cpu", "gpu", "soc") if part in words]
    return parts[0] if len(parts) == 1 else ("soc" if parts else "other")
