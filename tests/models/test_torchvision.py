import copy
import dataclasses
import hashlib
import math
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torchvision import models
from torchvision.models import WeightsEnum
from torchvision.transforms.functional import pil_to_tensor

from splittracr.experiment.errors import InvalidInput, SplittracrError
from splittracr.experiment.spec import DType
from splittracr.models import torchvision as family
from splittracr.models.network import Task
from splittracr.models.torchvision import _size_of_vit
from splittracr.splitting.capture import capture
from tests.models.helpers import build, identical, published_state, random_picture


def _publish(monkeypatch: pytest.MonkeyPatch, state: dict[str, Any]) -> None:
    """Let torchvision find `state` where it would download official weights."""
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: copy.copy(state))


@pytest.mark.parametrize(
    "name",
    [
        "densenet121",  # names of another time
        "googlenet",  # auxiliary heads, and a second normalisation
        "inception_v3",
        "mobilenet_v3_small",
        "resnet18",
        "shufflenet_v2_x0_5",
        "squeezenet1_1",
        "swin_t",
    ],
)
def test_official_weights_classify_as_in_torchvision(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    _publish(monkeypatch, published_state(name, **options))
    entry = models.get_model_weights(name).DEFAULT
    official = models.get_model(name, weights=entry).eval()
    network = build(name=name)
    picture = random_picture(300, 400)
    expected = official(entry.transforms()(picture)[None])
    assert identical(network.module(network.prepare(picture)[None]), expected)
    assert network.weights == entry.name
    assert network.classes == tuple(entry.meta["categories"])
    assert network.task is Task.CLASSIFY
    assert not network.module.training
    assert expected.std() > 0.01


def test_official_weights_segment_as_in_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "deeplabv3_mobilenet_v3_large"
    _publish(monkeypatch, published_state(name, weights_backbone=None, aux_loss=True))
    entry = models.get_model_weights(name).DEFAULT
    official = models.get_model(name, weights=entry).eval()
    network = build(name=name)
    picture = random_picture()
    expected = official(entry.transforms()(picture)[None])["out"]
    assert identical(network.module(network.prepare(picture)[None]), expected)
    assert network.variable_shape
    assert network.classes[:2] == ("__background__", "aeroplane")


def test_official_weights_see_clips_as_in_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "r3d_18"
    _publish(monkeypatch, published_state(name))
    entry = models.get_model_weights(name).DEFAULT
    official = models.get_model(name, weights=entry).eval()
    network = build(name=name)
    picture = random_picture()
    clip = pil_to_tensor(picture).expand(family.FRAMES, -1, -1, -1).contiguous()
    sample = network.prepare(picture)
    assert tuple(sample.shape) == network.shape
    assert identical(network.module(sample[None]), official(entry.transforms()(clip)[None]))


def test_old_names_of_densenet(monkeypatch: pytest.MonkeyPatch) -> None:
    state = published_state("densenet121")
    old = {
        k.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): v for k, v in state.items()
    }
    assert old.keys() != state.keys()
    _publish(monkeypatch, old)
    module: Any = build(name="densenet121").module
    assert torch.equal(module.net.features.conv0.weight, state["features.conv0.weight"])


def test_named_weight_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    _publish(monkeypatch, published_state("vit_b_16", image_size=384))
    network = build(name="vit_b_16", weights="IMAGENET1K_SWAG_E2E_V1")
    assert network.shape == (3, 384, 384)  # this set is for larger pictures
    assert network.weights == "IMAGENET1K_SWAG_E2E_V1"
    expected = r"weights: got 'V9', expected one of official, none, IMAGENET1K_V1, IMAGENET1K_V2$"
    with pytest.raises(InvalidInput, match=expected):
        build(name="resnet50", weights="V9")


def test_official_weights_are_kept_below_torch_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The operator mounts its weight cache there."""

    def download(*_: object) -> None:
        raise OSError("a file in the cache is downloaded")

    monkeypatch.undo()  # torchvision's own look-up
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    entry = models.get_model_weights("squeezenet1_1").DEFAULT
    file = tmp_path / "hub" / "checkpoints" / Path(entry.url).name
    file.parent.mkdir(parents=True)
    torch.save(published_state("squeezenet1_1"), file)
    assert build(name="squeezenet1_1").weights == entry.name


def test_failed_download_says_what_to_do() -> None:
    with pytest.raises(SplittracrError) as caught:
        build(name="resnet18")
    for part in (
        "IMAGENET1K_V1 of resnet18",
        "no network in tests",
        "internet",
        "weightsFile",
        "`none`",
    ):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_random_weights_keep_shape_and_classes() -> None:
    network = build(name="mobilenet_v3_small", weights="none", seed=4)
    assert network.weights == "none (random, seed 4)"
    assert network.classes[0] == "tench"
    again = build(name="mobilenet_v3_small", weights="none", seed=4)
    picture = torch.randint(0, 256, (1, *network.shape), dtype=torch.uint8)
    assert identical(network.module(picture), again.module(picture))


def test_another_number_of_classes_replaces_the_head_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    state = published_state("squeezenet1_1")  # its head is a convolution
    _publish(monkeypatch, state)
    module: Any = build(name="squeezenet1_1", num_classes=7).module
    assert module.net.classifier[1].weight.shape == (7, 512, 1, 1)
    assert torch.equal(module.net.features[0].weight, state["features.0.weight"])
    assert build(name="squeezenet1_1", num_classes=7).classes == ()
    same: Any = build(name="squeezenet1_1", num_classes=1000)
    assert torch.equal(same.module.net.classifier[1].weight, state["classifier.1.weight"])
    assert len(same.classes) == 1000


def test_weights_file_with_a_head_of_its_own(tmp_path: Path) -> None:
    state = published_state("resnet18", num_classes=4)
    torch.save(state, tmp_path / "mine.pth")
    network: Any = build(tmp_path, name="resnet18", weights_file="mine.pth", num_classes=4)
    assert torch.equal(network.module.net.fc.weight, state["fc.weight"])
    assert network.weights == "file mine.pth"
    with pytest.raises(InvalidInput, match=r"set spec\.model\.numClasses if"):
        build(tmp_path, name="resnet18", weights_file="mine.pth")
    with pytest.raises(InvalidInput, match=r"weightsFile: got .*layer1.0.conv1.weight of shape"):
        build(tmp_path, name="resnet50", weights_file="mine.pth", num_classes=4)
    torch.save(dict(published_state("mnasnet0_5")), tmp_path / "no-version.pth")
    with pytest.raises(InvalidInput, match=r"weightsFile: got .*version should be set"):
        build(tmp_path, name="mnasnet0_5", weights_file="no-version.pth")


def test_auxiliary_heads_in_a_file_are_left_out(tmp_path: Path) -> None:
    torch.save(published_state("googlenet", init_weights=False), tmp_path / "w.pth")
    module: Any = build(tmp_path, name="googlenet", weights_file="w.pth").module
    assert module.net.aux1 is None


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_a_file_of_ones_own_is_of_no_weight_set_unless_one_is_named(
    name: str, tmp_path: Path
) -> None:
    state = published_state(name, init_weights=False, num_classes=7)
    torch.save(state, tmp_path / "mine.pth")
    fields = {"name": name, "weights_file": "mine.pth", "num_classes": 7}
    own = models.get_model(name, weights=None, init_weights=False, num_classes=7).eval()
    own.load_state_dict(state)
    network = build(tmp_path, **fields)
    assert network.weights == "file mine.pth"
    batch = torch.randint(0, 256, (1, *network.shape), dtype=torch.uint8)
    values = cast(Any, network.module).pixels(batch)
    assert identical(network.module(batch), own(values))
    own.transform_input = True  # as its weight set has it
    named = build(tmp_path, **fields, weights="IMAGENET1K_V1")
    assert named.weights == "file mine.pth, built for IMAGENET1K_V1"
    assert identical(named.module(batch), own(values))


def test_the_published_file_is_of_its_weight_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(published_state("googlenet", init_weights=False), tmp_path / "w.pth")
    digest = hashlib.sha256((tmp_path / "w.pth").read_bytes()).hexdigest()
    entry: Any = models.get_model_weights("googlenet").DEFAULT
    published = dataclasses.replace(entry.value, url=f"https://x.example/g-{digest[:8]}.pth")
    monkeypatch.setattr(entry, "_value_", published)
    network: Any = build(tmp_path, name="googlenet", weights_file="w.pth")
    assert network.module.net.transform_input
    assert network.weights == "file w.pth, built for IMAGENET1K_V1"


@pytest.mark.parametrize(("name", "size"), [("vit_h_14", 28), ("vit_b_16", 64), ("vit_b_32", 224)])
def test_a_vit_has_the_size_that_its_file_is_for(name: str, size: int, tmp_path: Path) -> None:
    if name == "vit_h_14":  # two layers of it, which are enough to see the size
        state = {"encoder.pos_embedding": torch.zeros(1, (size // 14) ** 2 + 1, 1280)}
        assert _size_of_vit(name, state) == (size, size)
        return
    state = published_state(name, image_size=size)
    torch.save(state, tmp_path / "mine.pth")
    own = models.get_model(name, weights=None, image_size=size).eval()
    own.load_state_dict(state)
    network = build(tmp_path, name=name, weights_file="mine.pth")
    assert network.shape == (3, size, size)
    batch = network.prepare(random_picture(300, 400))[None]
    assert identical(network.module(batch), own(cast(Any, network.module).pixels(batch)))


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("alexnet", (32, 32), r"at least 63 x 63 for alexnet"),
        ("inception_v3", (74, 90), r"at least 75 x 75 for inception_v3"),
        ("vit_b_16", (64, 80), "a square with sides a multiple of 16"),
        ("vit_b_16", (60, 60), "a square with sides a multiple of 16"),
        ("maxvit_t", (64, 64), "a size that maxvit_t accepts"),
        ("ssd300_vgg16", (320, 320), r"\[300, 300\], ssd300_vgg16 has no other"),
    ],
)
def test_sizes_that_cannot_be(name: str, size: tuple[int, int], expected: str) -> None:
    with pytest.raises(InvalidInput, match=rf"inputSize: got \[{size[0]}, {size[1]}\].*{expected}"):
        build(name=name, weights="none", input_size=size)


@pytest.mark.parametrize("name", ["resnet18", "vit_b_32", "swin_t", "fcn_resnet50", "r3d_18"])
def test_another_input_size(name: str) -> None:
    network = build(name=name, weights="none", input_size=(64, 64))
    sample = network.prepare(random_picture())
    assert tuple(sample.shape) == network.shape
    assert network.shape[-2:] == (64, 64)
    assert not network.variable_shape
    output: Any = network.module(sample[None])
    assert output.shape[0] == 1
    assert output.isfinite().all()


def test_resize_stays_in_proportion_to_the_crop() -> None:
    prepare: Any = build(name="resnet18", weights="none", input_size=(112, 56)).prepare
    assert prepare.resize == (128,)
    assert prepare.crop == (112, 56)


def test_positions_of_a_vit_are_interpolated(monkeypatch: pytest.MonkeyPatch) -> None:
    _publish(monkeypatch, published_state("vit_b_32"))
    network = build(name="vit_b_32", input_size=(96, 96))
    output: Any = network.module(torch.zeros(1, 3, 96, 96, dtype=torch.uint8))
    assert output.shape == (1, 1000)


@pytest.mark.parametrize("dtype", [DType.FLOAT16, DType.BFLOAT16])
def test_smaller_types(dtype: DType) -> None:
    network = build(name="mobilenet_v3_small", weights="none", dtype=dtype, input_size=(64, 64))
    exact = build(name="mobilenet_v3_small", weights="none", input_size=(64, 64))
    picture = torch.randint(0, 256, (1, *network.shape), dtype=torch.uint8)
    output: Any = network.module(picture)
    expected: Any = exact.module(picture)
    assert output.dtype is getattr(torch, dtype.value)
    assert output.isfinite().all()
    correlation = torch.corrcoef(torch.stack([output[0].float(), expected[0]]))[0, 1]
    assert correlation > 0.98


def test_arguments_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"spec.model.args: got \{'dropout': 0\}"):
        build(name="alexnet", weights="none", args={"dropout": 0})


def test_input_stage_is_one_operation() -> None:
    network = build(name="alexnet", weights="none", input_size=(64, 64))
    example = torch.zeros(1, *network.shape, dtype=torch.uint8)
    tape = capture(network.module, example, network.leaves)
    assert "pixels" in tape.cut_names[1]
    assert math.isclose(len(tape), 23, abs_tol=1)
