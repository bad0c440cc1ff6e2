"""Terminals that know few letters, full devices, closed pipes, and names with odd characters."""

import codecs
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

from splittracr.cli import output
from tests.cli.processes import Finished, environment, manifest, splittracr

RUN = "splittracr run study.yaml --out out"
FIRST = "exit ${PIPESTATUS[0]}"


def shell(line: str, cwd: Path, **extra: str) -> Finished:
    """Run a line of bash in which `splittracr` is the command."""
    command = f'splittracr() {{ {sys.executable} -P -m splittracr "$@"; }}; {line}'
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=cwd,
        env=environment(**extra),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=110,
        check=False,
    )
    return Finished(done.returncode, done.stdout.decode("latin-1"), done.stderr.decode("latin-1"))


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_run_ends_well_on_a_terminal_that_knows_few_letters(
    tmp_path: Path, encoding: str
) -> None:
    file = manifest(tmp_path, {})
    done = splittracr(
        "run", str(file), "--out", "out", cwd=tmp_path, PYTHONIOENCODING=f"{encoding}:strict"
    )
    assert (done.code, "Traceback" in done.err) == (0, False), done.err
    assert "Report: out/report.html" in done.out
    for arguments in (["--help"], ["models"], ["run", "--help"], ["plan", "mobilenet_v2"]):
        shown = splittracr(*arguments, cwd=tmp_path, PYTHONIOENCODING=f"{encoding}:strict")
        assert "Traceback" not in shown.err, shown.err


@pytest.mark.parametrize(
    "line",
    [
        f"{RUN} > /dev/full 2>&1",
        f"{RUN} | head -c 1; {FIRST}",
        f"{RUN} >&- 2>&-",
    ],
)
def test_a_study_is_whole_whatever_becomes_of_its_output(tmp_path: Path, line: str) -> None:
    manifest(tmp_path, {})
    done = shell(line, tmp_path)
    assert (done.code, done.error) == (0, "")
    assert (tmp_path / "out" / "report.html").stat().st_size > 1000
    assert len((tmp_path / "out" / "records.jsonl").read_text().splitlines()) == 3


def test_a_command_that_only_prints_fails_if_it_cannot(tmp_path: Path) -> None:
    full = shell("splittracr models > /dev/full", tmp_path)
    assert full.code == 1
    assert "Error standard output cannot be written: No space left on device" in full.err
    closed = shell("splittracr models | head -1; exit ${PIPESTATUS[0]}", tmp_path)
    assert (closed.code, closed.err) == (0, "")
    helped = shell("splittracr --help | head -1; exit ${PIPESTATUS[0]}", tmp_path)
    assert (helped.code, helped.err) == (0, "")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_every_letter_can_be_written(encoding: str) -> None:
    codecs.register_error(output.PLAIN, output.plain)
    text = "✓ ✗ … × é \udcff 中"
    shown = text.encode(encoding, output.PLAIN).decode(encoding)
    if encoding == "ascii":
        assert shown == "+ x . x ? ? ?"
    if encoding == "utf-8":
        assert shown == "✓ ✗ … × é ? 中"


def test_names_are_printed_as_they_are_and_control_characters_as_symbols(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console = output.console()
    table = Table("name", title="title :B: [red]")
    table.add_row("cell :smile: [bold]")
    table.add_row(Text("\x1b[31mred\x1b]0;title\x07\x7f"))
    console.print(table)
    console.print("a\u202eb\x9bc :warning: [/]")
    output.complain("\x1b]52;c;AAAA\x07 :B: [bold]")
    shown = capsys.readouterr()
    for part in (
        "title :B: [red]",
        "cell :smile: [bold]",
        "␛[31mred␛]0;title",
        "␡",
        "a�b�c :warning: [/]",
    ):
        assert part in shown.out
    assert "Error ␛]52;c;AAAA :B: [bold]" in shown.err
    assert not set("\x1b\x07\x7f\x9b\u202e") & set(shown.out + shown.err)


def test_a_file_gets_whole_lines_unless_columns_limit_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    cells = [f"cell-{i}-of-a-wide-table" for i in range(9)]
    table = Table(*(f"column {i}" for i in range(9)))
    table.add_row(*cells)
    output.console().print(table)
    output.console().print("word " * 40 + "end")
    *_, row, _, sentence = capsys.readouterr().out.splitlines()
    assert all(cell in row for cell in cells)
    assert sentence == "word " * 40 + "end"
    monkeypatch.setenv("COLUMNS", "70")
    output.console().print(table)
    assert max(map(len, capsys.readouterr().out.splitlines())) == 70


def test_a_manifest_is_utf8_whatever_the_locale(tmp_path: Path) -> None:
    """A value that is not ASCII comes back in the message as it was written."""
    file = tmp_path / "study.yaml"
    file.write_bytes("apiVersion: splittracr.io/v1alpha1\nkind: Größe\n".encode())
    done = splittracr(
        "run", str(file), cwd=tmp_path, LC_ALL="C", PYTHONUTF8="0", PYTHONIOENCODING="utf-8"
    )
    assert "Größe" in done.err


def test_the_help_imports_no_large_library() -> None:
    """It is the first thing that a newcomer sees."""
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from splittracr.cli.main import app\n"
        "shown = CliRunner().invoke(app, ['--help'])\n"
        "assert shown.exit_code == 0 and 'certs' in shown.output, shown.output\n"
        "large = {'pydantic', 'yaml', 'numpy', 'torch', 'PIL', 'aiohttp', 'cryptography'}\n"
        "print(sorted(large & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_an_interrupt_during_imports_ends_without_a_traceback() -> None:
    code = (
        "import sys\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'typer':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        "from splittracr.__main__ import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "")
