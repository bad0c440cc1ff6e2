import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from splittracr.backends.torch import verify
from splittracr.experiment.errors import InvalidInput, SplittracrError
from splittracr.experiment.spec import Source
from splittracr.models import hub, registry, timm_config
from splittracr.models import timm as family
from splittracr.models.pictures import Pixels, ResizeAndCrop
from splittracr.splitting.capture import capture
from splittracr.splitting.sources import files, libraries, modules_of
from tests.models.helpers import build, random_picture

timm: Any = pytest.importorskip("timm")


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "convnext_atto", "levit_128s"])
def test_every_cut_is_exact(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "ROUNDS", 1)
    verdict = verify.check(f"timm/{name}")
    assert (verdict.source, verdict.problems) == ("timm", ())
    assert verdict.cuts > 100


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet18", None),  # bilinear or bicubic, the middle of the shorter edge
        ("resnet18", (160, 224)),  # not square: timm's own resize
        ("efficientvit_b0", None),
        ("vit_base_patch16_siglip_224.v2_webli", None),  # squashed
        ("tf_efficientnetv2_b0", None),  # a crop that is a share of 192
        ("eva02_tiny_patch14_336", None),
    ],
)
@pytest.mark.parametrize("shape", [(120, 161), (333, 250), (97, 97)])
def test_values_are_those_of_timms_transform(
    name: str, size: tuple[int, int] | None, shape: tuple[int, int]
) -> None:
    picture = random_picture(*shape)
    net = nn.Identity()
    net.pretrained_cfg = timm.get_pretrained_cfg(name).to_dict()
    settings = timm_config.description(net, size)
    options = {} if size is None else {"input_size": (3, *size)}
    config = timm.data.resolve_data_config(options, model=net)
    expected = timm.data.create_transform(**config)(picture)
    stage = Pixels(settings["mean"], settings["std"])
    values = stage(settings["prepare"](picture))
    assert values.shape == settings["shape"] == config["input_size"]
    assert torch.equal(values, expected)


def test_a_picture_with_borders_is_that_of_timm() -> None:
    net = nn.Identity()
    config = {"input_size": (3, 32, 32), "crop_mode": "border", "crop_pct": 0.9}
    net.pretrained_cfg = config | {"mean": (0.4, 0.5, 0.6), "std": (1.0, 1.0, 1.0)}  # type: ignore[assignment]
    settings = timm_config.description(net)
    picture = random_picture(60, 90)
    stage = Pixels(settings["mean"], settings["std"])
    expected = timm.data.create_transform(**timm.data.resolve_data_config({}, model=net))(picture)
    assert torch.equal(stage(settings["prepare"](picture)), expected)
    assert settings["prepare"].in_words == "timm's transform to 32 x 32, crop border 0.9"


def test_output_is_that_of_timm() -> None:
    network: Any = build(name="timm/test_resnet.r160_in1k", weights="none")
    assert network.source is Source.TIMM
    assert network.shape == (3, 160, 160)
    assert (network.classes[0], len(network.classes)) == ("tench", 1000)
    picture = random_picture()
    own = timm.create_model("test_resnet.r160_in1k").eval()
    own.load_state_dict(network.module.net.state_dict())
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(own))
    expected = own(transform(picture)[None])
    assert torch.equal(network.module(network.prepare(picture)[None]), expected)


def test_random_weights_are_seeded() -> None:
    one, same, other = (build(name="timm/test_vit", weights="none", seed=s) for s in (1, 1, 2))
    assert one.weights == "none (random, seed 1)"
    values = [network.module.state_dict() for network in (one, same, other)]
    assert all(torch.equal(values[0][key], values[1][key]) for key in values[0])
    assert not torch.equal(
        values[0]["net.blocks.0.attn.qkv.weight"], values[2]["net.blocks.0.attn.qkv.weight"]
    )


def test_a_file_of_weights_with_other_classes(tmp_path: Path) -> None:
    own = timm.create_model("test_resnet", num_classes=7)
    torch.save({"state_dict": own.state_dict()}, tmp_path / "own.pt")
    fields: dict[str, Any] = {"name": "timm/test_resnet", "weights_file": "own.pt"}
    network: Any = build(tmp_path, num_classes=7, **fields)
    assert network.weights == "file own.pt (its state_dict)"
    assert network.classes == ()
    assert torch.equal(network.module.net.fc.weight, own.fc.weight)
    changed: Any = build(tmp_path, num_classes=3, **fields)
    assert changed.weights.endswith("new head (random, seed 0)")
    assert torch.equal(changed.module.net.conv1[0].weight, own.conv1[0].weight)
    with pytest.raises(InvalidInput, match=r"set spec\.model\.numClasses"):
        build(tmp_path, **fields)


def test_official_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = timm.create_model("test_resnet")
    create = timm.create_model

    def downloaded(name: str, pretrained: bool = False, **options: Any) -> Any:
        return trained if pretrained else create(name, **options)

    monkeypatch.setattr(hub, "check_reachable", lambda *_: None)
    monkeypatch.setattr(timm, "create_model", downloaded)
    network: Any = build(name="timm/test_resnet")
    assert network.weights == "test_resnet.r160_in1k (apache-2.0)"
    assert torch.equal(network.module.net.fc.weight, trained.fc.weight)
    changed: Any = build(name="timm/test_resnet", num_classes=4)
    assert changed.weights == "test_resnet.r160_in1k (apache-2.0), new head (random, seed 0)"
    assert changed.module.net.fc.weight.shape[0] == 4


def test_without_a_connection_the_message_says_what_to_do() -> None:
    with pytest.raises(SplittracrError) as error:
        build(name="timm/test_resnet")
    assert "The weights test_resnet.r160_in1k of timm/test_resnet could not" in str(error.value)
    assert "https://huggingface.co/timm/test_resnet.r160_in1k" in str(error.value)
    assert "set spec.model.weights to `none`" in str(error.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "timm/resnet81"}, "'timm/resnet81', expected a model of timm, one of: timm/"),
        (
            {"name": "timm/resnet18.a9_in1k"},
            "expected a weight set of timm/resnet18, one of: resnet18.a",
        ),
        (
            {"name": "timm/resnet18", "weights": "a1_in1k"},
            "expected official or none; a weight set is part of spec.model.name, such as "
            "timm/resnet18.a1_in1k",
        ),
        ({"name": "timm/resnet18", "args": {"x": 1}}, "spec.model.args: got {'x': 1}, expected no"),
        ({"name": "timm/vit_small_patch14_dinov2"}, "expected a model with classes"),
        ({"name": "timm/resnetblur18"}, "expected none, or a spec.model.weightsFile: timm pub"),
        (
            {"name": "timm/crossvit_tiny_240", "weights": "none", "input_size": (64, 64)},
            "spec.model.inputSize: got [64, 64], expected a size that timm/crossvit_tiny_240",
        ),
        (
            {"name": "timm/nest_tiny", "weights": "none", "input_size": (65, 65)},
            "expected a size that timm/nest_tiny accepts (AssertionError: `patch_size` must divide",
        ),
    ],
)
def test_what_is_refused_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput) as error:
        build(**fields)
    assert message in str(error.value)


def test_another_size_is_taken() -> None:
    network: Any = build(name="timm/test_vit", weights="none", input_size=(96, 128))
    sample = network.prepare(random_picture())
    assert network.shape == tuple(sample.shape) == (3, 96, 128)
    assert network.module(sample[None]).shape == (1, 1000)


def test_networks_of_timm_by_callable_keep_their_settings() -> None:
    spec: dict[str, Any] = {
        "name": "timm:create_model",
        "args": {"model_name": "test_vit.r160_in1k"},
    }
    network: Any = build(weights="none", **spec)
    named: Any = build(name="timm/test_vit.r160_in1k", weights="none")
    assert isinstance(named.prepare, ResizeAndCrop)
    assert network.prepare == named.prepare
    assert torch.equal(network.module.pixels.mean, named.module.pixels.mean)


def test_both_ends_compare_the_version() -> None:
    network = build(name="timm/test_resnet", weights="none")
    tape = capture(network.module, network.prepare(random_picture())[None], network.leaves)
    roots = modules_of(network.module, tape, [])
    assert libraries(roots)["timm"] == timm.__version__
    assert files(roots) == {}


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family, "find_spec", lambda _: None)
    monkeypatch.setitem(sys.modules, "timm", None)
    assert registry.names()[Source.TIMM] == []
    with pytest.raises(SplittracrError, match=r"pip install 'splittracr\[timm\]'"):
        build(name="timm/resnet18")
