"""Small networks, each with one of the traps that a split can fall into."""

from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional


class Residual(nn.Module):
    """A ReLU used twice, once in place, and a skip that crosses inner cuts."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.first(x))
        x = self.relu(self.second(x) + x)
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


class WritesThroughView(nn.Module):
    """One live tensor is a view of another, and a later operation writes through it."""

    def forward(self, x: Tensor) -> Tensor:
        x = x * 2.0
        half = x[:, :1]
        half.add_(1.0)
        return x + half


class Sparse(nn.Module):
    """A lone view with gaps: they are not sent, the order of strides is."""

    def forward(self, x: Tensor) -> Tensor:
        x = (x * 3.0).permute(0, 2, 3, 1)[:, ::2]
        return torch.relu(x) + 1.0


class Shapes(nn.Module):
    """Sizes and tuples of ints are alive across the cuts."""

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = x.flatten(1)
        return x.view(n, c, h * w).sum(-1)


class Chunks(nn.Module):
    """A tuple of tensors that share storage is alive, and one part is written in place."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        first, second = (x + 1.0).chunk(2, dim=2)
        second.mul_(2.0)
        return {"sum": first + second, "second": second}


class Random(nn.Module):
    """Not the same twice: no cut before the dropout is exact."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(x)
        x = functional.dropout(x, 0.5, training=True)
        return x * 2.0


class Branching(nn.Module):
    """Control flow that torch.fx cannot follow and torch.export can, the shape being fixed."""

    def forward(self, x: Tensor) -> Tensor:
        parts = [x * float(i + 1) for i in range(len(x[0]))]
        return torch.stack(parts).sum(0)


class Undecidable(nn.Module):
    """Control flow that depends on values: nothing can capture it."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x - 1


class AsksForTensor(nn.Module):
    """A branch that torch.fx resolves for its stand-in, silently and wrongly."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2.0 if torch.is_tensor(x) else x * 3.0  # type: ignore[redundant-expr]


class AsksForTracer(nn.Module):
    """Both front ends take the branch that no real tensor takes."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2.0 if type(x) is Tensor else x * 3.0


@torch.fx.wrap
def _noise(x: Tensor) -> Tensor:
    return x + float(np.random.default_rng().random())


class Noisy(nn.Module):
    """Not the same twice even with torch's seed: its noise is another library's."""

    def forward(self, x: Tensor) -> Tensor:
        return _noise(x) * 2.0


class Ordered(nn.Module):
    """Returns collections that a graph knows as plain ones only."""

    def forward(self, x: Tensor) -> OrderedDict[str, Any]:
        return OrderedDict(out=x * 2.0, aux=Pair(x + 1.0, [x - 1.0]))


class Pair(NamedTuple):
    """A named tuple."""

    first: Tensor
    rest: list[Tensor]


class Scalars(nn.Module):
    """Scalars and a result with two outputs are alive at its cuts."""

    def forward(self, x: Tensor) -> Tensor:
        best = x.flatten(1).topk(2)
        return best.values.sum() + best.indices.sum()


class Sizes(nn.Module):
    """Sizes of a tensor are alive at cuts where the tensor is not."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        # An exporter does not know the sizes after a padding that it has traced.
        x = self.conv(functional.pad(x, (0, (3 - x.shape[3] % 3) % 3)))
        batch, channels, height, width = x.shape
        rows = x.relu().flatten(2).transpose(1, 2)
        return rows.reshape(batch, height, width, channels) * 2.0


EXACT = [Residual, WritesThroughView, Sparse, Shapes, Chunks, Scalars, Sizes]
