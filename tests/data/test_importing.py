"""Objects named as `package.module:Name`: found beside the manifest first."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from splittracr.data import importing
from splittracr.data.importing import import_object, look_in
from splittracr.experiment.errors import InvalidInput


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder from which modules are imported, until the test has ended."""
    known = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(importing, "_folders", [])
    look_in(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


@pytest.mark.parametrize("name", ["test", "queue", "types", "json", "ordinary"])
def test_a_file_beside_the_manifest_comes_before_any_library(beside: Path, name: str) -> None:
    (beside / f"{name}.py").write_text("class Net:\n    origin = 'mine'\n")
    assert import_object(f"{name}:Net", "f").origin == "mine"
    assert import_object(f"{name}:Net", "f") is import_object(f"{name}:Net", "f")
    code = "import queue, types, json, logging; queue.Queue, types.ModuleType, json.loads"
    exec(code)


@pytest.mark.parametrize("has_init", [True, False])
def test_a_package_with_a_librarys_name_keeps_its_relative_imports(
    beside: Path, has_init: bool
) -> None:
    package = beside / "email" / "nets"
    package.mkdir(parents=True)
    if has_init:
        (beside / "email" / "__init__.py").touch()
        (package / "__init__.py").touch()
    (package / "base.py").write_text("VALUE = 7\n")
    (package / "one.py").write_text("from .base import VALUE\nclass Net:\n    value = VALUE\n")
    assert import_object("email.nets.one:Net", "f").value == 7


def test_libraries_are_found_where_no_file_has_their_name(beside: Path) -> None:
    (beside / "collections").mkdir()  # a folder is no module
    assert import_object("collections.abc:Sequence", "f").__name__ == "Sequence"


def test_modules_beside_each_other_import_each_other(beside: Path) -> None:
    (beside / "helper_beside.py").write_text("VALUE = 7\n")
    (beside / "queue.py").write_text("from helper_beside import VALUE\n")
    assert import_object("queue:VALUE", "f") == 7


def test_messages_name_the_file(beside: Path) -> None:
    (beside / "test.py").write_text("import missing_library_of_mine\n")
    (beside / "queue.py").touch()
    with pytest.raises(InvalidInput, match=rf"{beside}/test\.py: ModuleNotFoundError"):
        import_object("test:Net", "f")
    with pytest.raises(InvalidInput, match=f"a name that {beside}/queue.py has"):
        import_object("queue:Net", "f")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("import sys; sys.exit(0)", r"called sys\.exit\(0\)"),
        ("raise SystemExit", r"called sys\.exit\(\)"),
        ("class Own(BaseException): pass\nraise Own('words')", "raised Own: words"),
    ],
)
def test_a_module_that_exits_is_an_error(beside: Path, line: str, words: str) -> None:
    (beside / "leaves.py").write_text(line)
    with pytest.raises(InvalidInput, match=words):
        import_object("leaves:Net", "f")


def test_the_current_folder_shadows_no_library_of_the_command(tmp_path: Path) -> None:
    for name in ("queue", "logging", "random"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('foreign code')\n")
    done = subprocess.run(
        [sys.executable, "-m", "splittracr", "--version"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(importing.__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout[:11]) == (0, "splittracr "), done.stderr
