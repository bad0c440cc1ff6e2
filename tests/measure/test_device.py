"""A device that was named is there, or it is an error."""

import pytest
import torch

from splittracr.experiment.errors import InvalidInput
from splittracr.measure import device


def test_the_cpu_is_always_there() -> None:
    assert device.resolve("cpu", "spec.edge.device") == torch.device("cpu")
    assert device.capability(torch.device("cpu")) == torch.backends.cpu.get_cpu_capability()


def test_auto_takes_what_is_there() -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert device.resolve("auto", "spec.edge.device").type in (expected, "mps")


def test_a_named_device_that_is_missing_is_never_replaced() -> None:
    missing = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(InvalidInput, match=rf"spec\.server\.device: got '{missing}'.*auto, cpu"):
        device.resolve(missing, "spec.server.device")


def test_facts_are_there() -> None:
    assert device.cores() >= 1
    assert device.processor()
    assert device.hostname()
    assert device.versions()["torch"] == torch.__version__.partition("+")[0]


def test_what_the_last_bits_depend_on_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    here = device.arithmetic(torch.device("cpu"))
    assert here == device.arithmetic(torch.device("cpu"))
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    assert device.arithmetic(torch.device("cpu")) != here
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    assert device.arithmetic(torch.device("cpu")) != here
