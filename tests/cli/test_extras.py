"""Commands where only some of the optional packages are installed."""

import subprocess
import sys
from pathlib import Path

import pytest

from splittracr.results import archive
from tests.cli.processes import environment

ENVIRONMENT = Path(__file__).parents[1] / "results" / "version1" / "environment.json"
BARE = """
import sys
from types import SimpleNamespace
missing = "torch torchvision numpy jinja2 msgspec lz4 polars PIL matplotlib psutil blosc2".split()
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
from splittracr.cli import cluster
from splittracr.cli.main import app
packed = open("packed.tar.gz", "rb").read()
client = SimpleNamespace(archives=lambda namespace, name: {"edge-0": packed})
cluster.client = lambda: client
app(sys.argv[1:])
"""


def bare(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command without any package of the extra `workers`; `results` finds an archive."""
    files = folder / "files"
    files.mkdir()
    (files / "records.jsonl").touch()
    (files / "environment.json").write_bytes(ENVIRONMENT.read_bytes())
    (folder / "packed.tar.gz").write_bytes(archive.pack(files))
    return subprocess.run(
        [sys.executable, "-P", "-c", BARE, *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_results_are_fetched_and_what_is_missing_for_the_report_is_named(tmp_path: Path) -> None:
    done = bare(tmp_path, "results", "study", "--out", "out")
    assert done.returncode == 0, done.stderr
    assert "The results are in out." in done.stderr
    assert "pip install 'splittracr[workers]'" in done.stderr
    assert "splittracr report out" in done.stderr
    brought = tmp_path / "out/edges/edge-0/environment.json"
    assert brought.read_bytes() == ENVIRONMENT.read_bytes()
    assert (tmp_path / "out/records.jsonl").exists()


@pytest.mark.parametrize(
    "arguments", [["models"], ["report", "."], ["cuts", "resnet18"], ["plan", "vgg16"]]
)
def test_a_command_that_needs_more_says_what_to_install(
    arguments: list[str], tmp_path: Path
) -> None:
    done = bare(tmp_path, *arguments)
    assert done.returncode == 1
    assert "This command needs more than is installed: pip install" in done.stderr
    assert "Traceback" not in done.stderr
