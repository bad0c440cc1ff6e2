"""Processors with RAPL: energy counters of Intel, and of AMD since Linux 5.8, under powercap.

Zones nest: a package holds its cores and its graphics, so those are left out. Memory (`dram`) has a
counter of its own. `psys` is the whole board. The counters move every millisecond, and wrap. They
are root's only since CVE-2020-8694.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from splittracr.measure.energy.files import denied, number, word
from splittracr.measure.energy.sensor import Counter, Found, Reading, Zone

_COMPONENTS = {"package": "cpu", "dram": "memory", "psys": "system"}


@dataclass(frozen=True)
class _Domain:
    zone: Zone
    file: Path
    wraps_at: float | None


class Rapl:
    """The counters of all packages."""

    interval = 1.0  # a package of 200 W wraps after 20 minutes, a board after 5

    def __init__(self, domains: tuple[_Domain, ...]) -> None:
        self._domains = domains

    def read(self) -> Mapping[Zone, Reading]:
        """The counters that can be read now."""
        found: dict[Zone, Reading] = {}
        for domain in self._domains:
            microjoules = number(domain.file)
            if microjoules is not None:
                found[domain.zone] = Counter(microjoules / 1e6, domain.wraps_at)
        return found


def find(sys: Path) -> Found:
    """RAPL below `sys`, usually /sys."""
    folders = sorted((sys / "class/powercap").glob("intel-rapl*:*"))
    # The same package again behind memory-mapped registers: the first one counts.
    folders.sort(key=lambda folder: folder.name.startswith("intel-rapl-mmio"))
    domains: dict[str, _Domain] = {}
    problems: list[str] = []
    for folder in folders:
        name = word(folder / "name") or ""
        component = _COMPONENTS.get(name.partition("-")[0])
        if component is None:
            continue
        key = name if component != "memory" else f"dram of {_parent(sys, folder)}"
        file = folder / "energy_uj"
        problem = denied(file)
        if problem is not None:
            problems.append(problem)
        elif number(file) is not None and key not in domains:
            wraps_at = number(folder / "max_energy_range_uj")
            zone = Zone(component, key, "rapl", tick=0.001)
            domains[key] = _Domain(zone, file, None if wraps_at is None else wraps_at / 1e6)
    sensors = (Rapl(tuple(domains.values())),) if domains else ()
    return Found(sensors, tuple(problems))


def _parent(sys: Path, folder: Path) -> str:
    """The name of the package that a zone called `intel-rapl:0:1` is part of."""
    return word(sys / "class/powercap" / folder.name.rpartition(":")[0] / "name") or folder.name
