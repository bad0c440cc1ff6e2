"""Ultralytics' networks, against the results of ultralytics' own predictors on the same output."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from splittracr.data.contracts import Geometry, PostProcessor
from splittracr.data.postprocess import create, masks
from splittracr.experiment.errors import SplittracrError
from splittracr.experiment.spec import PostprocessSpec
from tests.data.helpers import size_of, travelled

pytest.importorskip("ultralytics")

from ultralytics.data.augment import LetterBox
from ultralytics.models.yolo import detect, obb, pose, segment
from ultralytics.nn import tasks

NETWORK = (96, 160)
"""Height and width of the networks' input."""

CASES = {
    "yolov8n.yaml": ("ultralytics-detect", tasks.DetectionModel, detect.DetectionPredictor),
    "yolov10n.yaml": ("ultralytics-detect", tasks.DetectionModel, detect.DetectionPredictor),
    "yolo26n.yaml": ("ultralytics-detect", tasks.DetectionModel, detect.DetectionPredictor),
    "yolov8n-seg.yaml": (
        "ultralytics-segment",
        tasks.SegmentationModel,
        segment.SegmentationPredictor,
    ),
    "yolo26n-seg.yaml": (
        "ultralytics-segment",
        tasks.SegmentationModel,
        segment.SegmentationPredictor,
    ),
    "yolov8n-pose.yaml": ("ultralytics-pose", tasks.PoseModel, pose.PosePredictor),
    "yolo26n-pose.yaml": ("ultralytics-pose", tasks.PoseModel, pose.PosePredictor),
    "yolov8n-obb.yaml": ("ultralytics-obb", tasks.OBBModel, obb.OBBPredictor),
    "yolo26n-obb.yaml": ("ultralytics-obb", tasks.OBBModel, obb.OBBPredictor),
}


@pytest.fixture(scope="module", params=list(CASES))
def case(request: pytest.FixtureRequest) -> SimpleNamespace:
    """A network, its output for two pictures, and what is needed to compare."""
    name, model, predictor = CASES[request.param]
    torch.manual_seed(0)
    network = model(request.param, verbose=False).eval()
    classes = tuple(network.names.values())
    with torch.inference_mode():
        output = network(torch.rand(2, 3, *NETWORK))
    return SimpleNamespace(
        name=name, network=network, predictor=predictor, classes=classes, output=output
    )


def spec_for(case: SimpleNamespace) -> PostprocessSpec:
    """Random networks are sure of nothing, so everything passes but the overlaps."""
    return PostprocessSpec(confidence_percent=0, iou_percent=45, max_detections=40)


def own_results(case: SimpleNamespace, spec: PostprocessSpec, picture: np.ndarray[Any, Any]) -> Any:
    predictor = case.predictor(
        overrides={
            "conf": spec.confidence_percent / 100,
            "iou": spec.iou_percent / 100,
            "max_det": spec.max_detections,
        }
    )
    network = case.network
    predictor.model = SimpleNamespace(
        names=network.names,
        end2end=network.end2end,
        kpt_shape=getattr(network, "kpt_shape", None) or network.yaml.get("kpt_shape"),
    )
    predictor.batch = [["a", "b"]]
    image = torch.zeros(2, 3, *NETWORK)
    output = [o.clone() if isinstance(o, Tensor) else o for o in case.output]
    return predictor.postprocess(tuple(output), image, [picture, picture])


def test_same_as_ultralytics_own_predictor(case: SimpleNamespace, cat: Image.Image) -> None:
    spec = spec_for(case)
    processor = create(case.name, spec, case.classes)
    geometry = Geometry((cat.height, cat.width), NETWORK)
    ours = [travelled(one) for one in processor.reduce(case.output)]
    theirs = own_results(case, spec, np.asarray(cat)[..., ::-1])
    for reduced, result in zip(ours, theirs, strict=True):
        described = processor.describe(reduced, geometry)
        json.dumps(described, allow_nan=False)
        boxes = result.obb if result.obb is not None else result.boxes
        assert len(described) == len(boxes) > 0
        assert [one["class"] for one in described] == boxes.cls.int().tolist()
        assert torch.equal(reduced["scores"], boxes.conf)
        upright = boxes.xyxy if result.obb is None else None
        for i, one in enumerate(described):
            if upright is not None:
                assert one["box"] == pytest.approx(upright[i].tolist(), abs=0.051)
            else:
                corners = boxes.xyxyxyxy[i]
                assert np.allclose(one["corners"], corners, atol=0.051)
        if result.masks is not None:
            assert torch.equal(masks.decode(reduced).byte(), result.masks.data)
        if result.keypoints is not None:
            points = [one["keypoints"] for one in described]
            assert np.allclose(points, result.keypoints.data, atol=0.0051)


def test_reduced_is_small_and_the_output_is_left_alone(case: SimpleNamespace) -> None:
    tensors = _flat(case.output)
    before = [t.clone() for t in tensors]
    processor = create(case.name, spec_for(case), case.classes)
    first, again = processor.reduce(case.output), processor.reduce(case.output)
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))
    for one, other in zip(first, again, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)
        assert size_of(one) < 200_000


def test_drawn_by_ultralytics_without_a_download(
    case: SimpleNamespace, cat: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ultralytics.utils.plotting

    def download(*_: Any) -> None:
        raise AssertionError("would look for a font")

    monkeypatch.setattr(ultralytics.utils.plotting, "check_font", download)
    processor = create(case.name, spec_for(case), ("жук", *case.classes[1:]))
    reduced = processor.reduce(case.output)[0]
    before = cat.tobytes()
    drawn = processor.draw(cat, reduced, Geometry((cat.height, cat.width), NETWORK))
    assert (drawn.size, drawn.mode) == (cat.size, "RGB")
    assert drawn.tobytes() != before == cat.tobytes()


def test_nothing_found(case: SimpleNamespace, cat: Image.Image) -> None:
    processor = create(case.name, PostprocessSpec(confidence_percent=100), case.classes)
    geometry = Geometry((cat.height, cat.width), NETWORK)
    for one in processor.reduce(case.output):
        reduced = travelled(one)
        assert processor.describe(reduced, geometry) == []
        assert processor.draw(cat, reduced, geometry).tobytes() == cat.tobytes()
        assert processor.ranking(reduced) is None


def test_segmentation_output_may_be_flat() -> None:
    processor = create("ultralytics-segment", PostprocessSpec(confidence_percent=0), ("a",))
    predictions = torch.rand(1, 4 + 1 + 2, 21)
    prototypes = torch.rand(1, 2, 8, 8)
    nested = processor.reduce(((predictions, prototypes), {"raw": predictions}))[0]
    flat = processor.reduce((predictions, prototypes))[0]
    assert all(torch.equal(nested[key], flat[key]) for key in nested)


def test_output_of_another_network_is_told() -> None:
    processor = create("ultralytics-detect", PostprocessSpec(), ("a", "b"))
    with pytest.raises(
        SplittracrError, match=r"\(1, 84, 21\), expected \[N, 6, anchors\] for 2 classes"
    ):
        processor.reduce(torch.rand(1, 84, 21))


def test_every_picture_of_a_batch_is_processed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ultralytics stops after some seconds and returns nothing for the pictures left."""
    import time

    clock = iter(range(0, 10**9, 1000))
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    processor = create("ultralytics-detect", PostprocessSpec(), ("a",))
    output = torch.tensor([50.0, 50, 20, 20, 0.9]).reshape(1, 5, 1).repeat(4, 1, 21)
    assert [len(one["scores"]) for one in processor.reduce(output)] == [1, 1, 1, 1]


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(20, 400), st.integers(20, 400)),
    network=st.sampled_from([(160, 160), (96, 160), (224, 128)]),
    auto=st.booleans(),
    data=st.data(),
)
def test_letterbox_and_back(
    size: tuple[int, int], network: tuple[int, int], auto: bool, data: st.DataObject
) -> None:
    """A rectangle painted into a picture, found again in the letterboxed one, comes back."""
    height, width = size
    assume(1 / 6 < height / width < 6)
    left, top = data.draw(st.integers(0, width - 10)), data.draw(st.integers(0, height - 10))
    right, bottom = (
        data.draw(st.integers(left + 10, width)),
        data.draw(st.integers(top + 10, height)),
    )
    picture = np.zeros((height, width, 3), np.uint8)
    picture[top:bottom, left:right] = 255
    seen: Any = LetterBox(network, auto=auto, stride=32)(image=picture)
    rows, columns = np.nonzero(seen.min(2) > 127)
    assume(len(rows) > 0)
    box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    processor: PostProcessor = create("ultralytics-detect", PostprocessSpec(), ("a",))
    found = {
        "boxes": torch.tensor([box], dtype=torch.float32),
        "scores": torch.ones(1),
        "classes": torch.zeros(1, dtype=torch.int32),
    }
    network_size = (seen.shape[0], seen.shape[1])
    described = processor.describe(found, Geometry(size, network_size))
    pixel = max(1.0, max(size[0] / network[0], size[1] / network[1]))
    # Both sides are scaled back by one factor, as ultralytics does. The shorter side was rounded to
    # whole pixels, by up to half a pixel, and the longer one is scaled by that much too much or too
    # little around its middle.
    rounded = 0.5 * pixel / min(size) * max(size) / 2
    assert described[0]["box"] == pytest.approx(
        [left, top, right, bottom], abs=pixel + rounded + 0.1
    )


def _flat(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    parts = output.values() if isinstance(output, dict) else output
    return [t for part in parts if not isinstance(part, str | int) for t in _flat(part)]


def test_shipped_bus_is_drawn(tmp_path: Path) -> None:
    from ultralytics.utils import ASSETS

    bus = Image.open(ASSETS / "bus.jpg").convert("RGB")
    processor = create("ultralytics-detect", PostprocessSpec(), ("bus",))
    found = {
        "boxes": torch.tensor([[10.0, 136, 475, 455]]),
        "scores": torch.tensor([0.9]),
        "classes": torch.zeros(1, dtype=torch.int32),
    }
    geometry = Geometry((1080, 810), (640, 480))
    assert processor.describe(found, geometry) == [
        {"label": "bus", "class": 0, "score": 0.9, "box": [16.9, 229.5, 801.6, 767.8]}
    ]
    processor.draw(bus, found, geometry).save(tmp_path / "bus.png")
