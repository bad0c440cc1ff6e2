from collections.abc import Iterator

import pytest
import torch
from torchvision.models import WeightsEnum

from splittracr.data.importing import import_ultralytics

# Tests import ultralytics by themselves: its patch of Pillow is undone before they do.
import_ultralytics("ultralytics.utils.patches")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test may fetch weights; those that need some bring their own."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network in tests")

    monkeypatch.setattr(WeightsEnum, "get_state_dict", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
