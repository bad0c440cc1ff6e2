"""Users without a home folder, as containers have them."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from splittracr.data import datasets, home
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.spec import DatasetSpec, ModelSpec
from splittracr.models import weights
from tests.cli.processes import environment

HOMELESS = """
import os, pwd, sys
os.environ.pop("HOME", None)
def unknown(uid): raise KeyError(uid)
pwd.getpwuid = unknown
from splittracr.cli.main import app
app(sys.argv[1:])
"""


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No HOME, and no entry in the user database."""
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    return tmp_path


FIELDS: list[tuple[str, Callable[[str, Path], Any]]] = [
    (
        "spec.model.weightsFile",
        lambda path, base: weights.file_path(ModelSpec(name="n", weights_file=path), base),
    ),
    (
        "spec.dataset.path",
        lambda path, base: datasets.open_dataset(
            DatasetSpec.model_validate({"source": "Folder", "path": path}), base
        ),
    ),
    ("spec.dataset.classNames", lambda path, base: datasets.read_class_names(path, base, None)),
]


@pytest.mark.parametrize(("field", "read"), FIELDS)
def test_a_path_of_a_user_that_is_not_here_is_named(
    field: str, read: Callable[[str, Path], Any], tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match=f"{field}.*there is no user nosuchuser here"):
        read("~nosuchuser/x", tmp_path)


@pytest.mark.parametrize(("field", "read"), FIELDS)
def test_a_tilde_without_a_home_is_named(
    field: str, read: Callable[[str, Path], Any], homeless: Path
) -> None:
    with pytest.raises(InvalidInput, match=f"{field}.*there is no home folder here"):
        read("~/x", homeless)


def test_a_home_is_made_for_libraries_that_want_one(homeless: Path) -> None:
    home.ensure()
    assert Path.home() == homeless / f"splittracr-home-{os.getuid()}"
    assert Path.home().stat().st_mode & 0o777 == 0o700
    home.ensure()
    assert sorted(homeless.iterdir()) == [Path.home()]


def test_a_link_in_its_place_is_not_followed(homeless: Path) -> None:
    (homeless / "elsewhere").mkdir()
    (homeless / f"splittracr-home-{os.getuid()}").symlink_to(homeless / "elsewhere")
    home.ensure()
    assert Path.home().resolve() != (homeless / "elsewhere").resolve()


def test_a_home_that_is_there_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    home.ensure()
    assert Path.home() == tmp_path


@pytest.mark.parametrize("arguments", [["status"], ["models", "yolov8n"]])
def test_commands_work_without_a_home(arguments: list[str], tmp_path: Path) -> None:
    variables = environment(TMPDIR=str(tmp_path))
    variables.pop("KUBECONFIG", None)
    done = subprocess.run(
        [sys.executable, "-c", HOMELESS, *arguments],
        env=variables,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == (2 if arguments == ["status"] else 0)
