"""The shipped examples of extensions in pods, by both ways of docs/extending.md."""

import hashlib
import io
import json
import os
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from splittracr_operator import client
from tests.cli.processes import ROOT
from tests.cli.test_extending import CONFIGS, installed
from tests.e2e.cluster import TOOL, Study, each_once, kubectl, run, start
from tests.e2e.helm import IMAGES

OWN = "/opt/own"
WATTS = 2.5
SAMPLES = 12

SHAPES: dict[str, Any] = {
    "model": {"name": "custom_study:ShapesNet", "weights": "none", "args": {"width": 8}},
    "dataset": {"source": "Class", "class": "custom_study:Shapes", "args": {"count": SAMPLES}},
    "postprocess": {"name": "custom_study:Margin"},
    "partition": {"cut": 4},
    "transport": {"codec": "acme.planes"},
    "results": {"pictures": 0},
}
"""A model, a data set, a post-processor and a codec of one's own."""


def clips() -> dict[str, Any]:
    """A data set and a transform of one's own; a policy of one's own keeps them on the edge."""
    spec: dict[str, Any] = yaml.safe_load((CONFIGS / "clips.yaml").read_text())["spec"]
    spec["model"]["input"]["shape"] = [4, 3, 32, 32]
    spec["dataset"]["args"] = {"count": 4, "frames": 4, "size": 32}
    return spec | {
        "partition": {"mode": "Adaptive", "adaptive": {"policy": "policy_study:Cautious"}},
        "transport": {
            "link": {"uplinkKilobitsPerSecond": 500, "downlinkKilobitsPerSecond": 50_000}
        },
        "results": {"pictures": 0},
    }


def in_pods(spec: dict[str, Any], pod: dict[str, Any], **edge: str) -> dict[str, Any]:
    """The study with `pod` at both ends, and variables of the edge's container."""
    variables = [{"name": name, "value": value} for name, value in edge.items()]
    on_edge = {**pod, "env": [*pod.get("env", []), *variables]}
    return {
        **spec,
        "edge": {"device": "cpu", "pod": on_edge},
        "server": {"device": "cpu", "pod": pod},
    }


def config_map(namespace: str, folder: Path) -> dict[str, Any]:
    """Make a ConfigMap of all examples; how a pod has it."""
    installed(folder)
    for name in ("custom_study.py", "clips_study.py", "policy_study.py"):
        (folder / name).write_text((CONFIGS / name).read_text())
    (folder / "watts").write_text(str(WATTS))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    options = [f"--from-file={path}" for path in files]
    kubectl("-n", namespace, "create", "configmap", "own", *options)
    items = [{"key": path.name, "path": str(path.relative_to(folder))} for path in files]
    return {
        "env": [{"name": "PYTHONPATH", "value": OWN}],
        "volumes": [{"name": "own", "configMap": {"name": "own", "items": items}}],
        "volumeMounts": [{"name": "own", "mountPath": OWN, "readOnly": True}],
    }


def built(folder: Path) -> str:
    """The image that the page's Dockerfile makes of the examples."""
    page = (ROOT / "docs" / "extending.md").read_text()
    (text,) = re.findall(r"^```dockerfile\n(.*?)^```", page, re.S | re.M)
    text = re.sub(r"^FROM .*", f"FROM {os.environ[IMAGES['edge']]}", text)
    (folder / "Dockerfile").write_text(text)
    sources = {"my_study.py": "custom_study.py"}
    sources |= {f"acme/{one.name}": f"acme/{one.name}" for one in (CONFIGS / "acme").glob("*.*")}
    digest = hashlib.sha256(text.encode())
    for name, source in sources.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content := (CONFIGS / source).read_bytes())
        digest.update(content)
    tag = f"splittracr-own:{digest.hexdigest()[:16]}"
    made = run(
        *(os.environ[TOOL], "image", tag, "-f", str(folder / "Dockerfile"), str(folder)),
        seconds=200,
    )
    return made.split()[-1]


def succeeded(study: Study) -> dict[str, Any]:
    status = study.wait_for("Succeeded", "Failed", seconds=240)
    assert status["state"] == "Succeeded", status
    return status


def shapes_by_planes(study: Study) -> None:
    """All samples went through own code: labels, predictions of the post-processor, codec."""
    records = study.records()
    each_once(records, SAMPLES)
    assert {record["codec"] for record in records} == {"acme.planes"}
    assert [r["label"] for r in sorted(records, key=lambda r: r["sample"])] == [0, 1, 2] * 4
    for record in records:
        (prediction,) = record["prediction"]
        assert prediction["label"] in ("circle", "square", "triangle")
        assert 0 <= prediction["score"] <= 1


def environment_of(study: Study) -> dict[str, Any]:
    archive = client.archives(study.namespace, study.name)["edge-0"]
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as opened:
        file = opened.extractfile("environment.json")
        assert file is not None
        found: dict[str, Any] = json.load(file)
    return found


def test_examples_of_a_config_map(namespace: str, tmp_path: Path) -> None:
    pod = config_map(namespace, tmp_path)
    shapes = start(namespace, "shapes", in_pods(SHAPES, pod, ACME_METER=f"{OWN}/watts"))
    decided = start(namespace, "clips", in_pods(clips(), pod))

    status = succeeded(shapes)
    shapes_by_planes(shapes)
    assert status["traffic"]["edgeEnergyMillijoules"] > 0
    windows = [one for one in environment_of(shapes)["energy"] if one["source"] == "acme"]
    (idle,) = [one for one in windows if one["of"] == "idle"]
    assert (idle["role"], idle["component"], idle["kind"]) == ("edge", "system", "measured")
    assert idle["joules"] / idle["seconds"] == pytest.approx(WATTS, rel=0.05)

    succeeded(decided)
    records = decided.records()
    each_once(records, 4)
    assert {(r["cut"], r["reason"]) for r in records} == {("output", "fixed")}
    assert {r["label"] for r in records} == set(range(4))


def test_examples_of_an_image(namespace: str, tmp_path: Path) -> None:
    if TOOL not in os.environ:
        pytest.skip(f"no image: {TOOL} names no command that builds one")
    spec = json.loads(json.dumps(SHAPES).replace("custom_study:", "my_study:"))
    study = start(namespace, "imaged", in_pods(spec, {"image": built(tmp_path)}))
    succeeded(study)
    shapes_by_planes(study)
