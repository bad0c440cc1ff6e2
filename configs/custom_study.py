"""A model, a data set and a post-processor of your own, for custom.yaml beside this file.

python configs/custom_study.py FILE trains the model for some seconds and saves its weights.
"""

import random
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from splittracr.data import postprocess
from splittracr.data.contracts import Geometry, Sample
from splittracr.experiment.spec import PostprocessSpec
from splittracr.models.registry import register

CLASSES = ("circle", "square", "triangle")
SIZE = 32


class Shapes:
    """Drawn pictures of the three shapes, the same ones for the same seed."""

    classes: Sequence[str] = CLASSES

    def __init__(self, count: int = 60, seed: int = 0) -> None:
        self._count, self._seed = count, seed

    def __len__(self) -> int:
        return self._count

    def name(self, index: int) -> str:
        return f"{CLASSES[index % 3]}-{index}.png"

    def load(self, index: int) -> Sample:
        draw = random.Random(self._seed * 1_000_003 + index)
        picture = Image.new("RGB", (SIZE, SIZE), _colour(draw, 0, 90))
        left, top, size = draw.randint(2, 10), draw.randint(2, 10), draw.randint(12, 20)
        box, pen = (left, top, left + size, top + size), ImageDraw.Draw(picture)
        fill = _colour(draw, 130, 255)
        match CLASSES[index % 3]:
            case "circle":
                pen.ellipse(box, fill)
            case "square":
                pen.rectangle(box, fill)
            case _:
                middle = left + size // 2
                pen.polygon([(middle, top), (left, top + size), (left + size, top + size)], fill)
        return Sample(self.name(index), picture=picture, label=index % 3)


@register("shapes", shape=(3, SIZE, SIZE), classes=CLASSES)
class ShapesNet(nn.Module):
    """Two convolutions with a skip between them; pixels arrive as values from 0 to 1."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.pool = nn.MaxPool2d(4)
        self.fc = nn.Linear(width * 64, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        x = torch.relu(self.second(x) + x)
        return self.fc(self.pool(x).flatten(1))  # type: ignore[no-any-return]


@postprocess.register("margin")
class Margin:
    """Reports the best class, and how far it is ahead of the next one."""

    def __init__(self, spec: PostprocessSpec, classes: tuple[str, ...]) -> None:
        self._classes = classes

    def reduce(self, output: Tensor) -> list[Mapping[str, Tensor]]:
        best = output.softmax(1).topk(2)
        return [{"scores": s, "order": o} for s, o in zip(*best, strict=True)]

    def describe(self, reduced: Mapping[str, Tensor], geometry: Geometry) -> Any:
        first, second = reduced["scores"].tolist()
        best = int(reduced["order"][0])
        return [{"label": self._classes[best], "class": best, "score": round(first - second, 4)}]

    def draw(
        self, picture: Image.Image, reduced: Mapping[str, Tensor], geometry: Geometry
    ) -> Image.Image:
        drawn = picture.resize((128, 128))
        label = self._classes[int(reduced["order"][0])]
        ImageDraw.Draw(drawn).text((4, 4), label, "white", stroke_width=2, stroke_fill="black")
        return drawn

    def ranking(self, reduced: Mapping[str, Tensor]) -> list[int]:
        return [int(index) for index in reduced["order"]]


def train(steps: int = 250) -> ShapesNet:
    """A model that tells the shapes apart."""
    from torchvision.transforms.functional import pil_to_tensor

    torch.set_num_threads(1)
    torch.manual_seed(0)
    samples = [Shapes(300, seed=1).load(i) for i in range(300)]
    pictures = torch.stack([pil_to_tensor(s.picture) for s in samples]) / 255
    labels = torch.tensor([s.label for s in samples])
    net = ShapesNet()
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(steps):
        chosen = torch.randint(0, len(samples), (64,))
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(pictures[chosen]), labels[chosen]).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return net.eval()


def _colour(draw: random.Random, low: int, high: int) -> tuple[int, int, int]:
    return draw.randint(low, high), draw.randint(low, high), draw.randint(low, high)


if __name__ == "__main__":
    torch.save(train().state_dict(), sys.argv[1])
