"""A study's frames over a real link by a backend in numpy; `main` prints the results as JSON."""

import asyncio
import json

from aiohttp import web
from PIL import Image

from splittracr.data.contracts import Sample
from splittracr.edge import agreement
from splittracr.edge.describing import describe
from splittracr.edge.dial import Endpoint
from splittracr.edge.link import Link
from splittracr.edge.study import StudyRunner
from splittracr.experiment import manifest
from splittracr.experiment.codec import Codec
from splittracr.measure.metrics import EdgeMetrics, ServerMetrics
from splittracr.planning.decision import Scheduled
from splittracr.planning.schedule import order, trials
from splittracr.server.worker import Server
from splittracr.wire.messages import SESSION_PATH, Hello
from tests.backends.numpy_backend import NumpyBackend

FRAMES = 3


class Levels:
    """Pictures of one colour each."""

    classes = ("red", "green", "blue")

    def __len__(self) -> int:
        return FRAMES

    def name(self, index: int) -> str:
        return f"level-{index}"

    def load(self, index: int) -> Sample:
        colour = (10 * index, 51, 255 - index)
        return Sample(self.name(index), picture=Image.new("RGB", (8, 8), colour), label=2)


async def main() -> None:
    spec = {"model": {"name": "means"}, "partition": {"mode": "Sweep"}}
    experiment = manifest.from_object(
        {
            "apiVersion": "splittracr.io/v1alpha1",
            "kind": "SplitExperiment",
            "metadata": {"name": "numpy"},
            "spec": spec,
        }
    )
    of, edge, far = experiment.spec, NumpyBackend(), NumpyBackend()
    runner = web.AppRunner(
        Server(far, of, None, metrics=ServerMetrics(max_edges=of.server.max_edges)).app()
    )
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"ws://127.0.0.1:{runner.addresses[0][1]}{SESSION_PATH}"
    hello = Hello(uid="u", edge="edge-0", identity=edge.identity)
    made: dict[str, list[object]] = {}
    try:
        async with Link.open(
            Endpoint(url, None), hello, of.transport, of.partition.server_loss
        ) as link:
            metrics = EdgeMetrics()
            metrics.loaded("means", "sha256:a", "sha256:b", edge.device)
            study = StudyRunner(edge, of, Levels(), link, metrics, Scheduled(of, pictures=True))
            for cut in edge.proof.cuts:
                steps = order(trials([cut.index], 1), FRAMES, 0)
                async for done in study.run(steps, FRAMES, asyncio.Event()):
                    (record,) = study.records(done, "u", "edge-0")
                    assert record.error is None, record.error
                    found = [record.sample, record.finished_on, record.top1, record.prediction]
                    made.setdefault(cut.name, []).append(found)
            study.close()
            environment = describe(experiment, "u", edge, link, "edge-0", FRAMES)
            assert environment.server is not None
    finally:
        await runner.cleanup()
    (lossy,) = agreement.of_codecs(edge, Levels(), [(1, Codec.parse("uint8"))])
    print(json.dumps({"cuts": made, "device": environment.server.device, "top1": lossy.top1}))
