"""A study of a network of timm or transformers, with and without PyTorch on the edge."""

from collections.abc import Callable
from pathlib import Path

import pytest

from splittracr.results import journal
from splittracr.results.environment import read_environment
from tests.cli.processes import splittracr
from tests.cli.test_lite_edge import edge, lite, serving
from tests.cli.test_runtimes import ONNX, TORCH, study
from tests.models.made_folders import save

__all__ = ["lite"]  # a fixture

SWEEP = {"partition": {"mode": "Sweep", "maxCuts": 3}}


def timm(_: Path) -> str:
    return "timm/test_convnext"


def transformers(folder: Path) -> str:
    size = {"height": 64, "width": 64}
    save(folder / "own", "vit", {"image_processor_type": "ViTImageProcessor", "size": size})
    return "transformers/own"


@pytest.fixture(params=[timm, transformers])
def name(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    made: Callable[[Path], str] = request.param
    return made(tmp_path)


def test_a_sweep_finishes(tmp_path: Path, name: str) -> None:
    file = study(tmp_path, TORCH, TORCH, model={"name": name, "weights": "none"}, **SWEEP)
    done = splittracr("run", str(file), "--out", "out", cwd=tmp_path, timeout=280)
    assert done.code == 0, done.err
    records = journal.read(tmp_path / "out" / "records.jsonl")
    assert {record.outcome for record in records} == {"ok"}
    assert len({record.cut for record in records}) >= 3
    assert len({(r.sample, str(r.prediction)) for r in records}) == 3  # the same at every cut
    versions = read_environment(tmp_path / "out").edge.versions
    assert name.partition("/")[0] in versions


def test_an_edge_without_pytorch_predicts_the_same(
    tmp_path: Path, lite: dict[str, str], name: str
) -> None:
    model = {"name": name, "weights": "none", "exactness": "Bounded"}
    file = study(tmp_path, ONNX, TORCH, model=model, **SWEEP)
    with serving(file) as url:
        for out, variables in (("lite", lite), ("full", {})):
            done = edge(file, url, out, variables)
            assert done.code == 0, done.err
    made = [
        sorted((r.cut, r.sample, str(r.prediction), r.outcome) for r in records)
        for records in (journal.read(tmp_path / out / "records.jsonl") for out in ("lite", "full"))
    ]
    assert made[0] == made[1]
    assert {outcome for *_, outcome in made[0]} == {"ok"}
