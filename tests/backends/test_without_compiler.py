"""A worker starts without the compiler of torch, and imports it when it is used."""

import subprocess
import sys

import pytest

BUILD = """
import sys
from pathlib import Path
from splittracr.backends import registry
from splittracr.experiment.spec import ExperimentSpec
spec = {"model": {"name": "mobilenet_v3_small", "weights": "none"}}
spec = ExperimentSpec.model_validate({**spec, "partition": {"mode": "Sweep"}})
own = registry.load().build(spec, "edge", Path())
"""


def run(code: str) -> str:
    """The output of a process of its own: this one has imported the compiler already."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def test_a_worker_is_ready_without_the_compiler() -> None:
    found = "print([name for name in ('torch._dynamo', 'sympy') if name in sys.modules])"
    assert run(BUILD + found) == "[]"


@pytest.mark.parametrize(
    "code",
    [
        "print(torch._dynamo.utils.is_compile_supported('cpu'))",
        "from torch._dynamo import is_compiling; print(not is_compiling())",
        "print(sys.modules['torchvision.ops.roi_align'].is_compile_supported('cpu'))",
        "added = torch.compile(lambda x: x + 1, backend='eager'); print(added(1) == 2)",
    ],
)
def test_the_compiler_is_there_when_it_is_needed(code: str) -> None:
    start = "import sys, torch, splittracr.backends.torch\n"
    assert run(start + code) == "True"
    assert run(start + "print('torch._dynamo' in sys.modules)") == "False"


def test_what_a_stand_in_lacks_brings_the_compiler_during_the_import() -> None:
    code = """
import sys, torch
class Finder:
    def find_spec(name, path=None, target=None):
        if name == "torchvision":
            from torch._dynamo.utils import is_compile_supported, counters
            import torch._dynamo.config
sys.meta_path.insert(0, Finder)
import splittracr.backends.torch
print(torch._dynamo.utils.counters is not None, torch._dynamo.config.disable)
"""
    assert run(code) == "True False"
