import builtins
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from splittracr.experiment.errors import InvalidInput, SplittracrError
from splittracr.models import ultralytics as family
from splittracr.models.network import Task
from splittracr.models.random_weights import randomise
from splittracr.splitting.capture import capture
from splittracr.splitting.prove import prove
from tests.models.helpers import build, identical, random_picture, tensors

tasks = pytest.importorskip("ultralytics.nn.tasks")


def _save(path: Path, name: str, classes: int, **extra: Any) -> Any:
    """A checkpoint as ultralytics writes it after training, with random numbers in it."""
    model = getattr(tasks, extra.pop("model", "DetectionModel"))(
        f"{name}.yaml", nc=classes, verbose=False
    )
    randomise(model, 9, keep=lambda name: name.endswith("dfl.conv.weight"))
    model.names = {i: f"thing {i}" for i in range(classes)}
    torch.save({"epoch": -1, "model": model.half(), "ema": None, "train_args": {}, **extra}, path)
    return model.float()


@pytest.mark.parametrize(
    ("name", "task", "postprocessor", "first_class"),
    [
        ("yolov5nu", Task.DETECT, "ultralytics-detect", "person"),
        ("yolov8n", Task.DETECT, "ultralytics-detect", "person"),
        ("yolov8n-seg", Task.INSTANCES, "ultralytics-segment", "person"),
        ("yolov8n-pose", Task.POSE, "ultralytics-pose", "person"),
        ("yolo11n-obb", Task.OBB, "ultralytics-obb", "plane"),
        ("yolo11n-cls", Task.CLASSIFY, "ultralytics-classify", "tench"),
        ("yolo11-cls-resnet18", Task.CLASSIFY, "ultralytics-classify", "tench"),
        ("yolov10n", Task.DETECT, "ultralytics-detect", "person"),
        ("yolo26n", Task.DETECT, "ultralytics-detect", "person"),
    ],
)
def test_every_cut_is_exact(name: str, task: Task, postprocessor: str, first_class: str) -> None:
    network = build(name=name, weights="none", input_size=(64, 96))
    assert (network.task, network.postprocessor) == (task, postprocessor)
    assert network.classes[0] == first_class
    assert network.shape == (3, 64, 96)
    assert network.keypoints == (17 if task is Task.POSE else None)
    example = network.prepare(random_picture())[None]
    tape = capture(network.module, example, network.leaves)
    assert tape.fixed_shape is None
    assert prove(tape, example).refused == {}
    other = torch.zeros_like(example)
    assert identical(tape(example), network.module(example))
    assert not identical(tape(example), network.module(other))
    assert all(t.isfinite().all() for t in tensors(tape(example)))


def test_output_is_that_of_ultralytics() -> None:
    network: Any = build(name="yolov8n", weights="none", input_size=(64, 64))
    pixels = network.prepare(random_picture())[None]
    expected = network.module.net.predict(pixels.float() / 255)
    assert identical(network.module(pixels), expected)
    assert network.module(pixels)[0].shape == (1, 84, 84)


def test_rtdetr_gives_boxes_in_pixels() -> None:
    network: Any = build(name="rtdetr-l", weights="none", input_size=(64, 96))
    picture = random_picture()
    assert network.prepare(picture).shape == (3, 64, 96)
    assert not (network.prepare(picture) == 114).all(0).any()  # stretched: there are no bars
    pixels = network.prepare(picture)[None]
    (found,) = network.module(pixels)
    rows = network.module.net.predict(pixels.float() / 255)[0][0]
    width = found["boxes"][:, 2] - found["boxes"][:, 0]
    torch.testing.assert_close(width, rows[:, 2] * 96, atol=1e-3, rtol=1e-4)
    assert found["labels"].dtype is torch.int64
    assert network.postprocessor == "torchvision-detection"
    tape = capture(network.module, pixels, network.leaves)
    assert tape.fixed_shape is None


def test_pictures_are_letterboxed_as_by_ultralytics() -> None:
    network = build(name="yolov8n", weights="none")
    picture = random_picture(100, 150)
    sample = network.prepare(picture)
    from ultralytics.data.augment import LetterBox

    expected: Any = LetterBox((640, 640), auto=False)(image=np.asarray(picture))
    assert np.array_equal(sample.numpy().transpose(1, 2, 0), expected)
    assert sample.is_contiguous()
    assert (sample[:, 0] == 114).all()


@pytest.mark.parametrize("size", [(100, 150), (300, 90), (64, 64)])
def test_a_rect_letterbox_is_that_of_predict(size: tuple[int, int]) -> None:
    network: Any = build(name="yolov8n", weights="none", letterbox="Rect", input_size=(160, 160))
    picture = random_picture(*size)
    from ultralytics.data.augment import LetterBox

    expected: Any = LetterBox((160, 160), auto=True, stride=32)(image=np.asarray(picture))
    sample = network.prepare(picture)
    assert np.array_equal(sample.numpy().transpose(1, 2, 0), expected)
    assert network.variable_shape
    assert "Rect" in network.preparation
    tape = capture(network.module, network.prepare(random_picture(64, 64))[None], network.leaves)
    with torch.no_grad():
        whole, cut = network.module(sample[None]), tape.tail(4, tape.head(4, sample[None]))
    assert identical(whole, cut)


@pytest.mark.parametrize("name", ["yolov8n-cls", "rtdetr-l", "alexnet"])
def test_other_networks_have_no_letterbox(name: str) -> None:
    with pytest.raises(InvalidInput, match=r"spec\.model\.letterbox: got 'Rect', expected Square"):
        build(name=name, weights="none", letterbox="Rect", input_size=(64, 64))


def test_pictures_are_cropped_for_classification_as_by_ultralytics() -> None:
    network = build(name="yolov8n-cls", weights="none")
    from ultralytics.data.augment import classify_transforms

    picture = random_picture(100, 150)
    expected: Any = classify_transforms(224)(picture)
    assert torch.equal(network.prepare(picture).float() / 255, expected)


def test_size_has_to_fit_the_stride() -> None:
    expected = r"inputSize: got \[100, 64\], expected height and width in multiples of 32"
    with pytest.raises(InvalidInput, match=expected):
        build(name="yolov8n", weights="none", input_size=(100, 64))
    assert build(name="yolov8n-cls", weights="none", input_size=(50, 70)).shape == (3, 50, 70)


def test_constant_of_the_focal_loss_is_kept() -> None:
    network: Any = build(name="yolov8n", weights="none", input_size=(64, 64))
    assert torch.equal(network.module.net.model[-1].dfl.conv.weight.flatten(), torch.arange(16.0))


def test_checkpoint(tmp_path: Path) -> None:
    model = _save(tmp_path / "best.pt", "yolov8n", 3)
    network: Any = build(tmp_path, name="yolov8n", weights_file="best.pt", input_size=(64, 64))
    assert network.classes == ("thing 0", "thing 1", "thing 2")
    assert network.weights == "file best.pt"
    pixels = network.prepare(random_picture())[None]
    with torch.inference_mode():
        expected = model.eval()(pixels.float() / 255)
    assert identical(network.module(pixels), expected)
    with pytest.raises(InvalidInput, match=r"weightsFile: got 'best.pt', expected model\."):
        build(tmp_path, name="yolov8s", weights_file="best.pt")


def test_checkpoint_with_keypoints_of_its_own(tmp_path: Path) -> None:
    plan = tasks.yaml_model_load("yolov8n-pose.yaml")
    plan["kpt_shape"] = [5, 2]
    model = tasks.PoseModel(plan, nc=2, verbose=False)
    torch.save({"model": model, "ema": None}, tmp_path / "pose.pt")
    network: Any = build(tmp_path, name="yolov8n-pose", weights_file="pose.pt", input_size=(64, 64))
    assert network.module.net.model[-1].kpt_shape == [5, 2]
    assert network.keypoints == 5


def test_another_number_of_classes_keeps_the_backbone(tmp_path: Path) -> None:
    model = _save(tmp_path / "best.pt", "yolov8n", 80)
    network: Any = build(
        tmp_path, name="yolov8n", weights_file="best.pt", num_classes=5, input_size=(64, 64)
    )
    assert network.classes == ()
    assert network.weights == "file best.pt, new head (random, seed 0)"
    assert torch.equal(network.module.net.model[0].conv.weight, model.model[0].conv.weight)
    output = network.module(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    assert output[0].shape == (1, 9, 84)
    random: Any = build(name="yolo11n-cls", weights="none", num_classes=5, input_size=(64, 64))
    assert random.module(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))[0].shape == (1, 5)


class _Runs(nn.Module):
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return builtins.exec, (f"open({str(self.path)!r}, 'w')",)


@pytest.mark.parametrize("inside", ["model", "train_args"])
def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path, inside: str) -> None:
    evil = _Runs(tmp_path / "ran")
    if inside == "model":
        torch.save({"model": evil, "ema": None}, tmp_path / "best.pt")
    else:
        _save(tmp_path / "best.pt", "yolov8n", 3, train_args={"a": evil})
    with pytest.raises(InvalidInput, match=r"weightsFile: got .*best.pt.*nothing else in it"):
        build(tmp_path, name="yolov8n", weights_file="best.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_plain_pickle_is_not_executed(tmp_path: Path) -> None:
    (tmp_path / "best.pt").write_bytes(pickle.dumps(_Runs(tmp_path / "ran")))
    with pytest.raises(InvalidInput, match=r"weightsFile: got .*best.pt"):
        build(tmp_path, name="yolov8n", weights_file="best.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [("best.pt", b""), ("best.pt", b"not a checkpoint"), ("yolov5n.pt", b"an official name")],
)
def test_unreadable_checkpoint(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    expected = rf"weightsFile: got '.*{name}', expected a checkpoint of ultralytics"
    with pytest.raises(InvalidInput, match=expected):
        build(tmp_path, name="yolov8n", weights_file=name)


def test_state_dict_is_no_checkpoint(tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.ones(1)}}, tmp_path / "best.pt")
    with pytest.raises(InvalidInput, match="with a model in it"):
        build(tmp_path, name="yolov8n", weights_file="best.pt")


def test_failed_download_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from ultralytics.utils import downloads

    wanted: list[Path] = []

    def refuse(path: Path) -> None:
        wanted.append(path)
        raise ConnectionError("no network in tests")

    monkeypatch.setattr(downloads, "attempt_download_asset", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # the operator's weight cache
    for name, file in (("yolov8n", "yolov8n.pt"), ("yolov5n", "yolov5nu.pt")):
        with pytest.raises(SplittracrError, match=f"The weights {file} of {name} .*internet"):
            build(name=name)
    assert wanted[0] == tmp_path / "hub" / "checkpoints" / "yolov8n.pt"
    with pytest.raises(InvalidInput, match="ultralytics publishes none for yolov8n-ghost"):
        build(name="yolov8n-ghost")
    with pytest.raises(InvalidInput, match=r"weights: got 'V1', expected one of official, none"):
        build(name="yolov8n", weights="V1")


def test_names_leave_out_networks_with_prompts() -> None:
    assert not [n for n in family.names() if "world" in n or "yoloe" in n]
    assert {"yolov9t", "yolov10b", "yolov3-tinyu", "yolov8n-p6", "yolo12n", "rtdetr-x"} <= set(
        family.names()
    )
