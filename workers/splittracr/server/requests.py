"""Passes requests to the engine, and its replies to the edges."""

import asyncio
import contextlib
from collections.abc import Sequence

from splittracr.experiment.errors import ProtocolError
from splittracr.experiment.spec import TransportSpec
from splittracr.measure.metrics import ServerMetrics
from splittracr.server.connections import Connection, Connections
from splittracr.server.engine import CANCELLED, Engine
from splittracr.server.job import Job, Outcome
from splittracr.transport.frames import Arrival
from splittracr.wire.codec import EncodedPayload
from splittracr.wire.messages import MAX_HEADER, Failure, Request, encode
from splittracr.wire.session import Parts

WINDOW = 64
"""Requests that an edge may have in flight. Twice as many are a fault, or an attack on memory; an
edge can be a little ahead, as a reply arrives before its sending has ended."""

_LIMIT = "spec.transport.maxMessageMebibytes"


class RequestHandler:
    """Requests of all connections. `operations` is how many the model has."""

    def __init__(
        self,
        engine: Engine,
        connections: Connections,
        transport: TransportSpec,
        metrics: ServerMetrics,
        operations: int,
    ) -> None:
        self._engine = engine
        self._connections = connections
        self._transport = transport
        self._metrics = metrics
        self._operations = operations

    def check(self, connection: Connection, payload: EncodedPayload) -> None:
        """Raise ProtocolError if the edge has more requests or more bytes in flight than
        allowed.
        """
        if payload.nbytes > self._transport.max_message_bytes:
            raise ProtocolError(
                f"a payload of {payload.nbytes} bytes; {_LIMIT} is "
                f"{self._transport.max_message_mebibytes}"
            )
        if len(connection.in_flight) >= 2 * WINDOW:
            raise ProtocolError(f"more than {2 * WINDOW} requests without a reply")

    def take(
        self, connection: Connection, request: Request, payload: EncodedPayload, arrival: Arrival
    ) -> None:
        """Hand a request to the engine; send its reply when it is ready."""
        self._connections.accepted(connection, request.id, arrival.size_on_wire)
        job = self._job(connection, request, payload, arrival)
        if connection.is_cancelled(request.id):
            job.fail(CANCELLED, "cancelled")
        else:
            self._engine.submit(job)

    def cancel(self, connection: Connection, ids: Sequence[int]) -> None:
        """Cancel requests that have arrived, and note the ids of others."""
        self._engine.cancel(connection.number, ids)
        connection.cancel(ids)

    def _job(
        self, connection: Connection, request: Request, payload: EncodedPayload, arrival: Arrival
    ) -> Job:
        loop = asyncio.get_running_loop()

        def done(job: Job, parts: Parts, outcome: Outcome) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the server has ended
                loop.call_soon_threadsafe(self._deliver, connection, job, parts, outcome)

        return Job(
            edge=connection.number,
            request=request,
            payload=payload,
            arrived=arrival.last,
            receiving_ms=arrival.receiving_ms,
            done=done,
        )

    def _deliver(self, connection: Connection, job: Job, parts: Parts, outcome: Outcome) -> None:
        size = sum(len(part) for part in parts)
        if size > self._transport.max_message_bytes + MAX_HEADER:
            reason = f"the reply of {size} bytes is more than {_LIMIT} allows"
            outcome, parts = "failed", encode(Failure(id=job.request.id, reason=reason))
        self._reply(connection, job.request.id, parts)
        self._metrics.answered(outcome, job.stages)
        if outcome == "ok":
            self._metrics.operations(self._operations - job.request.cut)

    def _reply(self, connection: Connection, number: int, parts: Parts) -> None:
        sending = None
        with contextlib.suppress(ConnectionError):  # the edge is gone
            sending = connection.channel.begin(parts)
        if sending is None:
            self._connections.replied(connection, number)
        else:
            sending.add_done_callback(lambda _: self._connections.replied(connection, number))
