"""The model on its way to an edge without PyTorch, over a link that breaks."""

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from splittracr.backends import exported, registry
from splittracr.edge import model
from splittracr.edge.dial import Endpoint
from splittracr.experiment.contracts import MODEL_PATH, SESSION_PATH
from splittracr.experiment.errors import (
    HandshakeRefused,
    InvalidInput,
    ServerLost,
    SplittracrError,
)
from splittracr.experiment.spec import ExperimentSpec

CONTENT = {
    "graph.onnx": b"graph",
    "weights.bin": bytes(range(256)) * 4096,
    "outputs.bin": b"",
}


def described(**changes: Any) -> bytes:
    """A description of CONTENT with one live tensor at each of two cuts."""
    cuts = [
        {"index": i, "name": name, "live": [], "bytes": 4, "work": float(i)}
        for i, name in enumerate(("input", "output"))
    ]
    live = {"values": [{"t": 0}], "tensors": [{"name": "x", "dtype": "float32", "shape": [1]}]}
    files = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in CONTENT.items()
    }
    facts = {
        "files": files,
        "runtime": "1.0",
        "name": "net",
        "weights": "none",
        "classes": [],
        "pictures": True,
        "shape": [3, 8, 8],
        "dtype": "uint8",
        "prepared": {},
        "preparation": None,
        "postprocessor": "raw",
        "identity": {},
        "parts": ["a", "b"],
        "cuts": cuts,
        "refused": {},
        "op_ms": [1.0],
        "uncounted": [],
        "operations": [],
        "former_names": {},
        "memory_bytes": [4, 4],
        "live": [live, live],
        "output": {"t": 0},
    }
    return json.dumps({**facts, **changes}).encode()


class Store:
    """A server of the files. `break_after` are the bytes after which each answer is cut off."""

    def __init__(self, *break_after: int, text: bytes | None = None) -> None:
        self.text = described() if text is None else text
        self.breaks = list(break_after)
        self.asked: list[tuple[str, str | None]] = []
        self.busy = 0
        self.status: int | None = None
        self.content = dict(CONTENT)
        self.part: Path | None = None

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get(MODEL_PATH, self.describe)
        app.router.add_get(f"{MODEL_PATH}/{{digest}}/{{name}}", self.send)
        return app

    async def describe(self, request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer secret"
        if self.status is not None:
            return web.Response(status=self.status, text="a reason")
        if self.busy:
            self.busy -= 1
            return web.Response(status=503, text="the server exports the model")
        return web.Response(body=self.text)

    async def on_disk(self, size: int) -> None:
        """Wait until the edge has written what it got: what a closing link drops is sent again."""
        async with asyncio.timeout(60):
            while self.part is not None and not _has(self.part, size):  # noqa: ASYNC110 - a file
                await asyncio.sleep(0.005)

    async def send(self, request: web.Request) -> web.StreamResponse:
        name, asked = request.match_info["name"], request.headers.get("Range")
        self.asked.append((name, asked))
        content = self.content[name]
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        answer = web.StreamResponse(status=206 if asked else 200)
        answer.content_length = len(content) - start
        await answer.prepare(request)
        stop = len(content)
        if name == "weights.bin" and self.breaks:
            stop = start + self.breaks.pop(0)
        await answer.write(content[start:stop])
        if stop < len(content) and request.transport is not None:
            await self.on_disk(stop)
            request.transport.close()
        return answer


def _has(path: Path, size: int) -> bool:
    return path.exists() and path.stat().st_size >= size


@asynccontextmanager
async def served(store: Store) -> AsyncIterator[Endpoint]:
    runner = web.AppRunner(store.app())
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        port = runner.addresses[0][1]
        yield Endpoint(f"ws://127.0.0.1:{port}{SESSION_PATH}", "secret")
    finally:
        await runner.cleanup()


def spec(**edge: Any) -> ExperimentSpec:
    return ExperimentSpec.model_validate(
        {
            "model": {"name": "net", "exactness": "Bounded"},
            "partition": {"mode": "Sweep"},
            "edge": {"runtime": "OnnxRuntime", **edge},
            "transport": {"connectTimeoutSeconds": 1},
        }
    )


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The cache of a machine that needs an exported model."""
    monkeypatch.setattr(registry, "needs_export", lambda name: name == "OnnxRuntime")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TORCH_HOME", raising=False)
    return tmp_path / "splittracr" / "models"


def fetched(store: Store) -> Path:
    async def main() -> Path:
        async with served(store) as endpoint:
            found = await model.received(spec(), endpoint)
            assert found.edge.model_path is not None
            return Path(found.edge.model_path)

    return asyncio.run(main())


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in CONTENT}


def test_files_arrive_and_are_fetched_once(without_torch: Path) -> None:
    store = Store()
    folder = fetched(store)
    assert folder.parent == without_torch
    assert contents(folder) == CONTENT
    assert exported.read(folder, "x").name == "net"
    assert [name for name, _ in store.asked] == list(exported.FILES)
    assert fetched(store) == folder
    assert len(store.asked) == 3


def test_a_broken_link_goes_on_at_the_byte_where_it_stopped(without_torch: Path) -> None:
    store = Store(300_000, 1, 400_000)
    store.part = without_torch / exported.parse(described(), "x").digest / "weights.bin.part"
    assert contents(fetched(store)) == CONTENT
    starts = [asked for name, asked in store.asked if name == "weights.bin"]
    assert starts == [None, "bytes=300000-", "bytes=300001-", "bytes=700001-"]


def test_a_restarted_edge_goes_on_where_the_last_one_stopped(without_torch: Path) -> None:
    whole = exported.parse(described(), "x")
    part = without_torch / whole.digest / "weights.bin.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT["weights.bin"][:1000])
    store = Store()
    assert contents(fetched(store)) == CONTENT
    assert ("weights.bin", "bytes=1000-") in store.asked
    assert not part.exists()


def test_a_part_of_something_else_is_thrown_away(without_torch: Path) -> None:
    whole = exported.parse(described(), "x")
    part = without_torch / whole.digest / "weights.bin.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"other" * 200)
    store = Store()
    assert contents(fetched(store)) == CONTENT
    assert [asked for name, asked in store.asked if name == "weights.bin"] == ["bytes=1000-", None]


@pytest.mark.parametrize("name", CONTENT)
def test_a_changed_file_is_fetched_again(
    without_torch: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store()
    folder = fetched(store)
    (folder / name).write_bytes(b"changed")
    assert contents(fetched(store)) == CONTENT
    assert f"{name} was changed on disk and is fetched again" in caplog.text
    assert [asked for asked, _ in store.asked].count(name) == 2


def in_the_way(path: Path, kind: str) -> None:
    """Something else than a file at `path`."""
    path.unlink(missing_ok=True)
    match kind:
        case "folder":
            path.mkdir()
            (path / "more").write_bytes(b"x")
        case "link":
            path.symlink_to(path.parent.parent, target_is_directory=True)
        case "pipe":
            os.mkfifo(path)


@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
@pytest.mark.parametrize("name", [*CONTENT, "weights.bin.part", exported.INDEX, ".lock"])
def test_what_is_no_file_is_removed_and_fetched_again(
    without_torch: Path, name: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store()
    folder = fetched(store)
    if name == "weights.bin.part":
        (folder / "weights.bin").unlink()
    in_the_way(folder / name, kind)
    (without_torch / "other").mkdir()
    assert fetched(store) == folder
    assert contents(folder) == CONTENT
    assert exported.read(folder, "x").name == "net"
    assert f"removed {folder / name}, which is not a file" in caplog.text
    assert (without_torch / "other").is_dir()


def test_a_file_in_place_of_the_models_folder_is_removed(without_torch: Path) -> None:
    without_torch.mkdir(parents=True)
    (without_torch / exported.parse(described(), "x").digest).write_bytes(b"x")
    assert contents(fetched(Store())) == CONTENT


def test_a_busy_server_is_waited_for(without_torch: Path) -> None:
    store = Store()
    store.busy = 3
    assert contents(fetched(store)) == CONTENT


def test_a_server_that_stays_away_is_a_sentence_and_keeps_the_part(without_torch: Path) -> None:
    store = Store(200_000, *[0] * 100)
    store.part = without_torch / exported.parse(described(), "x").digest / "weights.bin.part"
    with pytest.raises(ServerLost, match=r"200000 of 1048576 bytes of weights\.bin.*goes on"):
        fetched(store)
    (part,) = without_torch.rglob("weights.bin.part")
    assert part.stat().st_size == 200_000


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (401, HandshakeRefused, "does not admit this edge: a reason"),
        (409, InvalidInput, "spec.edge.runtime: got 'OnnxRuntime', expected .*a reason"),
        (404, InvalidInput, "--server: got .*expected a server of this version"),
        (500, ServerLost, "has not handed the model over: the server answers 500"),
    ],
)
def test_an_answer_that_is_no_model_is_a_sentence(
    without_torch: Path, status: int, kind: type[Exception], words: str
) -> None:
    store = Store()
    store.status = status
    with pytest.raises(kind, match=words):
        fetched(store)


def test_a_server_that_sends_something_else_is_refused(without_torch: Path) -> None:
    store = Store()
    store.content["weights.bin"] = bytes(len(CONTENT["weights.bin"]))
    with pytest.raises(SplittracrError, match=r"sent is not its model: weights\.bin\.part has SHA"):
        fetched(store)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"files": {}}, "describes"),
        ({"live": []}, "live values of 0 cuts, expected 2"),
        ({"output": {"t": 1}}, "unexpected content"),
        ({"output": {"exec": "os.system"}}, "unexpected content"),
        ({"format": 2}, "format"),
        ({"code": "import os"}, "code"),
    ],
)
def test_a_description_that_contradicts_itself_is_refused(
    changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(SplittracrError, match=words):
        exported.parse(described(**changes), "the server")


def test_a_model_that_is_too_large_is_refused_before_anything_is_fetched() -> None:
    files = json.loads(described())["files"]
    files["weights.bin"]["bytes"] = 2**40
    with pytest.raises(SplittracrError, match=r"weights\.bin has 1099511627776 bytes, the limit"):
        exported.parse(described(files=files), "the server")


def test_an_edge_with_torch_asks_for_nothing(without_torch: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(registry, "needs_export", lambda _: False)
    given, there = spec(), Endpoint("ws://127.0.0.1:9/v1/session")
    assert asyncio.run(model.received(given, there)) is given
    assert not without_torch.exists()


def test_a_mounted_model_is_not_fetched(without_torch: Path) -> None:
    given, there = spec(modelPath="/models/net"), Endpoint("ws://127.0.0.1:9/v1/session")
    assert asyncio.run(model.received(given, there)) is given
