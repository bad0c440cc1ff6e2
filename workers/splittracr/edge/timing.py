"""How long the operations of the network take at both ends."""

import logging

from msgspec.structs import asdict

from splittracr.backends.protocol import Backend
from splittracr.edge.link import Link
from splittracr.experiment.contracts import Role
from splittracr.experiment.errors import ServerLost
from splittracr.experiment.types import OperationTime
from splittracr.results.environment import EndTimes

log = logging.getLogger(__name__)


async def operation_times(own: Backend, link: Link | None, edge: str) -> tuple[EndTimes, ...]:
    """Times of the operations at this edge and, if there is a session, at its server."""
    ends = {Role.EDGE: own.times()}
    if link is not None:
        try:
            timed = await link.operation_times()
        except ServerLost as error:
            log.warning("no times of the server's operations: %s", error)
        else:
            ends[Role.SERVER] = tuple(OperationTime(**asdict(one)) for one in timed.operations)
    return tuple(
        EndTimes(role=role, edge=edge, operations=operations)
        for role, operations in ends.items()
        if len(operations) == own.proof.last
    )
