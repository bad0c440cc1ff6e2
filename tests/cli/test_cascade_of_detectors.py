"""Cascades of detectors whose inputs differ in size: boxes are compared in the picture."""

import contextlib
import io
from pathlib import Path
from typing import Any

import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from splittracr.experiment.calibration import Calibration
from splittracr.experiment.versions import parse
from splittracr.results import journal
from splittracr.results.rate import Metric, Rate
from tests.cli.processes import manifest, splittracr
from tests.cli.test_detection import OWN, sides, squares
from tests.cli.test_rate import run

COUNT = 8
IN_PICTURE = '''
        scale = geometry.picture[0] / geometry.network[0]
        box = [scale * one for one in box]
        return [{"label"'''
NAMED = """

from splittracr.models.registry import register

@register("squares_large", shape=(3, 128, 128), classes=("0", "1"))
class Large(Net):
    pass

@register("squares_small", shape=(3, 64, 64), classes=("1", "0"))
class Small(Net):
    pass
"""
"""The same detector with class names: those of the small model are the other way round."""

NET = {"name": "cascade_squares:Net", "inputSize": [128, 128]}
SMALL = "{name: 'cascade_squares:Net', inputSize: [64, 64]}"


def study(folder: Path, **changes: Any) -> Path:
    """A study of pictures of 32 x 32 with a detector that takes 128 x 128."""
    squares(folder, COUNT)
    own = OWN.replace('\n        return [{"label"', IN_PICTURE)
    assert own != OWN
    (folder / "cascade_squares.py").write_text(own + NAMED)
    sections = {
        "model": NET,
        "dataset": {"source": "Coco", "path": "pictures", "annotations": "boxes.json"},
        "postprocess": {"name": "cascade_squares:Squares"},
        "workload": {},
        "partition": {"mode": "ServerOnly"},
    }
    return manifest(folder, sections | changes)


def predictions(folder: Path, size: int) -> list[dict[str, Any]]:
    """The detection in each picture, in pixels of the picture, by the model alone."""
    model = f"{{name: 'cascade_squares:Net', inputSize: [{size}, {size}]}}"
    at = (f"spec.model={model}", "spec.partition.mode=EdgeOnly")
    options = [part for one in at for part in ("--set", one)]
    out = folder / f"alone{size}"
    code, said = run("run", str(folder / "study.yaml"), "--out", str(out), *options)
    assert code == 0, said
    found = sorted(journal.read(out / journal.FILE), key=lambda record: record.name)
    return [record.prediction[0] for record in found]


def by_hand(labels: Path, found: list[dict[str, Any]]) -> float:
    """mAP 50-95 by pycocotools of one detection for each picture."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(labels))
        results = [
            {"image_id": i + 1, "category_id": 5, "score": one["score"]}
            | {"bbox": [one["box"][0], one["box"][1], *sides(one["box"])]}
            for i, one in enumerate(found)
        ]
        evaluator = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return float(evaluator.stats[0])


def test_calibrate_finds_no_disagreement(tmp_path: Path) -> None:
    file, out = study(tmp_path), tmp_path / "made.json"
    code, said = run(
        "calibrate", str(file), "--small", SMALL, "--max-kilobytes", "0", "--out", str(out)
    )
    assert code == 0, said
    made = parse(Calibration, out.read_text(), "made.json", "a calibration")
    assert (made.pictures, made.sure, made.disagreeing) == (COUNT, COUNT, 0)


AUDITED: dict[str, object] = {
    "mode": "Cascade",
    "cut": "input",
    "cascade": {
        "model": {**NET, "inputSize": [64, 64]},
        "statistic": "MeanScore",
        "thresholdPerMillion": 1,
        "auditPercent": 100,
    },
}


def test_audits_agree(tmp_path: Path) -> None:
    file = study(tmp_path, partition=AUDITED)
    done = splittracr("run", str(file), "--out", "out", cwd=tmp_path)
    assert done.code == 0, done.err
    records = list(journal.read(tmp_path / "out" / journal.FILE))
    assert [(one.network, one.audit) for one in records] == [("small", "agrees")] * COUNT


@pytest.mark.parametrize(
    ("model", "small_model", "classes"),
    [
        (NET, SMALL, ()),
        (
            {"name": "cascade_squares:Large"},
            "{name: 'cascade_squares:Small'}",
            ("--classes", "{'0': '1', '1': '0'}"),
        ),
    ],
)
def test_rate_judges_the_small_models_boxes_in_the_picture(
    tmp_path: Path, model: dict[str, Any], small_model: str, classes: tuple[str, ...]
) -> None:
    file = study(tmp_path, model=model)
    small, large = predictions(tmp_path, 64), predictions(tmp_path, 128)
    assert small != large
    points = ("--codec", "raw", "--cut", "1", "--quality", "100", "--scale", "100")
    first, out = ("--small", small_model, *classes), tmp_path / "out"
    code, said = run("rate", str(file), "--out", str(out), *points, *first)
    assert code == 0, said
    made = Rate.model_validate_json((out / "rate.json").read_text())
    labels = tmp_path / "boxes.json"
    assert made.metric is Metric.MAP
    assert made.uncut.value == pytest.approx(by_hand(labels, large))
    lossless = [one for one in made.cascades if one.codec in ("uint8", "png", "webp", "raw")]
    assert {one.answered for one in lossless} >= {n / COUNT for n in (1, 4, 7)}
    for one in lossless:
        sure = [round(1e6 * each["score"]) >= one.threshold_per_million - 100 for each in small]
        assert one.answered == sum(sure) / COUNT
        mixed = [a if s else b for a, b, s in zip(small, large, sure, strict=True)]
        assert one.accuracy.value == pytest.approx(by_hand(labels, mixed))
        assert one.agreement == 1


IN_WORDS = """
        if geometry.network[0] in WIDTHS:
            return ["a square"]
        scale ="""


@pytest.mark.parametrize("widths", [(64,), (128,), (64, 128)])
def test_boxes_in_coordinates_of_two_kinds_are_refused_by_name(
    tmp_path: Path, widths: tuple[int, ...]
) -> None:
    """The post-processor describes no boxes at these widths: they are in pixels of the input."""
    file = study(tmp_path, partition=AUDITED)
    module = tmp_path / "cascade_squares.py"
    own = module.read_text().replace("\n        scale =", IN_WORDS)
    module.write_text(f"WIDTHS = {widths}\n{own}")
    expected = "expected a model whose boxes compare with those of cascade_squares:Net"
    first = ("--small", SMALL, "--out", "made")
    for command in (("calibrate", "--max-kilobytes", "0"), ("rate", "--codec", "raw")):
        done = splittracr(command[0], str(file), *command[1:], *first, cwd=tmp_path)
        assert done.code == 2
        words = " ".join((done.out + done.err).split())
        assert f"--small: got 'cascade_squares:Net', {expected}" in words
    done = splittracr("run", str(file), "--out", "out", cwd=tmp_path)
    assert done.code == 0, done.err
    records = list(journal.read(tmp_path / "out" / journal.FILE))
    assert [(one.network, one.audit) for one in records] == [("small", "failed")] * COUNT
