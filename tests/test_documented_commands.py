"""Commands in the documentation are commands of this version; those of a first session run."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.core
import typer.main
import yaml

from splittracr.cli.main import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
GENERATED = {"docs/cli.md"}
TARGETS = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def lines(page: Path) -> Iterator[str]:
    """The lines of code blocks: fenced or indented, continued lines joined."""
    fenced = False
    for line in page.read_text().replace("\\\n", " ").splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            yield line.strip()


def commands(page: Path, program: str) -> Iterator[list[str]]:
    """The arguments of each command of a program, without comments and redirections."""
    for line in lines(page):
        words = shlex.split(line, comments=True) if re.search(rf"\b{program} ", line) else []
        while words and (re.match(r"[A-Z_]+=", words[0]) or words[0] in ("sudo", "do")):
            words = words[1:]
        if words and words[0] == program:
            end = next((i for i, w in enumerate(words) if re.match(r"[|>&;]|\d>", w)), None)
            yield words[1:end]


def found(program: str) -> list[tuple[str, list[str]]]:
    return [
        (str(page.relative_to(ROOT)), argv)
        for page in PAGES
        if str(page.relative_to(ROOT)) not in GENERATED
        for argv in commands(page, program)
    ]


@pytest.mark.parametrize(("page", "argv"), found("splittracr"), ids=lambda value: str(value))
def test_a_command_and_its_options_are_there(page: str, argv: list[str]) -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    with group.make_context("splittracr", [argv[0], "--help"], resilient_parsing=True) as context:
        command = group.get_command(context, argv[0])
        assert command is not None, argv
        command.make_context(argv[0], [re.sub(r"\$\w+", "7", word) for word in argv[1:]])


def test_targets_of_make_are_there() -> None:
    named = {
        target
        for page in PAGES
        for target in re.findall(r"(?:`|^    )make ([a-z][\w-]*)", page.read_text(), re.MULTILINE)
    }
    assert named <= TARGETS
    assert {"run", "test", "generate"} <= named


def test_commands_were_found() -> None:
    assert len(found("splittracr")) > 20


def run(folder: Path, argv: list[str]) -> str:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'operator'}:{ROOT / 'workers'}"}
    done = subprocess.run(
        [sys.executable, *argv],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (argv, done.stdout, done.stderr)
    return done.stdout


@pytest.mark.slow
def test_the_first_session_and_the_comparison_of_rates(tmp_path: Path) -> None:
    page = ROOT / "docs" / "getting-started.md"
    (study,) = re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
    (tmp_path / "first.yaml").write_text(study)
    for argv in commands(page, "splittracr"):
        run(tmp_path, ["-m", "splittracr", *argv])
    results = tmp_path / "results"
    assert {path.name for path in results.iterdir()} == {"first", "wired"}
    assert all((path / "report.html").exists() for path in results.iterdir())

    for name, rate in (("first", "20000"), ("wired", "200000")):
        shutil.move(results / name, results / rate)
    guide = (ROOT / "docs" / "how-to" / "bandwidth-study.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    first, second = run(tmp_path, ["-c", code]).splitlines()
    assert first.startswith("  20000 kbit/s  ")
    assert second.startswith(" 200000 kbit/s  ")


def test_the_citation_names_this_version() -> None:
    from splittracr import __version__

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert f"version = {{{__version__}}}" in (ROOT / "docs" / "citing.md").read_text()
