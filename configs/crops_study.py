"""Hundreds of pictures for crops.yaml beside this file: random parts of those shipped here."""

import random
from collections.abc import Sequence

from splittracr.data.contracts import Sample
from splittracr.data.datasets import Samples


class Crops:
    """Parts of at least half the width and height of a picture, the same ones for the same seed."""

    classes: Sequence[str] | None = None

    def __init__(self, count: int = 120, seed: int = 0) -> None:
        self._count, self._seed, self._whole = count, seed, Samples()

    def __len__(self) -> int:
        return self._count

    def name(self, index: int) -> str:
        return f"{index}-{self._whole.name(index % len(self._whole))}"

    def load(self, index: int) -> Sample:
        draw = random.Random(self._seed * 1_000_003 + index)
        picture = self._whole.load(index % len(self._whole)).picture
        assert picture is not None
        share = draw.uniform(0.5, 1)
        width, height = (int(side * share) for side in picture.size)
        left = draw.randint(0, picture.width - width)
        top = draw.randint(0, picture.height - height)
        part = picture.crop((left, top, left + width, top + height))
        return Sample(self.name(index), picture=part)
