"""Edge and server as processes, with a codec that one of them may lack."""

import os
from pathlib import Path

import pytest

from splittracr.results import journal
from tests.cli.processes import environment, event, manifest, splittracr, start
from tests.wire.packages import package


@pytest.mark.parametrize(
    ("there", "refusal"),
    [
        ("1.2", None),
        ("1.3", "version of codec 'acme.deflate': the edge has '1.2', the server '1.3'"),
        (None, "the server lacks codec 'acme.deflate' of the edge"),
    ],
)
def test_both_ends_have_the_codec_or_the_edge_is_refused(
    tmp_path: Path, there: str | None, refusal: str | None
) -> None:
    def path(version: str | None) -> str:
        ours = environment()["PYTHONPATH"]
        if version is None:
            return ours
        folder = tmp_path / version
        return os.pathsep.join(
            (str(folder if folder.exists() else package(folder, version=version)), ours)
        )

    file = manifest(tmp_path, {"transport": {"security": "Plain"}, "results": {"pictures": 0}})
    server = start("server", str(file), cwd=tmp_path, PYTHONPATH=path(there))
    try:
        url = event(server.stdout, "serving")["url"]
        named = ("--set", "spec.transport.codec=acme.deflate")
        arguments = ("edge", str(file), "--out", "out", "--server", url, *named)
        done = splittracr(*arguments, cwd=tmp_path, PYTHONPATH=path("1.2"))
    finally:
        server.terminate()
        server.communicate(timeout=100)
    if refusal is not None:
        assert done.code == 1
        assert refusal in done.err
        return
    assert done.code == 0, done.err
    records = journal.read(tmp_path / "out" / journal.FILE)
    assert [(r.outcome, r.codec, r.finished_on) for r in records] == [
        ("ok", "acme.deflate", "server")
    ] * 3


@pytest.mark.parametrize(
    "end", [("edge", "--out", "out", "--server", "ws://127.0.0.1:9"), ("server",)]
)
def test_an_end_without_the_codec_of_its_manifest_says_so_before_it_starts(
    tmp_path: Path, end: tuple[str, ...]
) -> None:
    file = manifest(tmp_path, {"transport": {"security": "Plain", "codec": "acme.deflate"}})
    command, *options = end
    done = splittracr(command, str(file), *options, cwd=tmp_path)
    assert done.code == 2
    assert "spec.transport.codec: got 'acme.deflate', expected a codec of a package" in done.err
