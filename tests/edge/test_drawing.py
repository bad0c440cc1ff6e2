"""Which predictions are drawn, and into which folders."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from splittracr.data.contracts import Geometry, Sample
from splittracr.edge.drawing import Drawings
from splittracr.edge.frame import Prediction
from splittracr.edge.recording import Finished
from splittracr.edge.result import Result
from splittracr.experiment.codec import Codec
from splittracr.experiment.spec import ResultsSpec
from splittracr.experiment.types import Cut, Place
from splittracr.planning.decision import Decision
from splittracr.planning.schedule import Step, Trial

CUTS = [
    Cut(index=3, name="layer1.0/relu", live=(), bytes=0, work=0.5),
    Cut(index=12, name="output", live=(), bytes=0, work=1.0),
]


class Squares:
    """Five grey pictures."""

    classes = None

    def __len__(self) -> int:
        return 5

    def name(self, index: int) -> str:
        return f"{index}.png"

    def load(self, index: int) -> Sample:
        return Sample(self.name(index), picture=Image.new("RGB", (8, 8), (40 * index,) * 3))


class Brighter:
    """Draws a prediction as the picture's colour."""

    def draw(self, picture: Image.Image, reduced: Any, geometry: Geometry) -> Image.Image:
        del geometry
        return Image.new("RGB", picture.size, (reduced,) * 3)


def finished(sample: int, cut: Cut, value: int) -> Finished:
    prediction = Prediction(value, Geometry((8, 8), (8, 8)), None)  # type: ignore[arg-type]
    result = Result(
        cut=cut,
        decision=Decision(cut.index, Codec.parse("raw")),
        due=0.0,
        started_at=0.0,
        size=1,
        predictions={0: prediction},
        failures={},
        digest=None,
        finished_on=Place.EDGE,
        fallback=None,
        late=None,
        exchange=None,
        stages={},
        total_ms=1.0,
    )
    return Finished(Step(Trial(0, cut.index, 0), sample), result)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"pictures": 0}, []),
        ({"pictures": 2}, ["0000.jpg", "0001.jpg"]),
        ({"pictures": "All"}, [f"000{i}.jpg" for i in range(5)]),
        (
            {"pictures": 1, "picturesPerCut": True},
            ["0000.jpg", "003-layer1.0_relu/0000.jpg", "012-output/0000.jpg"],
        ),
    ],
)
def test_pictures_are_drawn_as_the_manifest_wants(
    tmp_path: Path, wanted: dict[str, Any], expected: list[str]
) -> None:
    spec = ResultsSpec.model_validate(wanted, by_alias=True)
    drawings = Drawings(Squares(), Brighter(), spec)  # type: ignore[arg-type]
    for sample in range(5):
        for number, cut in enumerate(CUTS):
            drawings.keep(finished(sample, cut, 100 * number))
    drawings.write(tmp_path / "pictures")
    folder = tmp_path / "pictures"
    files = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.jpg"))]
    assert files == expected
    if "012-output/0000.jpg" in files:
        with Image.open(folder / "012-output" / "0000.jpg") as picture:
            assert picture.getpixel((4, 4)) == (100, 100, 100)
