"""Room for the sessions of a study's cuts."""

import contextlib

from splittracr.backends.protocol import Backend, Part
from splittracr.experiment.errors import CutRefused, InvalidInput
from splittracr.experiment.spec import ExperimentSpec, Mode
from splittracr.planning.schedule import chosen


def check_room(own: Backend, spec: ExperimentSpec, side: str) -> None:
    """Raise InvalidInput unless the sessions of a sweep fit in `sessionMebibytes` together.

    The cuts of a sweep take turns, so that a session would be made again for most frames, and
    their times would contain that.
    """
    if spec.partition.mode is not Mode.SWEEP:
        return
    named = []
    for reference in spec.partition.cuts:
        with contextlib.suppress(CutRefused):  # the edge names it
            named.append(own.cut(reference).index)
    offered = list(own.proof.offered().values())
    cuts = chosen(spec.partition, offered, named, own.proof.last)
    part: Part = "head" if side == "edge" else "tail"
    worker = spec.edge if side == "edge" else spec.server
    mebibytes = -(-own.session_bytes(part, cuts) // 2**20)
    if mebibytes > worker.session_mebibytes:
        raise InvalidInput(
            f"spec.{side}.sessionMebibytes",
            worker.session_mebibytes,
            f"{mebibytes} or more, for {len(cuts)} cuts of {own.network.name}; or fewer cuts",
        )
