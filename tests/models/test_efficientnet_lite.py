from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from splittracr.experiment.errors import InvalidInput, SplittracrError
from splittracr.models import efficientnet_lite as family
from splittracr.models.network import Network
from splittracr.splitting.capture import capture
from splittracr.splitting.prove import prove
from tests.models.helpers import build, random_picture

pytest.importorskip("efficientnet_lite_pytorch")


@pytest.fixture(scope="module")
def network() -> Network:
    return build(name="efficientnet_lite0")


def _best(network: Network, picture: Image.Image) -> tuple[str, float]:
    scores: Any = network.module(network.prepare(picture)[None])
    probability, index = scores.softmax(1)[0].max(0)
    return network.classes[int(index)], float(probability)


def test_real_weights_know_a_bus(network: Network) -> None:
    package = find_spec("ultralytics")
    if package is None or not package.submodule_search_locations:
        pytest.skip("its picture comes with ultralytics")
    path = Path(package.submodule_search_locations[0]) / "assets" / "bus.jpg"
    label, probability = _best(network, Image.open(path).convert("RGB"))
    assert label == "minibus"
    assert probability > 0.5


def test_real_weights_know_a_temple_and_a_flower(network: Network) -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    china, flower = (Image.fromarray(p) for p in datasets.load_sample_images().images)
    assert _best(network, china)[0] == "palace"
    assert _best(network, flower)[0] == "daisy"


def test_normalisation_is_that_of_training(network: Any) -> None:
    # The statistics of the first batch norm are those of the training data.
    draw = np.random.default_rng(0)
    pictures = [Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(4)]
    batch = torch.stack([network.prepare(p) for p in pictures])
    values = network.module.pixels(batch)
    assert values.min() >= -127 / 128
    assert values.max() <= 1
    assert torch.equal(values, network.module.pixels(batch))
    torch.testing.assert_close(values, (batch.float() - 127) / 128)


def test_every_cut_is_exact(network: Network) -> None:
    example = network.prepare(random_picture())[None]
    proof = prove(capture(network.module, example, network.leaves), example)
    assert proof.refused == {}
    # One tensor at a cut outside of residual blocks: no batch size travels along.
    assert min(len(cut.live) for cut in proof.cuts) == 1
    assert all(spec.dtype in ("float32", "uint8") for cut in proof.cuts for spec in cut.live)


def test_other_weights(tmp_path: Path) -> None:
    random: Any = build(name="efficientnet_lite0", weights="none", num_classes=7, seed=2)
    assert random.weights == "none (random, seed 2)"
    assert random.module(torch.zeros(1, 3, 224, 224, dtype=torch.uint8)).shape == (1, 7)
    torch.save(random.module.net.state_dict(), tmp_path / "w.pth")
    again: Any = build(tmp_path, name="efficientnet_lite0", weights_file="w.pth", num_classes=7)
    weights = [one.module.net.state_dict()["_fc.weight"] for one in (again, random)]
    assert torch.equal(*weights)
    real: Any = build(name="efficientnet_lite0", num_classes=7)
    assert real.module(torch.zeros(1, 3, 224, 224, dtype=torch.uint8)).shape == (1, 7)
    assert real.classes == ()
    with pytest.raises(InvalidInput, match="expected one of official, none"):
        build(name="efficientnet_lite0", weights="IMAGENET1K_V1")


def test_another_size() -> None:
    network: Any = build(name="efficientnet_lite0", input_size=(96, 128))
    assert network.prepare(random_picture()).shape == (3, 96, 128)
    assert network.module(torch.zeros(1, 3, 96, 128, dtype=torch.uint8)).shape == (1, 1000)


def test_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(family, "import_module", refuse)
    with pytest.raises(SplittracrError, match=r"optional extra splittracr\[efficientnet-lite\]"):
        build(name="efficientnet_lite0")
