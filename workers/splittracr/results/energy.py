"""Energy of a frame at each cut, from windows of sensors and from declared power."""

from collections.abc import Iterable, Mapping, Sequence

from splittracr.experiment.contracts import EDGE, SERVER, Role
from splittracr.experiment.energy import DECLARED, EnergyWindow, FrameEnergy, Kind
from splittracr.experiment.spec import ExperimentSpec
from splittracr.experiment.types import Tier
from splittracr.measure.energy.account import machine
from splittracr.measure.energy.sensor import Zone
from splittracr.planning.cost import millijoules_per_byte, power
from splittracr.results.environment import Environment

_WAITS = ("edge_wait", "other")


def of_cut(environment: Environment, index: int) -> tuple[FrameEnergy, ...]:
    """Return the energy in the windows at a cut, one entry a zone; all edges together."""
    by_zone: dict[tuple[str, Zone], list[EnergyWindow]] = {}
    for one in environment.energy:
        if one.of == "cut" and one.cut_index == index:
            by_zone.setdefault((one.role, _zone(one)), []).append(one)
    whole = {role: set(machine(z for r, z in by_zone if r == role)) for role in (EDGE, SERVER)}
    return tuple(
        _together(windows, machine=zone in whole[role])
        for (role, zone), windows in sorted(by_zone.items(), key=lambda item: _order(*item[0]))
    )


def modelled(
    spec: ExperimentSpec,
    measured: Sequence[FrameEnergy],
    tiers_ms: Mapping[Tier, float],
    waits_ms: float,
    nbytes: float | None,
) -> tuple[FrameEnergy, ...]:
    """Return the energy by declared power of the mean times and bytes of a cut.

    `waits_ms` is the part of the edge's time in which it computes nothing. The edge's machine is
    modelled only if no sensor measures it; the link by the declared energy of a bit.
    """
    declared = spec.declared_power
    if declared is None or not tiers_ms or nbytes is None:
        return ()
    found = []
    drawn = power(declared, None)
    seen = any(one.machine and one.role == EDGE for one in measured)
    if drawn is not None and not seen:
        busy, link = tiers_ms[Tier.EDGE] - waits_ms, tiers_ms[Tier.LINK]
        stages = {"head": busy, "edge_wait": waits_ms, "link": link}
        joules = drawn.frame_joules(stages, sum(tiers_ms.values()))
        found.append(_modelled("system", "edge", joules, machine=True))
    if declared.nanojoules_per_bit is not None:
        joules = nbytes * millijoules_per_byte(declared.nanojoules_per_bit) / 1e3
        found.append(_modelled("link", "link", joules, machine=False))
    return tuple(found)


def waits_ms(stages_ms: Mapping[str, float]) -> float:
    """The part of the edge's mean stages in which it computes nothing."""
    return sum(stages_ms.get(stage, 0.0) for stage in _WAITS)


def of_machine(energy: Iterable[FrameEnergy], role: str) -> FrameEnergy | None:
    """The energy of a frame on one machine: the sum of its zones that do not contain each other.

    None without such zones, or if one of them could not be measured.
    """
    parts = [one for one in energy if one.role == role and one.machine]
    joules = [one.joules_per_frame for one in parts if one.joules_per_frame is not None]
    if not parts or len(joules) < len(parts):
        return None
    watts = [one.watts for one in parts if one.watts is not None]
    return parts[0].model_copy(
        update={
            "component": "system",
            "zone": ", ".join(one.zone for one in parts),
            "source": ", ".join(dict.fromkeys(one.source for one in parts)),
            "kind": max((one.kind for one in parts), key=list(Kind).index),
            "joules_per_frame": sum(joules),
            "watts": sum(watts) if len(watts) == len(parts) else None,
        }
    )


def _zone(one: EnergyWindow) -> Zone:
    return Zone(one.component, one.zone, one.source, one.kind, one.resolution_seconds)


def _order(role: str, zone: Zone) -> tuple[bool, str, str, str]:
    return role == SERVER, zone.component, zone.source, zone.zone


def _together(windows: Sequence[EnergyWindow], *, machine: bool) -> FrameEnergy:
    """The windows of one zone as one; those that could not be measured are left out."""
    good = [one for one in windows if one.joules is not None and one.frames]
    kept = good or windows
    frames, seconds = sum(one.frames for one in kept), sum(one.seconds for one in kept)
    joules = sum(one.joules or 0.0 for one in good) if good else None
    first = windows[0]
    return FrameEnergy(
        role=first.role,
        component=first.component,
        zone=first.zone,
        source=first.source,
        kind=first.kind,
        joules_per_frame=None if joules is None else joules / frames,
        watts=None if joules is None else joules / seconds,
        frames=frames,
        seconds=seconds,
        resolution_seconds=first.resolution_seconds,
        readings_per_second=sum(w.readings_per_second * w.seconds for w in kept) / seconds,
        machine=machine,
        note="" if good else (first.note or "no frame ran in the window"),
    )


def _modelled(component: str, zone: str, joules: float, *, machine: bool) -> FrameEnergy:
    return FrameEnergy(
        role=Role.EDGE,
        component=component,
        zone=zone,
        source=DECLARED,
        kind=Kind.MODELLED,
        joules_per_frame=joules,
        watts=None,
        frames=0,
        seconds=None,
        resolution_seconds=None,
        readings_per_second=None,
        machine=machine,
    )
