"""Official weights of timm from a hub on this machine: downloaded once, then from the cache."""

import re
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from splittracr.experiment.errors import SplittracrError
from splittracr.experiment.spec import ModelSpec
from splittracr.models import registry

NAME, SET = "timm/test_vit", "test_vit.r160_in1k"
REVISION = "0123456789abcdef0123456789abcdef01234567"
NOWHERE = "http://127.0.0.1:9"


def use(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the client ask another hub; it reads HF_ENDPOINT only when it is imported."""
    constants: Any = import_module("huggingface_hub.constants")
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does for one file."""

    def __init__(self, content: bytes, asked: list[str], *args: Any) -> None:
        self.content, self.asked = content, asked
        super().__init__(*args)

    def do_HEAD(self) -> None:
        found = re.fullmatch(f"/timm/{SET}/resolve/[^/]+/model.safetensors", self.path) is not None
        self.asked.append(f"{self.command} {self.path}")
        self.send_response(200 if found else 404)
        self.send_header("X-Repo-Commit", REVISION)
        if found:
            self.send_header("ETag", '"abc"')
        else:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("Content-Length", str(len(self.content) if found else 0))
        self.end_headers()
        if found and self.command == "GET":
            self.wfile.write(self.content)

    do_GET = do_HEAD  # noqa: N815

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in ("HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def state() -> dict[str, Tensor]:
    timm: Any = import_module("timm")
    with torch.random.fork_rng():
        torch.manual_seed(5)
        found: dict[str, Tensor] = timm.create_model("test_vit").state_dict()
    return found


@pytest.fixture
def served(state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A hub with the weights; yields the requests that it got."""
    asked: list[str] = []
    content: bytes = import_module("safetensors.torch").save(state)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, content, asked))
    use(f"http://127.0.0.1:{server.server_port}", monkeypatch)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_official_weights_are_kept_below_torch_home(
    home: Path, served: list[str], state: dict[str, Tensor]
) -> None:
    network = registry.build(ModelSpec(name=NAME))
    assert network.weights.startswith(SET)
    loaded = network.module.get_submodule("net").state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())
    kept = list((home / "hub" / "checkpoints").rglob("model.safetensors"))
    assert [path.is_file() for path in kept] == [True]
    downloads = [f"GET /timm/{SET}/resolve/main/model.safetensors"]
    assert [one for one in served if one in downloads] == downloads
    registry.build(ModelSpec(name=NAME))
    assert [one for one in served if one in downloads] == downloads


def test_cached_weights_need_no_hub(
    home: Path, served: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = registry.build(ModelSpec(name=NAME))
    use(NOWHERE, monkeypatch)
    again = registry.build(ModelSpec(name=NAME))
    assert again.weights == first.weights
    ours, theirs = (dict(net.module.named_parameters()) for net in (again, first))
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


def test_without_a_hub_the_reason_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(NOWHERE, monkeypatch)
    with pytest.raises(SplittracrError) as caught:
        registry.build(ModelSpec(name=NAME))
    text = str(caught.value)
    assert f"The weights {SET} of {NAME} could not be downloaded" in text
    assert "Connection refused" in text
    assert "spec.model.weightsFile" in text
    assert "`none`" in text
