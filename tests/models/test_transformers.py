import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from splittracr.backends.torch import verify
from splittracr.experiment.errors import InvalidInput, SplittracrError
from splittracr.experiment.spec import Source
from splittracr.models import registry
from splittracr.models.pictures import ResizeAndCrop
from splittracr.splitting.capture import capture
from splittracr.splitting.prove import prove
from splittracr.splitting.sources import files, libraries, modules_of
from tests.models.helpers import build, random_picture
from tests.models.made_folders import own_values, save

transformers: Any = pytest.importorskip("transformers")

VIT = {"image_processor_type": "ViTImageProcessor", "size": {"height": 64, "width": 64}}
CONVNEXT = {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 64}}
BIT = {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 73}}
BIT |= {"crop_size": {"height": 64, "width": 64}}
LEVIT = {"image_processor_type": "LevitImageProcessor", "size": {"shortest_edge": 64}}
LEVIT |= {"crop_size": {"height": 64, "width": 64}}
MOBILEVIT = {"image_processor_type": "MobileViTImageProcessor", "size": {"shortest_edge": 80}}
MOBILEVIT |= {"crop_size": {"height": 64, "width": 64}}
EFFICIENTNET = {"image_processor_type": "EfficientNetImageProcessor", "rescale_factor": 1 / 127.5}
EFFICIENTNET |= {"rescale_offset": True, "size": {"height": 64, "width": 64}}


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small vision transformer with five classes."""
    folder = tmp_path_factory.mktemp("vit") / "my-vit"
    save(folder, "vit", VIT)
    return folder


@pytest.mark.parametrize("kind", ["vit", "convnext", "mobilenet_v1"])
def test_every_cut_is_exact(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "ROUNDS", 1)
    verdict = verify.check(f"transformers/{kind}")
    assert (verdict.source, verdict.problems) == ("transformers", ())
    assert verdict.cuts > 50


@pytest.mark.parametrize(
    ("kind", "processor", "resized"),
    [
        ("vit", VIT, True),
        ("convnext", CONVNEXT, True),
        ("resnet", BIT, True),
        ("vit", LEVIT, True),
        ("mobilevit", MOBILEVIT, False),
    ],
)
def test_values_and_output_are_those_of_transformers(
    kind: str, processor: dict[str, Any], resized: bool, tmp_path: Path
) -> None:
    own = save(tmp_path / "own", kind, processor)
    network: Any = build(tmp_path, name="transformers/own")
    assert isinstance(network.prepare, ResizeAndCrop) is resized
    assert network.weights == "of the folder own"
    assert network.classes == ("thing 0", "thing 1", "thing 2", "thing 3", "thing 4")
    for shape in ((120, 161), (333, 250), (65, 64)):
        picture = random_picture(*shape)
        sample = network.prepare(picture)
        assert (sample.dtype, tuple(sample.shape)) == (torch.uint8, network.shape)
        expected = own_values(tmp_path / "own", picture)
        assert torch.equal(network.module.pixels(sample[None]), expected)
        if resized:
            assert np.array_equal(network.prepare.description(picture), sample)  # without PyTorch
    assert torch.equal(network.module(sample[None]), own(expected).logits)
    tape = capture(network.module, sample[None], network.leaves, network.within)
    assert prove(tape, sample[None]).refused == {}


def test_values_on_another_line_are_near_those_of_transformers(tmp_path: Path) -> None:
    save(tmp_path / "own", "vit", EFFICIENTNET)
    network: Any = build(tmp_path, name="transformers/own")
    picture = random_picture()
    values = network.module.pixels(network.prepare(picture)[None])
    torch.testing.assert_close(values, own_values(tmp_path / "own", picture), rtol=0, atol=1e-5)
    assert values.abs().max() > 1


def test_random_weights_have_the_same_operations(vit: Path) -> None:
    network: Any = build(vit.parent, name="transformers/my-vit", weights="none", seed=4)
    assert network.weights == "none (random, seed 4)"
    again: Any = build(name=str(vit), source=Source.TRANSFORMERS, weights="none", seed=4)
    assert torch.equal(network.module.net.classifier.weight, again.module.net.classifier.weight)
    trained: Any = build(vit.parent, name="transformers/my-vit")
    assert not torch.equal(
        network.module.net.classifier.weight, trained.module.net.classifier.weight
    )


def test_other_classes_get_a_new_head(vit: Path) -> None:
    trained: Any = build(vit.parent, name="transformers/my-vit")
    changed: Any = build(vit.parent, name="transformers/my-vit", num_classes=9)
    assert changed.weights == "of the folder my-vit, new head (random, seed 0)"
    assert changed.classes == ()
    assert changed.module.net.classifier.weight.shape[0] == 9
    state, other = trained.module.state_dict(), changed.module.state_dict()
    assert all(torch.equal(state[key], other[key]) for key in state if "classifier" not in key)


def test_a_file_of_weights(vit: Path, tmp_path: Path) -> None:
    trained: Any = build(vit.parent, name="transformers/my-vit")
    state = {key: value * 2 for key, value in trained.module.net.state_dict().items()}
    torch.save(state, tmp_path / "own.pt")
    fields: dict[str, Any] = {"name": str(vit), "source": "transformers"}
    network: Any = build(tmp_path, weights_file="own.pt", **fields)
    assert network.weights == "file own.pt"
    assert torch.equal(
        network.module.net.classifier.weight, trained.module.net.classifier.weight * 2
    )


def test_both_ends_compare_the_version(vit: Path) -> None:
    network = build(vit.parent, name="transformers/my-vit")
    tape = capture(network.module, network.prepare(random_picture())[None], network.leaves)
    roots = modules_of(network.module, tape, [])
    assert libraries(roots)["transformers"] == transformers.__version__
    assert files(roots) == {}


def test_folders_that_are_refused(vit: Path, tmp_path: Path) -> None:
    def message(**fields: Any) -> str:
        with pytest.raises(InvalidInput) as error:
            build(tmp_path, name="transformers/own", **fields)
        return str(error.value)

    own = tmp_path / "own"
    assert f"expected transformers/ and a folder that exists (there is no {own})" in message()
    own.mkdir()
    assert f"with config.json in it ({own} has none)" in message()
    shutil.copytree(vit, own, dirs_exist_ok=True)
    assert "spec.model.weights: got 'x', expected official" in message(weights="x")
    assert "expected nothing, the folder's image" in message(input_size=(32, 32))
    assert "spec.model.args: got {'a': 1}" in message(args={"a": 1})

    (own / "preprocessor_config.json").unlink()
    assert f"with preprocessor_config.json in it ({own} has none)" in message()
    (own / "preprocessor_config.json").write_text('{"image_processor_type": "Nothing"}')
    assert "a folder whose preprocessor_config.json is known" in message()
    growing = VIT | {"size": {"shortest_edge": 64}}
    (own / "preprocessor_config.json").write_text(json.dumps(growing))
    assert "one size, it makes (3, 64, 84) and (3, 84, 64)" in message()
    shutil.copy(vit / "preprocessor_config.json", own)

    weights = (own / "model.safetensors").read_bytes()
    (own / "model.safetensors").write_bytes(weights[:500])
    assert f"weights in {own} that transformers reads" in message()
    (own / "model.safetensors").unlink()
    assert f"weights in {own} that transformers reads" in message()
    assert build(tmp_path, name="transformers/own", weights="none").shape == (3, 64, 64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["ViTModel"]}, "an image classifier of transformers, it is ViTModel"),
        (
            {"architectures": None},
            "an image classifier of transformers, it is a vit without a head",
        ),
        ({"model_type": "nothing"}, "a folder whose config.json transformers knows"),
        ({"num_hidden_layers": 4}, "with vit.layers.3.attention.k_proj.bias and 15 more"),
    ],
)
def test_configurations_that_are_refused(
    changes: dict[str, Any], message: str, vit: Path, tmp_path: Path
) -> None:
    shutil.copytree(vit, tmp_path / "own")
    path = tmp_path / "own" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(InvalidInput) as error:
        build(tmp_path, name="transformers/own")
    assert message in str(error.value)


def test_code_in_the_folder_is_not_executed(vit: Path, tmp_path: Path) -> None:
    shutil.copytree(vit, tmp_path / "own")
    (tmp_path / "own" / "mine.py").write_text("raise SystemExit('executed')\n")
    path = tmp_path / "own" / "config.json"
    mapped = {"AutoConfig": "mine.A", "AutoModelForImageClassification": "mine.B"}
    content = json.loads(path.read_text()) | {"auto_map": mapped}
    path.write_text(json.dumps(content))
    assert build(tmp_path, name="transformers/own").classes[0] == "thing 0"
    path.write_text(json.dumps(content | {"model_type": "mine"}))
    with pytest.raises(InvalidInput, match="contains custom code"):
        build(tmp_path, name="transformers/own")


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert registry.names()[Source.TRANSFORMERS] == []
    with pytest.raises(SplittracrError, match=r"pip install 'splittracr\[transformers\]'"):
        build(name="transformers/own")
