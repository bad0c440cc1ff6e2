"""Exits of a network of torch: those of a file, or those that a custom network declares."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from splittracr.backends.protocol import Backend
from splittracr.backends.torch import exit_file
from splittracr.backends.torch.exit_training import classifier
from splittracr.backends.torch.exit_training import trained as trained  # of `ExitMaker`
from splittracr.backends.torch.proven import ProvenNetwork
from splittracr.data.containment import contained
from splittracr.data.home import expanded
from splittracr.data.postprocess.classification import Classification
from splittracr.experiment.contracts import DECLARED
from splittracr.experiment.errors import CutRefused, InvalidInput, nearest, reason
from splittracr.experiment.exits import ExitsFile
from splittracr.experiment.spec import ExperimentSpec
from splittracr.experiment.types import Cut
from splittracr.splitting.fingerprint import weights_digest

FIELD = "spec.partition.cascade.exits"


@dataclass(frozen=True)
class ExitNetwork:
    """Exits of a network on its device. `learnt` has the keys of inputs they have learnt from."""

    backend: ProvenNetwork
    cuts: tuple[Cut, ...]
    heads: tuple[nn.Module, ...]
    learnt: frozenset[int] = frozenset()

    @property
    def digest(self) -> str:
        """A digest of the cuts and of all parameters and buffers of the exits."""
        digest = hashlib.sha256()
        for cut, head in zip(self.cuts, self.heads, strict=True):
            digest.update(f"{cut.name}\0{weights_digest(head)}\0".encode())
        return f"sha256:{digest.hexdigest()}"

    @property
    def memory_bytes(self) -> int:
        """The bytes of these parameters and buffers."""
        return sum(one.nbytes for head in self.heads for one in head.state_dict().values())

    @torch.inference_mode()
    def classify(self, number: int, live: Sequence[Any]) -> Tensor:
        """The logits of an exit."""
        logits: Tensor = self.heads[number](*live)
        return logits

    @torch.inference_mode()
    def between(self, start: int, live: Sequence[Any], stop: int) -> list[Any]:
        """The live values at cut `stop` from those at cut `start`, which it consumes."""
        return self.backend.tape.between(start, live, stop)

    def has_learnt(self, sample: Tensor) -> bool:
        """Whether the exits have learnt from this input; false if that is unknown."""
        return exit_file.key(sample) in self.learnt


class _Declared(nn.Module):
    """Calls an exit of the user's own with copies, since it may write into its inputs."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *live: Any) -> Tensor:
        copies = [one.clone() if isinstance(one, Tensor) else one for one in live]
        logits: Tensor = self.module(*copies)
        return logits


def opened(own: Backend, spec: ExperimentSpec, exits: str, base: Path) -> ExitNetwork:
    """The exits of a file, or those that the network declares.

    Raises InvalidInput if they are not of this network, or the network is no classifier.
    """
    network, outputs = classifier(own)
    learnt: frozenset[int] = frozenset()
    heads: Mapping[str, nn.Module]
    if exits == DECLARED:
        heads = {cut: _Declared(module) for cut, module in network.network.exits.items()}
        if not heads:
            expected = f"a file of `splittracr exits train`: {network.network.name} declares none"
            raise InvalidInput(FIELD, exits, expected)
    else:
        file, linear, learnt = exit_file.read(base / expanded(exits, FIELD), FIELD)
        _check_network(file, network, exits)
        heads = {one.cut: head for one, head in zip(file.exits, linear, strict=True)}
    by_index = {_cut(network, name): head for name, head in heads.items()}
    cuts = sorted(by_index)
    made = ExitNetwork(
        backend=_classifying(network, spec),
        cuts=tuple(network.proof.cuts[index] for index in cuts),
        heads=tuple(by_index[index].to(network.device.place) for index in cuts),
        learnt=learnt,
    )
    _try(made, outputs, exits)
    return made


def _check_network(file: ExitsFile, own: ProvenNetwork, exits: str) -> None:
    here = own.network
    if file.fingerprint != own.identity.fingerprint:
        expected = f"exits of the graph of {here.name} (they are of another one, {file.model})"
        raise InvalidInput(FIELD, exits, expected)
    if file.weights_digest != own.identity.weights:
        expected = (
            f"exits for the weights of {here.name}, {here.weights} (they were trained for others, "
            f"{file.weights})"
        )
        raise InvalidInput(FIELD, exits, expected)


def _cut(own: ProvenNetwork, name: str) -> int:
    """The index of an exit's cut. Raises InvalidInput for one that is none or is refused."""
    inside = [cut.name for cut in own.proof.cuts[1:-1]]
    if name not in inside:
        raise InvalidInput(FIELD, name, f"a cut inside {own.network.name}, {nearest(name, inside)}")
    try:
        return own.cut(name, FIELD).index
    except CutRefused as error:
        raise InvalidInput(FIELD, name, f"a cut that is exact ({error})") from error


def _classifying(own: ProvenNetwork, spec: ExperimentSpec) -> ProvenNetwork:
    """The network with the post-processor of its exits."""
    post = own.postprocessor
    classes = post.classes if isinstance(post, Classification) else own.network.classes
    naming = partial(Classification, spec.postprocess)
    return replace(own, postprocessor=naming(classes), naming=naming)


def _try(made: ExitNetwork, outputs: int, exits: str) -> None:
    """Run all exits. Raises InvalidInput for one that does not return logits `[1, outputs]`."""
    live: Sequence[Any] = made.backend.head(0, made.backend.example(0))
    before = 0
    for number, cut in enumerate(made.cuts):
        live = made.between(before, live, cut.index)
        before = cut.index
        try:
            with contained():
                logits = made.classify(number, live)
                found = list(logits.shape)
        except Exception as error:  # the user's code may raise anything
            expected = f"exits that take the live tensors at {cut.name} ({reason(error)})"
            raise InvalidInput(FIELD, exits, expected) from error
        if found != [1, outputs]:
            expected = f"exits that return [1, {outputs}] (that at {cut.name} returns {found})"
            raise InvalidInput(FIELD, exits, expected)
