"""Whether the sessions of a sweep fit in memory."""

import contextlib
from collections.abc import Sequence

from splittracr.backends.protocol import Backend, Part
from splittracr.experiment.errors import CutRefused, InvalidInput
from splittracr.experiment.spec import ExperimentSpec, Mode, PartitionSpec
from splittracr.planning.schedule import chosen


def check_session_memory(
    own: Backend, spec: ExperimentSpec, side: str, cuts: Sequence[int]
) -> None:
    """Raise InvalidInput unless the sessions of a sweep over `cuts` fit in `sessionMebibytes`.

    A sweep changes the cut at each frame. If sessions do not fit together, most frames would make
    one again, and their times would contain that.
    """
    if spec.partition.mode is not Mode.SWEEP:
        return
    part: Part = "head" if side == "edge" else "tail"
    worker = spec.edge if side == "edge" else spec.server
    mebibytes = -(-own.session_bytes(part, cuts) // 2**20)
    if mebibytes > worker.session_mebibytes:
        raise InvalidInput(
            f"spec.{side}.sessionMebibytes",
            worker.session_mebibytes,
            f"{mebibytes} or more, for {len(cuts)} cuts of {own.network.name}; or fewer cuts",
        )


def sweep_cuts(own: Backend, partition: PartitionSpec) -> list[int]:
    """The cuts of a sweep that this end offers. The edge names unknown and refused ones."""
    offered = own.proof.offered()
    named = []
    for reference in partition.cuts:
        with contextlib.suppress(CutRefused, InvalidInput):
            named.append(own.cut(reference).index)
    if not named and (partition.cuts or not offered):
        return []
    return chosen(partition, list(offered.values()), named, own.proof.last)
