"""The operations of the network at both ends, as one flat table."""

from collections.abc import Sequence

from pydantic import Field

from splittracr.experiment.contracts import EDGE, Role
from splittracr.experiment.energy import Kind
from splittracr.experiment.types import SHARE, Operation, Versioned
from splittracr.planning.cost import millijoules_per_byte
from splittracr.results.energy import of_machine
from splittracr.results.environment import EndTimes, Environment
from splittracr.results.summary import CutFigures, Summary

FILE = "layers"
"""The files' name in a results folder, without its ending."""


class Layer(Versioned):
    """One operation of the model at one end, in the order in which they run.

    Times are of a frame, from the proof at start-up and the warm-up: no pass is added for them.
    They cover all operations at each end, also those that no cut runs there.
    """

    uid: str = Field(description="Uid of the study.")
    role: Role = Field(description="The end.")
    edge: str = Field(description="Name of the edge; for a server the one that asked it.")
    index: int = Field(description="Position, from 0; the cut behind it has index + 1.")
    operation: str = Field(description="Its name, which is that of the cut behind it.")
    module: str = Field(description="Path of the module; empty for the model itself.")
    type: str = Field(description="Class of the module, or name of the function.")
    mean_ms: float = Field(
        description="Mean time without waiting for a core, slowed down where the edge is."
    )
    p95_ms: float = Field(description="95th percentile; below 20 readings close to the largest.")
    readings: int = Field(description="Times that it was measured.")
    share: float | None = Field(
        description="Its share of the time of all operations.", json_schema_extra=SHARE
    )
    emulated: bool = Field(description="The edge was slowed down on purpose.")
    shape: str = Field(description="Of each tensor that it makes, such as `1x64x56x56`.")
    bytes: int = Field(description="Size of these tensors.")
    parameters: int = Field(
        description="Elements of the parameters that it uses; shared ones count at each operation."
    )
    flops: int | None = Field(
        description="Floating-point operations of a frame, two for a multiplication with an "
        "addition; empty if they cannot be counted."
    )
    energy_joules: float | None = Field(
        description="Energy of a frame times the operation's share of its latency, at the cut with "
        "the most operations at this end; empty without energy."
    )
    link_joules: float | None = Field(
        description="Energy of sending the live tensors behind it, uncoded, by the declared energy "
        "of a bit; empty at a server and if none is declared."
    )
    energy_kind: Kind | None = Field(
        description="Always `modelled`: no sensor sees one operation. Empty without energy."
    )


def layers(environment: Environment, figures: Summary) -> list[Layer]:
    """One row an operation and end; none if the operations' times are not known."""
    slowdown = environment.manifest.spec.edge.slowdown_percent / 100
    made = []
    sent = _link_joules(environment)
    for end in _ends(environment.operation_times):
        slowed = slowdown if end.role == EDGE else 1.0
        watts = _watts(figures.cuts, end.role)
        total = sum(one.mean_ms for one in end.operations)
        pairs = zip(environment.operations, end.operations, strict=True)
        for index, (operation, time) in enumerate(pairs):
            own = {
                "uid": environment.uid,
                "role": end.role,
                "edge": end.edge,
                "index": index,
                "emulated": slowed > 1,
                "share": time.mean_ms / total if total else None,
                "mean_ms": time.mean_ms * slowed,
                "p95_ms": time.p95_ms * slowed,
                "readings": time.readings,
                "energy_joules": None if watts is None else watts * time.mean_ms * slowed / 1e3,
                "link_joules": sent[index + 1] if sent and end.role == EDGE else None,
                "energy_kind": None if watts is None and not sent else Kind.MODELLED,
            }
            made.append(Layer.model_validate(own | _described(operation)))
    return made


def _described(operation: Operation) -> dict[str, object]:
    """The columns that do not depend on the machine."""
    return {
        "operation": operation.name,
        "module": operation.module,
        "type": operation.type,
        "shape": shape(operation),
        "bytes": operation.bytes,
        "parameters": operation.parameters,
        "flops": operation.flops,
    }


def shape(operation: Operation) -> str:
    """`1x64x56x56`, several joined by `, `; empty if it makes no tensor."""
    return ", ".join("x".join(map(str, one)) for one in operation.shapes)


def _link_joules(environment: Environment) -> list[float]:
    """Energy of sending the live tensors at each cut; empty if a bit's energy is not declared."""
    declared = environment.manifest.spec.declared_power
    if declared is None or declared.nanojoules_per_bit is None:
        return []
    joules_per_byte = millijoules_per_byte(declared.nanojoules_per_bit) / 1e3
    return [cut.bytes * joules_per_byte for cut in environment.cuts]


def _ends(times: Sequence[EndTimes]) -> list[EndTimes]:
    """Each edge, and the server as the edge knew it that asked after the most passes."""
    edges = [one for one in times if one.role == EDGE]
    servers = [one for one in times if one.role != EDGE]
    return [*edges, *sorted(servers, key=_readings)[-1:]]


def _readings(end: EndTimes) -> int:
    return sum(one.readings for one in end.operations)


def _watts(cuts: Sequence[CutFigures], role: Role) -> float | None:
    """Joules of a frame over its latency, at the cut with the most operations at this end."""
    for cut in sorted(cuts, key=lambda cut: cut.index, reverse=role == EDGE):
        drawn = of_machine(cut.energy, role)
        if drawn is not None and drawn.joules_per_frame is not None and cut.total_ms is not None:
            return drawn.joules_per_frame / cut.total_ms.mean * 1e3
    return None


def slowest(rows: Sequence[Layer], count: int) -> list[Layer]:
    """The operations that take the most time, the slowest first."""
    return sorted(rows, key=lambda row: (-row.mean_ms, row.index))[:count]
