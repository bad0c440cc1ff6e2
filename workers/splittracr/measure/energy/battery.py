"""A battery in use: the power drawn from it, for the whole machine.

psutil shows a battery's charge in per cent only, so the files of the kernel are read: `power_now`
in microwatts, or `current_now` in microamperes and `voltage_now` in microvolts.
"""

from collections.abc import Mapping
from pathlib import Path

from splittracr.measure.energy.files import number, word
from splittracr.measure.energy.sensor import Found, Power, Reading, Zone


class Batteries:
    """All batteries of a machine. On mains power there is no reading."""

    interval = 0.5

    def __init__(self, folders: tuple[Path, ...]) -> None:
        self._folders = folders

    def read(self) -> Mapping[Zone, Reading]:
        """The batteries that are being discharged now."""
        found: dict[Zone, Reading] = {}
        for folder in self._folders:
            watts = _watts(folder)
            if watts is not None and word(folder / "status") == "Discharging":
                found[Zone("system", folder.name, "battery", tick=1.0)] = Power(watts)
        return found


def find(sys: Path) -> Found:
    """Batteries below `sys`, usually /sys."""
    folders = sorted((sys / "class/power_supply").glob("*"))
    batteries = tuple(
        folder
        for folder in folders
        if word(folder / "type") == "Battery"
        and word(folder / "scope") != "Device"  # of a mouse
        and _watts(folder) is not None
    )
    return Found((Batteries(batteries),) if batteries else ())


def _watts(folder: Path) -> float | None:
    power = number(folder / "power_now")
    if power is not None:
        return abs(power) / 1e6
    current, voltage = number(folder / "current_now"), number(folder / "voltage_now")
    if current is None or voltage is None:
        return None
    return abs(current) * voltage / 1e12
