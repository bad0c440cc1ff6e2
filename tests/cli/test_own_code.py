"""Code of the user's own that exits, and files in its folder that are named like libraries."""

import sys
from pathlib import Path

import pytest

from splittracr.data.containment import contained
from splittracr.experiment.errors import LeftEarly
from tests.cli.processes import manifest, splittracr

NET = """
import sys
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(3 * 16 * 16, 4)
        {constructor}
    def forward(self, x):
        {forward}
        return self.fc(x.flatten(1))
class Data:
    def __len__(self):
        return 3
    def __getitem__(self, i):
        {load}
        return torch.zeros(3, 16, 16), 0
"""


def own(folder: Path, module: str = "test", **lines: str) -> Path:
    """A manifest of a network in `test.py` beside it; `lines` are put into its methods."""
    body = {"constructor": "pass", "forward": "pass", "load": "pass", **lines}
    text = NET.format(**body) + (
        "from splittracr.models.custom import register\n"
        "register('own_net', shape=(3, 16, 16), input_dtype=torch.float32)(Net)\n"
    )
    (folder / f"{module}.py").write_text(text)
    sections = {
        "model": {"source": "custom", "name": f"{module}:Net", "weights": "none"},
        "dataset": {"source": "Class", "class": f"{module}:Data"},
        "partition": {"mode": "Static", "cut": 1},
        "workload": {"samples": 2},
        "postprocess": {"name": "raw"},
    }
    return manifest(folder, sections)


def test_files_named_like_libraries_harm_no_run(tmp_path: Path) -> None:
    file = own(tmp_path)
    for name in ("queue", "types", "logging", "operator"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('foreign code')\n")
    done = splittracr("run", str(file), "--out", "out", cwd=tmp_path)
    assert done.code == 0, done.err
    assert len((tmp_path / "out" / "records.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("where", ["constructor", "forward"])
def test_a_network_that_exits_is_an_error_with_a_sentence(tmp_path: Path, where: str) -> None:
    file = own(tmp_path, **{where: "sys.exit(0)"})
    cuts = splittracr("cuts", "test:Net", cwd=tmp_path)
    assert cuts.code != 0
    assert "called sys.exit(0)" in cuts.err
    ran = splittracr("run", str(file), cwd=tmp_path)
    assert ran.code != 0
    assert "called sys.exit(0)" in ran.err
    assert "Traceback" not in cuts.err + ran.err


@pytest.mark.parametrize("where", ["constructor", "load"])
def test_a_process_that_is_ended_with_status_0_is_no_success(tmp_path: Path, where: str) -> None:
    ended = {where: "__import__('os')._exit(0)"}
    done = splittracr("run", str(own(tmp_path, **ended)), "--out", "out", cwd=tmp_path)
    assert done.code == 1
    assert "process ended with status 0" in done.err
    assert "Traceback" not in done.err


def test_what_a_library_writes_to_standard_output_loses_no_event(tmp_path: Path) -> None:
    for junk in ("b'[1]\\n{}\\nno end of a line'", "b'x' * 200_000"):
        file = own(tmp_path, load=f"__import__('os').write(1, {junk})")
        done = splittracr("run", str(file), "--out", junk[2:4].strip("'["), cwd=tmp_path)
        assert done.code == 0, done.err


def test_a_data_set_that_exits_fails_its_samples(tmp_path: Path) -> None:
    file = own(tmp_path, load="i == 1 and sys.exit(0)")
    done = splittracr("run", str(file), "--out", "out", cwd=tmp_path)
    assert "Traceback" not in done.err
    records = (tmp_path / "out" / "records.jsonl").read_text()
    assert records.count("\n") == 2
    assert "called sys.exit(0)" in records


def test_only_what_is_no_error_is_turned_into_one() -> None:
    with pytest.raises(ValueError, match="x"), contained():
        raise ValueError("x")
    with pytest.raises(KeyboardInterrupt), contained():
        raise KeyboardInterrupt
    with pytest.raises(LeftEarly, match="'done'"), contained():
        sys.exit("done")
