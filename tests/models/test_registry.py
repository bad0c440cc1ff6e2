import subprocess
import sys

import pytest

from splittracr.experiment.errors import InvalidInput, SplittracrError
from splittracr.experiment.spec import Source
from splittracr.models import registry
from splittracr.models import ultralytics as family
from tests.models.helpers import build


def test_libraries_are_imported_when_they_are_needed() -> None:
    code = (
        "import sys, splittracr.models.registry\n"
        "assert not {'timm', 'torchvision', 'transformers', 'ultralytics'} & set(sys.modules)\n"
        "from splittracr.models import ultralytics\n"
        "assert len(ultralytics.names()) > 150\n"
        "assert 'ultralytics' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names() -> None:
    names = registry.names()
    assert list(names) == list(Source)
    assert {"alexnet", "fcn_resnet50", "r3d_18", "fasterrcnn_resnet50_fpn"} <= set(
        names[Source.TORCHVISION]
    )
    assert {"yolov8n", "yolo11n-seg", "yolov5nu", "yolov8s-obb", "yolo11x-cls"} <= set(
        names[Source.ULTRALYTICS]
    )
    assert names[Source.EFFICIENTNET_LITE] == ["efficientnet_lite0"]
    assert not any("raft" in name or "quantized" in name for name in names[Source.TORCHVISION])
    everything = [name for family in names.values() for name in family]
    assert len(everything) == len(set(everything))


@pytest.mark.parametrize(("name", "near"), [("alexnt", "alexnet"), ("yolov8m-sgm", "yolov8m-seg")])
def test_unknown_name_lists_the_nearest(name: str, near: str) -> None:
    expected = rf"spec.model.name: got '{name}', expected a model of torchvision, .*{near}"
    with pytest.raises(InvalidInput, match=expected):
        build(name=name, weights="none")


@pytest.mark.parametrize("source", list(Source))
def test_unknown_name_of_a_named_family(source: Source) -> None:
    with pytest.raises(InvalidInput, match=r"spec.model.name: got 'alexnt'"):
        build(name="alexnt", source=source)


def test_family_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family, "find_spec", lambda _: None)
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    family.configs.cache_clear()
    try:
        assert registry.names()[Source.ULTRALYTICS] == []
        with pytest.raises(SplittracrError, match=r"optional extra splittracr\[ultralytics\]"):
            build(name="yolov8n")
        with pytest.raises(SplittracrError, match=r"optional extra splittracr\[ultralytics\]"):
            build(name="anything", source=Source.ULTRALYTICS)
    finally:
        family.configs.cache_clear()
