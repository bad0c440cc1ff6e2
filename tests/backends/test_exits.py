"""Exits: their training, their file, and what they compute on a network."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from splittracr.backends.protocol import ExitTraining
from splittracr.backends.torch import exits
from splittracr.backends.torch.build import assemble
from splittracr.backends.torch.exit_file import pooled
from splittracr.backends.torch.exit_training import MIN_SAMPLES, fitted
from splittracr.backends.torch.proven import ProvenNetwork
from splittracr.experiment.contracts import ExitTargets
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.exits import ExitsFile
from splittracr.models.network import Task
from tests.workers.exit_samples import LABELS, inputs
from tests.workers.pair import Small, proven, spec

NAMES = ("body.0", "body.1", "body.2", "body.3")


def made(
    own: ProvenNetwork, names: Sequence[str] = NAMES, wanted: ExitTraining = LABELS, count: int = 80
) -> tuple[ExitsFile, bytes]:
    cuts = [own.cut(name) for name in names]
    return exits.trained(own, cuts, inputs(count), wanted)


def written(folder: Path, own: ProvenNetwork, names: Sequence[str] = NAMES) -> str:
    file = folder / "exits.safetensors"
    file.write_bytes(made(own, names)[1])
    return file.name


# ------------------------------------------------------------------------------------ features


@pytest.mark.parametrize(
    ("shape", "dims"),
    [((1, 3, 4, 5), (2, 3)), ((1, 3, 2, 4, 5), (2, 3, 4)), ((1, 7, 3), (1,)), ((1, 3), ())],
)
def test_features_are_averages_over_positions(
    shape: tuple[int, ...], dims: tuple[int, ...]
) -> None:
    live = torch.arange(float(np.prod(shape))).reshape(shape)
    expected = live.mean(dims) if dims else live
    assert pooled([live]).shape == (1, 3)
    torch.testing.assert_close(pooled([live]), expected)


def test_features_of_several_tensors_follow_each_other() -> None:
    ones, half = torch.ones(1, 2, 3, 3), torch.full((1, 4), 0.5, dtype=torch.float16)
    found = pooled([ones, torch.zeros(1, 5, dtype=torch.int64), half, 3, torch.ones(2, 6)])
    assert found.tolist() == [[1, 1, 0.5, 0.5, 0.5, 0.5]]
    with pytest.raises(ValueError, match="no live tensor"):
        pooled([torch.zeros(1, 5, dtype=torch.int64)])


# ------------------------------------------------------------------------------------ training


def test_an_exit_is_the_logistic_regression_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(5)
    centres = 2 * torch.randn(4, 6, generator=generator)
    targets = torch.arange(200) % 4
    features = 3 + centres[targets] + torch.randn(200, 6, generator=generator)
    one = fitted(features, targets, classes=4)
    standard = (features - features.mean(0)) / features.std(0, correction=0)
    reference = LogisticRegression(C=1.0, tol=1e-8, max_iter=10_000)
    reference.fit(standard.numpy(), targets.numpy())
    expected = torch.from_numpy(reference.predict_proba(standard.numpy()))
    logits = features @ one.weight.T + one.bias
    found = logits.softmax(1)
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)


def test_training_again_makes_the_same_file() -> None:
    file, content = made(proven(spec()))
    assert made(proven(spec()))[1] == content
    other = dataclasses.replace(LABELS, seed=4)
    assert made(proven(spec()), wanted=other)[1] != content
    assert (file.pictures, file.held_out, file.failed) == (60, 20, 0)
    assert [one.cut for one in file.exits] == list(NAMES)


def test_exits_learn_what_the_features_show() -> None:
    """The average of a picture is its class, which the averages of a convolution show."""
    own = proven(spec())
    bright = torch.arange(120) % 2
    samples = [(torch.full((3, 8, 8), 60 + 90 * int(b), dtype=torch.uint8), int(b)) for b in bright]
    noise = torch.Generator().manual_seed(0)
    noisy = [(s + torch.randint(0, 20, s.shape, generator=noise).byte(), b) for s, b in samples]
    file, _ = exits.trained(own, [own.cut("body.0")], noisy, LABELS)
    assert file.targets is ExitTargets.LABELS
    assert file.exits[0].accuracy == 1
    # The model's random weights call them something else.
    assert file.accuracy is not None
    assert file.accuracy < 0.6


def test_answers_are_learnt_without_labels() -> None:
    own = proven(spec())
    red, blue = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    red[0], blue[2] = 255, 255
    with torch.inference_mode():
        answers = [int(Small().eval()(data[None]).argmax()) for data in (red, blue)]
    assert answers[0] != answers[1]  # or this test shows nothing
    samples = [(data, None) for data in (red, blue) for _ in range(40)]
    wanted = dataclasses.replace(LABELS, targets=None)
    file, _ = exits.trained(own, [own.cut("body.3")], samples, wanted)
    assert file.targets is ExitTargets.ANSWERS
    assert (file.exits[0].agreement, file.exits[0].accuracy, file.accuracy) == (1, None, None)
    with pytest.raises(InvalidInput, match=r"--targets: got 'Labels', expected Answers"):
        exits.trained(own, [own.cut("body.3")], samples, LABELS)


def test_too_few_samples_and_a_single_class_are_refused() -> None:
    own = proven(spec())
    cuts = [own.cut("body.0")]
    few = f"spec.dataset: got '{MIN_SAMPLES - 1} usable, 2 failed', expected at least {MIN_SAMPLES}"
    samples = [*inputs(MIN_SAMPLES - 1), None, None]
    with pytest.raises(InvalidInput, match=few):
        exits.trained(own, cuts, samples, LABELS)
    same = [(data, 7) for data, _ in inputs(60)]
    with pytest.raises(InvalidInput, match="got 'class 7 alone', expected samples of at least two"):
        exits.trained(own, cuts, same, LABELS)
    beyond = [(data, index) for index, (data, _) in enumerate(inputs(60))]
    with pytest.raises(InvalidInput, match="expected labels from 0 to 9"):
        exits.trained(own, cuts, beyond, LABELS)


def test_a_cut_without_features_is_refused() -> None:
    own = proven(spec())
    with pytest.raises(InvalidInput, match="--at: got 'input', expected a cut with features"):
        exits.trained(own, [own.cut(0)], inputs(60), LABELS)


def test_only_a_classifier_has_exits() -> None:
    own = proven(spec())
    other = dataclasses.replace(own.network, task=Task.OTHER)
    raw = assemble(other, spec(), own.device.place)
    with pytest.raises(
        InvalidInput, match=r"spec\.model\.name: got 'small', expected a classifier"
    ):
        made(raw)
    raw = assemble(own.network, spec(postprocess={"name": "raw"}), own.device.place)
    with pytest.raises(InvalidInput, match=r"spec\.postprocess\.name: got 'Raw'"):
        made(raw)
    batches = assemble(own.network, spec(workload={"batchSize": 2}), own.device.place)
    with pytest.raises(InvalidInput, match=r"spec\.workload\.batchSize: got 2, expected 1"):
        made(batches)


# ------------------------------------------------------------------------------ what they compute


@pytest.mark.parametrize("name", NAMES)
def test_an_exit_is_its_layer_on_the_head_of_the_network(name: str, tmp_path: Path) -> None:
    own = proven(spec())
    opened = exits.opened(own, spec(), written(tmp_path, own), tmp_path)
    number = NAMES.index(name)
    tensors = load_file(tmp_path / "exits.safetensors")
    weight, bias = tensors[f"{number}.weight"], tensors[f"{number}.bias"]
    for data, _ in inputs(4, first=500):
        head = Small().eval().body[: number + 1]
        with torch.inference_mode():
            features = head(data[None] / 255).flatten(2).mean(2)
            expected = nn.functional.linear(features, weight, bias)
        live = own.head(own.cut(name).index, data[None])
        assert torch.equal(opened.classify(number, live), expected)


def test_a_network_goes_on_from_its_exits_as_if_there_were_none(tmp_path: Path) -> None:
    own = proven(spec())
    opened = exits.opened(own, spec(), written(tmp_path, own), tmp_path)
    last = own.proof.last
    for data, _ in inputs(4, first=500):
        live, before = own.head(0, data[None]), 0
        for number, cut in enumerate(opened.cuts):
            live = opened.between(before, live, cut.index)
            opened.classify(number, live)
            before = cut.index
        live = opened.between(before, live, last)
        assert torch.equal(own.tail(last, live), own.tail(0, own.head(0, data[None])))


def test_an_exit_knows_what_it_has_learnt_from(tmp_path: Path) -> None:
    own = proven(spec())
    opened = exits.opened(own, spec(), written(tmp_path, own), tmp_path)
    assert sum(opened.has_learnt(data) for data, _ in inputs(80)) == 60
    assert not any(opened.has_learnt(data) for data, _ in inputs(20, first=80))


def test_other_exits_have_another_digest(tmp_path: Path) -> None:
    own = proven(spec())
    digests = {
        exits.opened(own, spec(), written(tmp_path, own, names), tmp_path).digest
        for names in (NAMES, NAMES, NAMES[:1], NAMES[1:2])
    }
    assert len(digests) == 3


# ------------------------------------------------------------------------------------- bad files


def test_exits_for_other_weights_or_another_network_are_refused(tmp_path: Path) -> None:
    own = proven(spec())
    file = written(tmp_path, own)
    with pytest.raises(
        InvalidInput, match=r"cascade\.exits: got .* expected exits for the weights"
    ):
        exits.opened(proven(spec(), seed=1), spec(), file, tmp_path)
    other = dataclasses.replace(own.network, module=nn.Sequential(Small().eval()))
    with pytest.raises(InvalidInput, match="expected exits of the graph of small"):
        exits.opened(assemble(other, spec(), own.device.place), spec(), file, tmp_path)


def test_a_cut_that_is_refused_is_named(tmp_path: Path) -> None:
    own = proven(spec())
    file = written(tmp_path, own)
    proof = dataclasses.replace(own.proof, refused={"body.1": "it is not exact"})
    with pytest.raises(InvalidInput, match=r"got 'body\.1', expected a cut that is exact"):
        exits.opened(dataclasses.replace(own, proof=proof), spec(), file, tmp_path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    own = proven(spec())
    good = written(tmp_path, own)
    content = (tmp_path / good).read_bytes()
    tensors = load_file(tmp_path / good)
    header = {"splittracr": made(own)[0].model_dump_json()}
    (tmp_path / "text").write_text("exits")
    (tmp_path / "short").write_bytes(content[:-10])
    save_file(tensors, tmp_path / "bare")
    wrong = tensors | {"1.bias": torch.zeros(9)}
    save_file(wrong, tmp_path / "shape", header)
    endless = tensors | {"1.bias": torch.full((10,), torch.inf)}
    save_file(endless, tmp_path / "endless", header)
    newer = json.loads(header["splittracr"]) | {"schemaVersion": 9}
    save_file(tensors, tmp_path / "newer", {"splittracr": json.dumps(newer)})
    expected = {
        "none": "there is no such file",
        "text": "file of `splittracr exits train` ",
        "short": "file of `splittracr exits train` ",
        "bare": "these are other tensors",
        "shape": "its tensors do not fit its header",
        "endless": "its tensors do not fit its header",
        "newer": "schemaVersion of .*: got 9, expected version 2",
    }
    for name, words in expected.items():
        with pytest.raises(InvalidInput, match=words):
            exits.opened(own, spec(), name, tmp_path)


# ------------------------------------------------------------------------------------- declared


class Branch(nn.Module):
    """Writes into its input, as careless modules do."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        torch.manual_seed(9)
        self.act = nn.ReLU(inplace=True)
        self.fc = nn.Linear(8, classes)

    def forward(self, live: Tensor) -> Tensor:
        return self.fc(self.act(live).mean((2, 3)))  # type: ignore[no-any-return]


def declaring(**modules: nn.Module) -> ProvenNetwork:
    """The small network with exits, named after cuts with _ for a dot."""
    own = proven(spec())
    declared = {name.replace("_", "."): module.eval() for name, module in modules.items()}
    network = dataclasses.replace(own.network, exits=declared)
    return assemble(network, spec(), own.device.place)


def test_declared_exits_get_copies_of_the_live_tensors(tmp_path: Path) -> None:
    own = declaring(body_0=Branch())
    opened = exits.opened(own, spec(), "Declared", tmp_path)
    assert [cut.name for cut in opened.cuts] == ["body.0"]
    for data, _ in inputs(4):
        live = own.head(2, data[None])
        with torch.inference_mode():
            expected = Branch().eval()(live[0].clone())
        assert torch.equal(opened.classify(0, live), expected)
        whole = own.tail(0, own.head(0, data[None]))
        assert torch.equal(own.tail(2, live), whole)
    assert not opened.has_learnt(next(inputs(1))[0])


def test_declared_exits_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    expected = {
        "small declares none": declaring(),
        "a cut inside small": declaring(body_7=Branch()),
        r"that at body.0 returns \[1, 3\]": declaring(body_0=Branch(3)),
        "take the live tensors at body.3": declaring(body_3=Branch()),
    }
    for words, own in expected.items():
        with pytest.raises(InvalidInput, match=words):
            exits.opened(own, spec(), "Declared", tmp_path)
