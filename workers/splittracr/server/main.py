"""The server worker as a process."""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from splittracr import process
from splittracr.backends import measuring
from splittracr.backends.protocol import Backend, Runtime
from splittracr.backends.session_memory import check_session_memory, sweep_cuts
from splittracr.experiment.contracts import METRICS_PATH
from splittracr.experiment.spec import ExperimentSpec, Mode, SplitExperiment
from splittracr.measure.health import add_health, add_metrics
from splittracr.measure.health import serve as serve_health
from splittracr.measure.instruments import instruments
from splittracr.measure.metrics import ServerMetrics
from splittracr.planning.emulation import Direction
from splittracr.server.export import ModelExport
from splittracr.server.listener import is_loopback, url
from splittracr.server.reception import Reception
from splittracr.server.worker import Server
from splittracr.transport.emulate import sender_conditions
from splittracr.wire import registry

log = logging.getLogger(__name__)


async def serve(
    experiment: SplitExperiment,
    runtime: Runtime,
    base: Path,
    token: str | None,
    tls: ssl.SSLContext | None,
    listener: socket.socket,
    stop: asyncio.Event,
    reception: Reception | None = None,
) -> None:
    """Prove the model, then serve on a bound socket until `stop` is set.

    Until the proof is done connections are refused, and edges retry. Health and metrics are served
    on a separate port from the start. With a `reception` edges may join. Raises InvalidInput for a
    codec that is missing.
    """
    metrics = ServerMetrics(experiment.metadata, max_edges=experiment.spec.server.max_edges)
    runner = await _serve_health(experiment, metrics)
    try:
        await _serve(experiment, runtime, base, token, tls, listener, stop, metrics, reception)
    finally:
        await runner.cleanup()


async def _serve_health(experiment: SplitExperiment, metrics: ServerMetrics) -> web.AppRunner:
    app, server = web.Application(), experiment.spec.server
    add_health(app)
    add_metrics(app, metrics.exposition)
    field = "spec.server.metricsPort"
    runner, url = await serve_health(app, server.host, server.metrics_port, field)
    process.emit("metrics", url=f"{url}{METRICS_PATH}")
    return runner


async def _serve(
    experiment: SplitExperiment,
    runtime: Runtime,
    base: Path,
    token: str | None,
    tls: ssl.SSLContext | None,
    listener: socket.socket,
    stop: asyncio.Event,
    metrics: ServerMetrics,
    reception: Reception | None,
) -> None:
    spec = experiment.spec
    registry.used(spec)
    certificates = tls is not None and tls.verify_mode is not ssl.CERT_NONE
    if not token and not certificates and not is_loopback(listener):
        log.warning("no token is set: every edge that reaches this machine is served")
    downlink = sender_conditions(spec.transport.link, Direction.DOWN, base)
    own = await process.unless(stop, process.in_thread(_built, runtime, spec, base))
    metrics.loaded(own.network.name, own.identity.fingerprint, own.identity.weights, own.device)
    with instruments(spec.results, own.device) as sensors:
        metrics.energy(sensors.energy.joules)
        metrics.machine(sensors.latest, sensors.energy.watts)
        profile = None
        if spec.partition.mode is Mode.ADAPTIVE:
            batches = measuring.frames(own, 2)
            measured = process.in_thread(measuring.measured, own, spec, batches)
            profile = await process.unless(stop, measured)
        if spec.server.max_batch > 1 and spec.results.outputs == "Raw":
            log.warning("spec.server.maxBatch has no effect: spec.results.outputs is Raw")
        server = Server(
            own,
            spec,
            token,
            downlink,
            certificates=certificates,
            profile=profile,
            metrics=metrics,
            instruments=sensors,
            export=partial(ModelExport, experiment, base),
        )
        app = server.app()
        if reception is not None:
            reception.add_routes(app)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.SockSite(runner, listener, ssl_context=tls)
        await site.start()
        process.emit("serving", url=url(listener, tls=tls is not None), device=str(own.device))
        with without_tracebacks_of_bad_requests():
            await stop.wait()
        await site.stop()
        await server.drain()
        await runner.cleanup()


def _built(runtime: Runtime, spec: ExperimentSpec, base: Path) -> Backend:
    """The network at this end. Raises InvalidInput."""
    own = runtime.build(spec, "server", base)
    check_session_memory(own, spec, "server", sweep_cuts(own, spec.partition))
    return own


@contextlib.contextmanager
def without_tracebacks_of_bad_requests() -> Iterator[None]:
    """Log a request that is not HTTP as one warning, without a traceback."""
    log = logging.getLogger("aiohttp.server")
    log.addFilter(_in_one_line)
    try:
        yield
    finally:
        log.removeFilter(_in_one_line)


def _in_one_line(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError):
        record.exc_info, record.args = None, ()
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        record.msg = f"refused a request that is not HTTP: {' '.join(str(error).split())[:200]}"
    return True
