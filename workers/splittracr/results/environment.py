"""`environment.json`: machines, versions and cuts of a study. The workers fill it in."""

from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, Field

from splittracr.experiment.contracts import Role, Runtime
from splittracr.experiment.energy import EnergyWindow, MachineUsage
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.marks import DEFINES, marked
from splittracr.experiment.spec import ExperimentSpec, SplitExperiment
from splittracr.experiment.types import (
    Cut,
    Frozen,
    Operation,
    OperationTime,
    Versioned,
    renamed,
)
from splittracr.experiment.versions import parse
from splittracr.results.files import write_atomically
from splittracr.results.summary import Agreement

FILE = "environment.json"
"""The file's name in a results folder."""


class End(Frozen):
    """One of the two machines, as its worker saw it."""

    hostname: str = Field(description="Name of the machine.")
    processor: str = Field(description="Name of the processor, as the system reports it.")
    cores: int = Field(description="Logical cores that the worker may use.")
    threads: int = Field(description="Threads of one operation.")
    runtime: Runtime = Field(
        default=Runtime.TORCH, description="What computes the operations of this end."
    )
    device: str = Field(description="Where tensors live, such as `cpu` or `cuda:0`.")
    capability: str = Field(
        description="Instruction set or compute capability in use; the last bits depend on it."
    )
    graph_fingerprint: str = Field(description="Digest of the captured graph.")
    weights_digest: str = Field(description="Digest of the parameters and buffers.")
    versions: dict[str, str] = Field(
        description="Version by name: python, torch, torchvision, splittracr and so on."
    )
    classes_cached_at: AwareDatetime | None = Field(
        default=None,
        description="When the classes of the cuts were measured, if this end took them from its "
        "cache; null if it measured them at this start, or has none to measure.",
    )


class EndTimes(Frozen):
    """Times of the operations at one end: busy time of its own machine, not slowed down."""

    role: Role = Field(description="The end.")
    edge: str = Field(description="The edge that measured it, or asked its server.")
    operations: tuple[OperationTime, ...] = Field(description="One entry an operation, in order.")


class Run(Frozen):
    """The records that an edge is to make."""

    edge: str = Field(description="Name of the edge.")
    samples: int = Field(description="Records that it is to make in all.")
    started_at: tuple[AwareDatetime, ...] = Field(
        description="When it started: once, and once more for each time that it continued."
    )


class Environment(Versioned):
    """Machines, versions and cuts of the study."""

    uid: str = Field(description="The study's uid; figures cover the records that carry it.")
    manifest: SplitExperiment = Field(description="The manifest with every default resolved.")
    weights: str = Field(
        description="The weights that were loaded; begins with `none` if they are random."
    )
    preparation: str | None = Field(
        default=None,
        description="How a picture becomes the model's input, in words; null if not known.",
    )
    link: str = Field(default="as it is", description="The link between the two ends, in words.")
    emulated: str | None = Field(
        default=None, description="What was emulated, in words; null if nothing was."
    )
    edge: End = Field(description="The edge.")
    server: End | None = Field(default=None, description="The server; null if none took part.")
    cuts: tuple[Cut, ...] = Field(description="Every cut of the model, by index.")
    refused: dict[str, str] = Field(
        default_factory=dict,
        description="Reason by name of the cuts that an end refuses: not proven exact, or below "
        "`spec.model.exactness`.",
    )
    operations: tuple[Operation, ...] = Field(
        default=(), description="Every operation of the model; the cut behind it has index + 1."
    )
    operation_times: tuple[EndTimes, ...] = Field(
        default=(), description="By end, from the proof and the warm-up; measured at the end."
    )
    agreement: tuple[Agreement, ...] = Field(
        default=(), description="By cut, if a lossy codec was used; measured at the end."
    )
    energy: tuple[EnergyWindow, ...] = Field(
        default=(), description="Windows of energy, by zone; empty without sensors."
    )
    energy_problems: tuple[str, ...] = Field(
        default=(), description="Why sensors that the edge seems to have were not read."
    )
    usage: tuple[MachineUsage, ...] = Field(
        default=(), description="How busy the machines were; measured at the end."
    )
    started_at: AwareDatetime = Field(description="When the study started.")
    link_began_at: tuple[AwareDatetime, ...] = Field(
        default=(),
        description="When the emulated link began, once for each start of the edge: it restarts "
        "with it. Empty if none is emulated.",
    )
    runs: tuple[Run, ...] = Field(
        default=(), description="The records that each edge is to make; empty if it was not noted."
    )
    finished_at: AwareDatetime | None = Field(
        default=None, description="Null while the study runs, and if it was broken off."
    )

    @classmethod
    def upgraded(cls, content: dict[str, Any]) -> dict[str, Any]:
        """Content of the version before, with the keys of this one."""
        return renamed(content, ())

    @property
    def one_machine(self) -> bool:
        """Whether both ends ran on one machine, by its name."""
        return self.server is not None and self.server.hostname == self.edge.hostname

    @property
    def random_weights(self) -> bool:
        """Whether the weights are random, so that predictions mean nothing."""
        return self.weights.startswith("none")


def write_environment(out: Path, environment: Environment) -> None:
    """Write `environment.json` into the results folder `out`."""
    text = environment.model_dump_json(by_alias=True, indent=2)
    write_atomically(out / FILE, text.encode() + b"\n")


def read_environment(out: Path) -> Environment:
    """The environment of the results folder `out`.

    Raises InvalidInput if the file is missing or has other content.
    """
    path = out / FILE
    try:
        text = path.read_bytes()
    except FileNotFoundError as error:
        raise InvalidInput("results folder", str(out), f"to contain {FILE}") from error
    return parse(Environment, text, str(path), "an environment")


def continued(environment: Environment, out: Path) -> Environment:
    """The environment of an edge that continues the study in `out`.

    It keeps the start, the starts of the emulated link, and the agreement and energy that were
    measured before. An environment of another uid is not used.

    Raises InvalidInput if the manifests differ in fields that define records, or if `out` has no
    environment.
    """
    before = read_environment(out)
    if before.uid != environment.uid:
        return environment
    for field, now, then in _changes(environment.manifest, before.manifest):
        expected = f"{then!r}, with which the study in {out} began"
        raise InvalidInput(f"spec.{field}", now, expected)
    return environment.model_copy(
        update={
            "started_at": before.started_at,
            "link_began_at": (*before.link_began_at, *environment.link_began_at),
            "agreement": before.agreement,
            "energy": before.energy,
            "runs": _continued(before.runs, environment.runs),
        }
    )


def _continued(before: tuple[Run, ...], now: tuple[Run, ...]) -> tuple[Run, ...]:
    """The runs, with the earlier starts of the same edges."""
    starts = {run.edge: run.started_at for run in before}
    return tuple(
        run.model_copy(update={"started_at": (*starts.get(run.edge, ()), *run.started_at)})
        for run in now
    )


def _changes(now: SplitExperiment, then: SplitExperiment) -> Iterator[tuple[str, Any, Any]]:
    """Differences of two manifests in fields that define records: the place below `spec`, and both
    values.
    """
    specs: list[Any] = [
        one.spec.model_dump(mode="json", by_alias=True, exclude_none=True) for one in (now, then)
    ]
    for path in marked(ExperimentSpec, DEFINES):
        place = ".".join(path)
        new, old = (reduce(_part, path, spec) for spec in specs)
        if isinstance(new, dict) and isinstance(old, dict):
            keys = (key for key in {**new, **old} if new.get(key) != old.get(key))
            yield from ((f"{place}.{key}", new.get(key), old.get(key)) for key in keys)
        elif new != old:
            yield place, new, old


def _part(mapping: Any, key: str) -> Any:
    """The value at `key`; None if it or the mapping is missing."""
    return None if mapping is None else mapping.get(key)
