"""Pictures whose kind shifts in the middle, a large network, and what is less certain than it.

A picture has in its channels: how sure the small network is of which class, the class of the large
network, and the same as the first for a second exit. Only pictures of which the small network is
little sure become wrong, or any picture if the stream is `hopeless`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from splittracr.backends.torch.build import assemble
from splittracr.backends.torch.proven import ProvenNetwork
from splittracr.data.contracts import Sample
from splittracr.experiment.spec import ExperimentSpec, Source
from splittracr.models.network import Network, Task
from tests.workers.pair import Tensors

SHIFT = 20
"""The number of the first picture of the other kind."""

LITTLE, MUCH = 0.2, (0.7, 1.0)
"""How far from the middle the channel of a picture is, as a share, of which it is unsure or sure.
"""

FROM = 100_000
"""A threshold that all of them reach."""


class Channels(nn.Module):
    """Two classes by whether the mean of a channel is above the middle."""

    def __init__(self, channel: int) -> None:
        super().__init__()
        same = nn.Conv2d(3, 3, 1, bias=False)
        same.weight = nn.Parameter(torch.eye(3)[:, :, None, None])
        self.body = nn.Sequential(same, nn.ReLU(), nn.ReLU())
        self.head = Head(channel)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x / 255))  # type: ignore[no-any-return]


class Head(nn.Module):
    """The logits by the mean of a channel."""

    def __init__(self, channel: int) -> None:
        super().__init__()
        self.channel = channel

    def forward(self, live: Tensor) -> Tensor:
        score = 4 * live.mean((2, 3))[:, self.channel] - 2
        return torch.stack([score, -score], 1)


def network(of: ExperimentSpec, channel: int, *, exits: bool = False) -> ProvenNetwork:
    """The small network has channel 0, the large one channel 1. Exits see channels 0 and 2."""
    made = Network(
        name="small" if channel == 0 else "large",
        source=Source.CUSTOM,
        task=Task.CLASSIFY,
        module=Channels(channel).eval(),
        prepare=lambda picture: torch.zeros(3, 8, 8, dtype=torch.uint8),
        shape=(3, 8, 8),
        postprocessor="classification",
        weights="made",
        exits={"body.0": Head(0).eval(), "body.1": Head(2).eval()} if exits else {},
    )
    return assemble(made, of, torch.device("cpu"))


class Shifting(Tensors):
    """Pictures that shift at number SHIFT."""

    def __init__(self, size: int, *, hopeless: bool = False) -> None:
        super().__init__(size)
        self._hopeless = hopeless
        random = torch.Generator().manual_seed(3)
        self._draws: Sequence[Sequence[float]] = torch.rand(size, 6, generator=random).tolist()

    def truth(self, index: int) -> int:
        """The class that the large network answers."""
        return int(self._draws[index][0] < 0.5)

    def load(self, index: int) -> Sample:
        _, sure, how, other_sure, other, chance = self._draws[index]
        side = 1 if self.truth(index) == 0 else -1
        levels = [_level(sure, how), 1.0, _level(other_sure, other)]
        for channel in (0, 2) if index >= SHIFT else ():
            if chance < 0.5 if self._hopeless else levels[channel] == LITTLE:
                levels[channel] *= -1
        values = [round(127.5 * (1 + side * level)) for level in levels]
        data = torch.tensor(values, dtype=torch.uint8)[:, None, None].expand(3, 8, 8)
        return Sample(self.name(index), data=data.contiguous())


def _level(sure: float, how: float) -> float:
    low, high = MUCH
    return low + (high - low) * how if sure < 0.5 else LITTLE
