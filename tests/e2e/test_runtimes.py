"""Studies in ONNX Runtime: in the image with PyTorch, and in the one without it.

SPLITTRACR_EDGE_LITE_IMAGE names the latter. The other two need ONNX Runtime beside PyTorch.
"""

import os
import re
import time
from pathlib import Path
from typing import Any

import pytest

from splittracr.experiment.contracts import Runtime
from splittracr.results.archive import unpack
from splittracr.results.environment import Environment, read_environment
from splittracr_operator import client
from tests.e2e.cluster import Failed, Study, each_once, fault, kubectl, paced, small, start, until
from tests.e2e.helm import IMAGES, LITE
from tests.e2e.test_faults import restarts

ONNX = {"device": "cpu", "runtime": "OnnxRuntime"}
SAMPLES, PER_MINUTE = 600, 900
"""40 s of work, so that both ends are killed in the middle of it."""

LINK = "2mbit"
"""Rate at which the weights of the model, 4.9 MB, take 20 s."""

SILENCE_SECONDS = 20
"""Longer than an edge waits for the next byte of the model."""

MODELS = "~/.cache/splittracr/models/*"
"""Folders of models in a container of an edge, for its shell."""


@pytest.fixture
def lite(operator: None) -> str:
    """The image without PyTorch."""
    if LITE not in os.environ:
        pytest.skip(f"no image without PyTorch: {LITE} names none")
    return os.environ[LITE]


def onnx(samples: int, cut: object, **more: Any) -> dict[str, Any]:
    """A small study whose edge computes in ONNX Runtime."""
    spec = small(samples, cut, **{"edge": ONNX, **more})
    return {**spec, "model": {**spec["model"], "exactness": "Bounded"}}


def finish(study: Study) -> None:
    status = study.wait_for("Succeeded", "Failed", seconds=300)
    assert status["state"] == "Succeeded", status


def images(study: Study) -> list[str]:
    """Images of the edge's pod."""
    return [c["image"] for pod in study.pods("edge") for c in pod["spec"]["containers"]]


def environment(study: Study, folder: Path) -> Environment:
    """What the edge recorded of both machines; `folder` takes its results."""
    unpack(client.archives(study.namespace, study.name)["edge-0"], folder)
    return read_environment(folder)


def test_studies_with_and_without_torch_at_the_edge(
    namespace: str, lite: str, tmp_path: Path
) -> None:
    """A sweep and an adaptive study without it, and an adaptive one with it at both ends."""
    full = os.environ[IMAGES["edge"]]
    sweep, adaptive = {"mode": "Sweep", "maxCuts": 8}, {"mode": "Adaptive"}
    beside = {"edge": {**ONNX, "pod": {"image": full}}, "server": ONNX}
    swept = start(namespace, "swept", onnx(10, None, partition=sweep))
    light = start(namespace, "light", onnx(200, None, partition=adaptive))
    heavy = start(namespace, "heavy", onnx(200, None, partition=adaptive, **beside))
    for study in (swept, light, heavy):
        finish(study)

    records = swept.records()
    assert len({(r["cut"], r["sample"]) for r in records}) == len(records) == 80
    assert {r["outcome"] for r in records} == {"ok"}
    assert len({r["cut"] for r in records}) == 8
    for study in (light, heavy):
        records = study.records()
        each_once(records, 200)
        assert all(record["predicted_ms"] > 0 for record in records)

    for study, image, server, packages in (
        (swept, lite, Runtime.TORCH, {"onnxruntime"}),
        (light, lite, Runtime.TORCH, {"onnxruntime"}),
        (heavy, full, Runtime.ONNX_RUNTIME, {"onnxruntime", "torch"}),
    ):
        assert images(study) == [image]
        found = environment(study, tmp_path / study.name)
        assert found.server is not None
        assert (found.edge.runtime, found.server.runtime) == (Runtime.ONNX_RUNTIME, server)
        assert {"onnxruntime", "torch"} & found.edge.versions.keys() == packages
        assert "torch" in found.server.versions


@pytest.mark.usefixtures("faults")
def test_the_hand_over_goes_on_and_kills_lose_nothing(namespace: str, lite: str) -> None:
    """The link breaks while the model is handed over; then server and edge are killed."""
    fault("rate", "gpu-1", LINK)
    try:
        study = start(namespace, "light", onnx(SAMPLES, 8, workload=paced(SAMPLES, PER_MINUTE)))
        have = until("a part of the model", lambda: arrived(study), 240)
        fault("cut", "gpu-1")
        try:
            time.sleep(SILENCE_SECONDS)  # the fault itself
        finally:
            fault("heal", "gpu-1")
    finally:
        fault("rate", "gpu-1", "off")
    study.wait_done(20, 180)
    log = kubectl("-n", namespace, "logs", "job/light-edge")
    resumed = re.findall(r"going on with weights\.bin\.part at byte (\d+) of (\d+)", log)
    assert resumed, log
    assert have <= int(resumed[0][0]) < int(resumed[0][1])

    with pytest.raises(Failed, match="No module named 'torch'"):
        inside(study, "python3 -c 'import torch'")
    kept = model_files(study)
    assert len(kept) == 3
    assert fault("pods-kill", "gpu-1", namespace, "light-server").strip() == "1"
    until("the server started again", lambda: restarts(study, "server") == 1, 60)
    assert fault("pods-kill", "edge-1", namespace, "light-edge").strip() == "1"
    until("the edge started again", lambda: restarts(study, "edge") == 1, 60)
    study.wait_done(study.done() + 20, 180)
    assert model_files(study) == kept, "the model was fetched again"
    finish(study)
    records = study.records()
    each_once(records, SAMPLES)
    assert {r["finished_on"] for r in records} == {"server"}
    assert images(study) == [lite]
    assert restarts(study, "edge") == 1, "not by the broken link, once by the kill"


def inside(study: Study, command: str) -> str:
    """What a shell command prints in the edge's container. Raises Failed."""
    job = f"job/{study.name}-edge"
    return kubectl("-n", study.namespace, "exec", job, "--", "sh", "-c", command)


def arrived(study: Study) -> int | None:
    """Bytes of the weights in the edge's cache, once some are there."""
    size = int(inside(study, f"stat -c %s {MODELS}/weights.bin.part"))
    return size if size > 0 else None


def model_files(study: Study) -> list[str]:
    """Path, inode and time of each file of a model; another download changes them."""
    command = f"stat -c '%n %i %y' {MODELS}/*.onnx {MODELS}/*.bin"
    return sorted(inside(study, command).splitlines())
