import base64
import io
from pathlib import Path

import pytest
from PIL import Image

from splittracr.results import gallery
from tests.results import synthetic

CUTS = synthetic.cuts(4)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    records = synthetic.records(CUTS, samples=6)
    return synthetic.write_study(tmp_path, records, synthetic.environment(CUTS), pictures=3)


def test_pictures_carry_the_prediction_of_their_sample(study: Path) -> None:
    shown = gallery.gallery(study, synthetic.records(CUTS, samples=6, labelled=True))
    assert [(one.prediction, one.correct) for one in shown] == [
        ("minibus", False),
        ("tabby", True),
        ("space shuttle", True),
    ]


def test_pictures_are_scaled_down_and_stand_inside(study: Path) -> None:
    shown = gallery.gallery(study, synthetic.records(CUTS))
    assert len(shown) == 3
    for one in shown:
        kind, _, data = one.uri.partition(",")
        assert kind == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            assert picture.size == (one.width, one.height)
            assert max(picture.size) <= 420


def test_what_is_no_picture_of_a_good_sample_is_left_out(
    study: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (study / "pictures" / "0004-torn.jpg").write_bytes(b"not a picture")
    (study / "pictures" / "holiday.jpg").write_bytes(b"of somebody else")
    records = [one for one in synthetic.records(CUTS, samples=6) if one.sample != 1]
    assert [one.name for one in gallery.gallery(study, records)] == [
        "minibus_000.jpg",
        "space_shuttle_002.jpg",
    ]
    assert "left out of the report" in caplog.text


def test_a_name_may_be_the_number_alone(study: Path) -> None:
    for path in (study / "pictures").glob("*.jpg"):
        path.rename(path.with_name(f"{path.name[:4]}.jpg"))
    assert len(gallery.gallery(study, synthetic.records(CUTS, samples=6))) == 3


def test_many_pictures_are_cut_short(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "MAX_PICTURES", 2)
    assert len(gallery.gallery(study, synthetic.records(CUTS))) == 2


def test_a_folder_without_pictures_has_no_gallery(tmp_path: Path) -> None:
    assert gallery.gallery(tmp_path, synthetic.records(CUTS)) == []
