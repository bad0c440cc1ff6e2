import torch

from splittracr.measure import machine


def test_facts_are_there() -> None:
    assert machine.cores() >= 1
    assert machine.processor()
    assert machine.hostname()
    assert machine.versions()["torch"] == torch.__version__.partition("+")[0]
