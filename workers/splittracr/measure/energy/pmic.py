"""Raspberry Pi 5: voltages and currents of the power chip's rails, by `vcgencmd pmic_read_adc`.

The rails do not cover the whole board (USB, the regulators' own losses), so the sum is an estimate
of its power, and a low one.
"""

import re
import shutil
import subprocess
from collections.abc import Callable, Mapping

from splittracr.experiment.energy import Kind
from splittracr.measure.energy.sensor import Found, Power, Reading, Zone

_COMMAND = ("vcgencmd", "pmic_read_adc")
_LINE = re.compile(r"\s*(\S+)_([AV])(?:\s+\w+\(\d+\))?=([0-9.]+)[AV]\s*")
_ZONE = Zone("system", "pmic-rails", "pmic", Kind.ESTIMATED, tick=0.1)


class Pmic:
    """The sum over all rails. `run` returns the command's output; None if it failed."""

    interval = 0.2

    def __init__(self, run: Callable[[], str | None]) -> None:
        self._run = run

    def read(self) -> Mapping[Zone, Reading]:
        """The power now."""
        watts = parse(self._run() or "")
        return {} if watts is None else {_ZONE: Power(watts)}


def find(run: Callable[[], str | None] | None = None) -> Found:
    """The power chip, if the command is there and shows rails."""
    sensor = Pmic(run or _vcgencmd)
    return Found((sensor,) if sensor.read() else ())


def parse(text: str) -> float | None:
    """Watts over all rails that have both a voltage and a current; None if none has."""
    volts: dict[str, float] = {}
    amperes: dict[str, float] = {}
    for line in text.splitlines():
        found = _LINE.fullmatch(line)
        if found is not None:
            (amperes if found[2] == "A" else volts)[found[1]] = float(found[3])
    both = volts.keys() & amperes.keys()
    return sum(volts[rail] * amperes[rail] for rail in both) if both else None


def _vcgencmd() -> str | None:
    if shutil.which(_COMMAND[0]) is None:
        return None
    try:
        done = subprocess.run(_COMMAND, capture_output=True, text=True, timeout=2, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
