"""The command where there is no Prometheus, or something else."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from splittracr.cli.main import app
from tests.monitoring.http_server import listening


def run(address: str, out: Path) -> tuple[int, str]:
    arguments = ["dashboard", "study", "--prometheus", address, "-o", str(out)]
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "300", "NO_COLOR": "1"})
    return done.exit_code, " ".join(done.output.split())


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """A server that gives this answer to everything."""
    with listening(lambda _: (status, body)) as address:
        yield f"http://user:secret@{address}/prefix/"


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, b"no", "expected a Prometheus (HTTP 401, no JSON)"),
        (200, b"[]", "expected a Prometheus (HTTP 200, JSON of something else)"),
        (404, b'{"error": "x"}', "expected a Prometheus (HTTP 404, JSON of something else)"),
        (200, b'{"status": "success", "data": []}', "STUDY: got 'study', expected a study; "),
    ],
)
def test_an_answer_that_does_not_help(status: int, body: bytes, said: str, tmp_path: Path) -> None:
    with answering(status, body) as address:
        code, out = run(address, tmp_path / "a.html")
    assert code == 2, out
    assert said in out
    assert "secret" not in out


def test_nothing_listens(tmp_path: Path) -> None:
    with answering(200, b"") as address:
        pass
    code, out = run(address, tmp_path / "a.html")
    assert code == 2
    assert "--prometheus: got 'http://127.0.0.1:" in out
    assert "expected a Prometheus that can be reached (" in out


@pytest.mark.parametrize("address", ["localhost:9090", "ftp://a", "http://", "http://[", ""])
def test_no_address(address: str, tmp_path: Path) -> None:
    code, out = run(address, tmp_path / "a.html")
    assert code == 2
    assert f"--prometheus: got '{address}', expected an address such as http://" in out


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    code, out = run("http://localhost:1", tmp_path / "a.pdf")
    assert code == 2
    assert "--out: got " in out
    assert "expected a file that ends in .html or .png" in out
