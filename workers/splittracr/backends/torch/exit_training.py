"""Trains exits of a network: multinomial logistic regression on averages of live tensors.

The network itself does not change.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from splittracr.backends.protocol import Backend, ExitTraining
from splittracr.backends.torch import exit_file
from splittracr.backends.torch.exit_file import LinearExit, pooled
from splittracr.backends.torch.proven import ProvenNetwork
from splittracr.data.containment import contained
from splittracr.experiment.contracts import ExitTargets, Runtime
from splittracr.experiment.errors import InvalidInput, SplittracrError
from splittracr.experiment.exits import Exit, ExitsFile
from splittracr.experiment.types import Cut

MIN_SAMPLES = 50
_ITERATIONS = 500
_TOLERANCE = 1e-6


def classifier(own: Backend) -> tuple[ProvenNetwork, int]:
    """The network and the number of its classes.

    Raises InvalidInput if it is no classifier of PyTorch that takes one sample at a time.
    """
    if not isinstance(own, ProvenNetwork) or own.runtime is not Runtime.TORCH:
        expected = "Torch: with exits a head has to continue from a cut"
        raise InvalidInput("spec.edge.runtime", own.runtime.value, expected)
    outputs, name = own.scored, own.network.name
    if outputs is None or outputs < 2:
        expected = "a classifier, whose output is [N, classes]: exits are classifiers"
        raise InvalidInput("spec.model.name", name, expected)
    if own.identity.batch != 1:
        expected = "1: each sample ends at an exit of its own"
        raise InvalidInput("spec.workload.batchSize", own.identity.batch, expected)
    ranked = own.postprocessor.ranking(own.reduce(own.tail(0, own.head(0, own.example(0))))[0])
    if not ranked:
        post = type(own.postprocessor).__name__
        raise InvalidInput("spec.postprocess.name", post, "one that ranks classes, as exits do")
    return own, outputs


def trained(
    own: Backend,
    cuts: Sequence[Cut],
    samples: Iterable[tuple[Tensor, int | None] | None],
    wanted: ExitTraining,
) -> tuple[ExitsFile, bytes]:
    """Exits at these cuts that have learnt from inputs with labels, and the bytes of their file.

    Raises InvalidInput if the network is no classifier, or there are too few samples.
    """
    network, outputs = classifier(own)
    cuts = sorted({cut.index: cut for cut in cuts}.values(), key=lambda cut: cut.index)
    seen = _run(network, cuts, samples)
    targets = _targets(seen, wanted.targets)
    if targets is ExitTargets.LABELS:
        seen = seen.part([i for i, label in enumerate(seen.labels) if label is not None])
    count = len(seen.answers)
    if count < MIN_SAMPLES:
        left = f"{count} usable" + (f", {seen.failed} failed" if seen.failed else "")
        raise InvalidInput("spec.dataset", left, f"at least {MIN_SAMPLES} samples")
    order = np.random.default_rng(wanted.seed).permutation(count).tolist()
    held = math.ceil(wanted.held_out * count)
    held_out, learning = seen.part(order[:held]), seen.part(sorted(order[held:]))
    goal = learning.labels if targets is ExitTargets.LABELS else learning.answers
    _check_classes(goal, outputs)
    goals = torch.tensor(goal, dtype=torch.int64)
    exits = [fitted(torch.cat(features), goals, outputs) for features in learning.features]
    file = ExitsFile(
        model=network.network.name,
        weights=network.network.weights,
        fingerprint=network.identity.fingerprint,
        weights_digest=network.identity.weights,
        outputs=outputs,
        classes=network.network.classes,
        targets=targets,
        seed=wanted.seed,
        pictures=count - held,
        held_out=held,
        failed=seen.failed,
        accuracy=_share(held_out.answers, held_out.labels),
        exits=tuple(
            _judged(cut, one, features, held_out)
            for cut, one, features in zip(cuts, exits, held_out.features, strict=True)
        ),
    )
    return file, exit_file.encoded(file, exits, learning.keys)


def fitted(features: Tensor, targets: Tensor, classes: int) -> LinearExit:
    """The linear layer of largest likelihood, for features `[n, F]` and classes `[n]`.

    The penalty is that of scikit-learn's LogisticRegression with C = 1 on standardised features:
    half of the squared weights, against the sum of n losses.
    """
    features = features.clone()  # a tensor of inference mode has no gradients
    mean, scale = features.mean(0), features.std(0, correction=0)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    standard = (features - mean) / scale
    weight = torch.zeros(classes, features.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [weight, bias],
        max_iter=_ITERATIONS,
        tolerance_grad=_TOLERANCE,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        logits = functional.linear(standard, weight, bias)
        found = functional.cross_entropy(logits, targets) + weight.square().sum() / 2 / len(logits)
        found.backward()  # type: ignore[no-untyped-call]
        return found

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    scaled = weight.detach() / scale
    return LinearExit(scaled, bias.detach() - scaled @ mean)


@dataclass
class _Seen:
    """The samples that were run: features by cut, the network's answers, labels and keys."""

    features: list[list[Tensor]]
    answers: list[int] = field(default_factory=list)
    labels: list[int | None] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    failed: int = 0

    def part(self, places: Sequence[int]) -> "_Seen":
        """The samples at these places."""
        return _Seen(
            features=[[one[i] for i in places] for one in self.features],
            answers=[self.answers[i] for i in places],
            labels=[self.labels[i] for i in places],
            keys=[self.keys[i] for i in places],
            failed=self.failed,
        )


def _run(
    own: ProvenNetwork, cuts: Sequence[Cut], samples: Iterable[tuple[Tensor, int | None] | None]
) -> _Seen:
    seen = _Seen([[] for _ in cuts])
    for one in samples:
        if one is None:
            seen.failed += 1
            continue
        sample, label = one
        try:
            with contained():
                features, answer = _features(own, cuts, sample)
        except InvalidInput:
            raise
        except Exception:  # noqa: BLE001 - the network's own code; other samples count
            seen.failed += 1
            continue
        for each, found in zip(seen.features, features, strict=True):
            each.append(found)
        seen.answers.append(answer)
        seen.labels.append(label)
        seen.keys.append(exit_file.key(sample))
    return seen


@torch.inference_mode()
def _features(own: ProvenNetwork, cuts: Sequence[Cut], sample: Tensor) -> tuple[list[Tensor], int]:
    """The features at each cut, and the network's first class."""
    live, before, features = own.head(0, own.stack([sample])), 0, []
    for cut in cuts:
        live = own.tape.between(before, live, cut.index)
        before = cut.index
        try:
            features.append(pooled(live).cpu())
        except ValueError as error:
            raise InvalidInput("--at", cut.name, f"a cut with features ({error})") from error
    reduced = own.on_host(own.reduce(own.tail(before, live)))[0]
    ranked = own.postprocessor.ranking(reduced)
    if not ranked:
        raise SplittracrError("the model's result has no first class")
    return features, ranked[0]


def _targets(seen: _Seen, wanted: ExitTargets | None) -> ExitTargets:
    """The targets of the exits. Raises InvalidInput for labels if there are none."""
    labelled = any(label is not None for label in seen.labels)
    if wanted is ExitTargets.LABELS and not labelled:
        expected = "Answers, the model's own: the data set has no labels"
        raise InvalidInput("--targets", wanted.value, expected)
    return wanted or (ExitTargets.LABELS if labelled else ExitTargets.ANSWERS)


def _check_classes(found: Sequence[int | None], outputs: int) -> None:
    """Raise InvalidInput unless these are several classes of a network with so many outputs."""
    known = {one for one in found if one is not None}
    if len(known) < 2:
        expected = "samples of at least two classes: an exit that knows one is always sure of it"
        raise InvalidInput("spec.dataset", f"class {min(known)} alone", expected)
    if max(known) >= outputs:
        expected = f"labels from 0 to {outputs - 1}, the model's classes"
        raise InvalidInput("spec.dataset", f"label {max(known)}", expected)


def _judged(cut: Cut, one: LinearExit, features: Sequence[Tensor], held_out: _Seen) -> Exit:
    logits = functional.linear(torch.cat(list(features)), one.weight, one.bias)
    found = logits.argmax(1).tolist()
    agreement = _share(found, held_out.answers) or 0.0
    return Exit(cut=cut.name, agreement=agreement, accuracy=_share(found, held_out.labels))


def _share(found: Sequence[int], truth: Sequence[int | None]) -> float | None:
    """The share of equal ones among those whose truth is known; None if none is."""
    known = [a == b for a, b in zip(found, truth, strict=True) if b is not None]
    return sum(known) / len(known) if known else None
