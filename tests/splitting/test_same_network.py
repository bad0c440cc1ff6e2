"""Copies of a user's module are distinguished by their results; errors name the part."""

import importlib
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from msgspec import structs

from splittracr.backends.torch import build
from splittracr.experiment.errors import CaptureError
from splittracr.splitting import behaviour
from splittracr.wire.identity import difference
from splittracr.wire.messages import Identity
from tests.workers.pair import spec

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")

NAME = "copied_network"
HEAD = """
import functools
from pathlib import Path
import torch
from torch import nn
from splittracr.models.registry import register
"""
TAIL = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.part = make_part()
        self.fc = nn.Linear(4, 10)

    def forward(self, x):
        return self.fc(torch.relu(self.part(self.first(x))).mean((2, 3)))

register("copied", shape=(3, 16, 16), leaves=LEAVES)(Net)
"""
LEAF = "class Part(nn.Module):\n    def forward(self, x):\n        return {}\n"
PART = "\nmake_part, LEAVES = Part, (Part,)\n"


def leaf(before: str, computed: str) -> str:
    return before + "\n" + LEAF.format(computed) + PART


POST = """
make_part, LEAVES = nn.Identity, ()

class Post:
    def __init__(self, spec, classes):
        pass
    def reduce(self, output):
        return [{"class": one.argmax() + SHIFT} for one in output]
    def describe(self, reduced, geometry):
        return int(reduced["class"])
    def draw(self, picture, reduced, geometry):
        return picture
    def ranking(self, reduced):
        return None
"""

CASES = {
    "a class in leaves": (leaf("", "x * @"), "operation part (copied_network.Part)"),
    "a module constant": (leaf("FACTOR = @", "x * FACTOR"), "operation part (copied_network.Part)"),
    "a script": (
        LEAF.format("x * @")
        + "\ndef make_part():\n    return torch.jit.script(Part())\n"
        + "\nLEAVES = (torch.jit.ScriptModule,)\n",
        "operation part (copied_network.Part)",
    ),
    "a script that no leaf names": (
        LEAF.format("x * @")
        + "\ndef make_part():\n    return torch.jit.script(Part())\n"
        + "\nLEAVES = ()\n",
        "operation part.forward (copied_network.Part)",
    ),
    "a wrapped function": (
        "def scaled(x):\n    return x * @\n"
        + "\ntorch.fx.wrap('scaled')\n"
        + LEAF.format("scaled(x)")
        + "\nmake_part, LEAVES = Part, ()\n",
        "operation part.scaled (copied_network.scaled)",
    ),
    "a post-processor": (POST.replace("SHIFT", "@"), "post-processor copied_network:Post"),
    "a default argument": (
        leaf("def scaled(x, by=@):\n    return x * by\n", "scaled(x)"),
        "operation part (copied_network.Part)",
    ),
    "a closure": (
        leaf("def by(n):\n    return lambda x: x * n\n\nscaled = by(@)\n", "scaled(x)"),
        "operation part (copied_network.Part)",
    ),
    "a hook": (
        "def make_part():\n    part = nn.Identity()\n"
        + "    part.register_forward_hook(lambda module, args, out: out * @)\n    return part\n"
        + "\nLEAVES = ()\n",
        "operation part (torch.nn.modules.linear.Identity)",
    ),
}


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    for name in (NAME, f"{NAME}_helper"):
        sys.modules.pop(name, None)


def copy(folder: Path, text: str, **others: str) -> Path:
    """A folder with the user's module and other files."""
    folder.mkdir(exist_ok=True)
    (folder / f"{NAME}.py").write_text(HEAD + text + TAIL)
    for name, content in others.items():
        (folder / name.replace("__", ".")).write_text(content)
    return folder


def identity(folder: Path, **sections: object) -> Identity:
    """The identity of the network in a folder, as a worker has it that starts there."""
    for name in (NAME, f"{NAME}_helper"):
        sys.modules.pop(name, None)
    importlib.invalidate_caches()
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(folder))
        post = f"{NAME}:Post" if "class Post" in (folder / f"{NAME}.py").read_text() else None
        of = spec(model={"name": f"{NAME}:Net"}, postprocess={"name": post}, **sections)
        return build.build(of, "edge", folder).identity


@pytest.mark.parametrize("case", CASES)
def test_code_that_computes_something_else_is_refused_and_named(two: Path, case: str) -> None:
    text, part = CASES[case]
    first = identity(copy(two / "a", text.replace("@", "2")))
    again = identity(copy(two / "b", text.replace("@", "2")))
    other = identity(copy(two / "c", text.replace("@", "3")))
    assert difference(first, again) is None
    said = difference(first, other)
    assert said is not None
    assert said.startswith(part)
    assert f"; source file {NAME}.py: the edge has 'sha256:" in said


@pytest.mark.parametrize("case", CASES)
def test_the_numbers_tell_them_apart_on_different_processors(two: Path, case: str) -> None:
    text, part = CASES[case]
    first, again = (
        identity(copy(two / folder, text.replace("@", factor)))
        for folder, factor in (("a", "2"), ("b", "3"))
    )
    elsewhere = structs.replace(again, processor="another", code={})
    said = difference(first, elsewhere)
    assert said is not None
    assert said.startswith(part)
    nearly = tuple(
        structs.replace(
            one,
            digest="another",
            tensors=tuple(structs.replace(t, mean=t.mean + 0.005 * t.rms) for t in one.tensors),
        )
        for one in first.parts
    )
    assert difference(first, structs.replace(first, processor="another", parts=nearly)) is None


def test_a_file_that_a_leaf_reads_counts(two: Path) -> None:
    text = leaf("", "x * float(Path(__file__).with_name('factor.txt').read_text())")
    first = identity(copy(two / "a", text, factor__txt="2"))
    other = identity(copy(two / "b", text, factor__txt="3"))
    said = difference(first, other)
    assert said is not None
    assert said.startswith("operation part (copied_network.Part)")
    assert "source file" not in said


def test_a_helper_that_the_module_imports_is_named(two: Path) -> None:
    text = leaf(f"from {NAME}_helper import scaled\n", "scaled(x)")
    helpers = {f"{NAME}_helper__py": "def scaled(x):\n    return x * @\n"}
    first, other = (
        identity(copy(two / folder, text, **{k: v.replace("@", by) for k, v in helpers.items()}))
        for folder, by in (("a", "2"), ("b", "3"))
    )
    said = difference(first, other)
    assert said is not None
    assert f"; source file {NAME}_helper.py: the edge has " in said


@pytest.mark.parametrize(
    "imported", [f"__import__('{NAME}_helper')", f"importlib.import_module('{NAME}_helper')"]
)
def test_a_helper_that_is_imported_by_a_function_is_named(two: Path, imported: str) -> None:
    text = leaf("import importlib\n", f"{imported}.scaled(x)")
    # The inputs of the handshake do not reach the difference.
    helper = "def scaled(x):\n    return x * 2 if x.abs().max() < 1e6 else x * @\n"
    first, again, other = (
        identity(copy(two / folder, text, **{f"{NAME}_helper__py": helper.replace("@", by)}))
        for folder, by in (("a", "5"), ("b", "5"), ("c", "7"))
    )
    assert difference(first, again) is None
    said = difference(first, other)
    assert said is not None
    assert said.startswith(f"source file {NAME}_helper.py: the edge has ")


def test_line_ends_do_not_count(two: Path) -> None:
    first, other = (identity(copy(two / folder, leaf("", "x * 2"))) for folder in "ab")
    file = two / "b" / f"{NAME}.py"
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert difference(first, identity(two / "b")) is None
    assert difference(first, other) is None


def test_code_that_these_inputs_do_not_reach_is_refused_too(two: Path) -> None:
    text = leaf("", "x * 2 if x.abs().max() < 1e6 else x * @")
    first, other = (
        identity(copy(two / folder, text.replace("@", by)))
        for folder, by in (("a", "5"), ("b", "7"))
    )
    said = difference(first, other)
    assert said is not None
    assert said.startswith(f"source file {NAME}.py: the edge has 'sha256:")


def test_another_version_of_a_library_is_refused_with_both(
    two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, version = copy(two / "a", leaf("", "x * 2")), metadata.version
    first = identity(folder)
    changed = {"torch": "1.2.3"}
    monkeypatch.setattr(metadata, "version", lambda name: changed.get(name) or version(name))
    theirs = first.versions["torch"]
    assert difference(first, identity(folder)) == (
        f"version of torch: the edge has {theirs!r}, the server '1.2.3'"
    )
    changed["torch"] = f"{theirs}+another.build"
    assert difference(first, identity(folder)) is None


def test_a_part_that_is_random_is_refused(two: Path) -> None:
    folder = copy(two / "a", leaf("", "torch.nn.functional.dropout(x, 0.5, True)"))
    with pytest.raises(CaptureError, match=r"^Net is not the same twice: the operation part draws"):
        identity(folder)


def test_many_opaque_parts_make_a_bounded_identity(
    two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(behaviour, "MAX_PARTS", 4)
    text = LEAF.format("x * @")
    text += "\ndef make_part():\n    return nn.Sequential(*[Part() for _ in range(9)])\n"
    text += "\nLEAVES = (Part,)\n"
    first, other = (
        identity(copy(two / folder, text.replace("@", by)))
        for folder, by in (("a", "2"), ("b", "3"))
    )
    assert len(first.parts) == 2 * 4 + 2
    assert str(difference(first, other)).startswith("the operations up to ")
