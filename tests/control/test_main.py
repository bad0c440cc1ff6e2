"""The operator as a process: its start, and its errors."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, cast

import kopf
import pytest
import yaml
from aiohttp import web

from splittracr_operator import main
from splittracr_operator.cluster import Cluster
from tests.cli.processes import environment
from tests.control.studies import ALL_KEYS, settings
from tests.control.test_identity import Safe, encoded

OPERATOR = (sys.executable, "-m", "splittracr_operator")
SECONDS = 60


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*OPERATOR, *arguments],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def test_help_names_the_configuration_file() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert "The SplitTracr operator" in done.stdout
    assert "SPLITTRACR_CONFIG" in done.stdout


def test_a_wrong_configuration_ends_it_with_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    for content, words in ((None, "No such file"), ("edge: {imag: a}", "edge.imag: got 'imag'")):
        if content is not None:
            file.write_text(content)
        done = run(SPLITTRACR_CONFIG=str(file), SPLITTRACR_OPERATOR_NAMESPACE="lab")
        assert done.returncode == 2
        (line,) = (done.stdout + done.stderr).splitlines()
        output = json.loads(line)
        assert output["severity"] == "error"
        assert str(file) in output["message"]
        assert words in output["message"]


def test_a_malformed_key_ends_it_with_one_sentence(tmp_path: Path) -> None:
    async def secret(_: web.Request) -> web.Response:
        return web.json_response(encoded(b"short"))

    async def scenario() -> tuple[int | None, bytes]:
        app = web.Application()
        app.router.add_get("/api/v1/namespaces/lab/secrets/lab-key", secret)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server = f"http://127.0.0.1:{runner.addresses[0][1]}"
        kubeconfig = {
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "clusters": [{"name": "test", "cluster": {"server": server}}],
            "users": [{"name": "test", "user": {}}],
        }
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
        variables = environment(
            KUBECONFIG=str(tmp_path / "kubeconfig"),
            SPLITTRACR_CONFIG=str(ALL_KEYS),
            SPLITTRACR_OPERATOR_NAMESPACE="lab",
        )
        variables.pop("KUBERNETES_SERVICE_HOST", None)
        pipe = asyncio.subprocess.PIPE
        operator = await asyncio.create_subprocess_exec(
            *OPERATOR, env=variables, stdout=pipe, stderr=asyncio.subprocess.STDOUT
        )
        try:
            output, _ = await asyncio.wait_for(operator.communicate(), SECONDS)
        finally:
            if operator.returncode is None:
                operator.kill()
            await runner.cleanup()
        return operator.returncode, output

    status, output = asyncio.run(scenario())
    assert status == 1
    (line,) = output.decode().splitlines()
    assert "Secret lab/lab-key: data.key: got '5 bytes'" in json.loads(line)["message"]


def test_a_results_folder_that_cannot_be_written_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Near(Safe):
        async def __aexit__(self, *_: object) -> None:
            pass

    async def connect(*_: object) -> Cluster:
        return Near(encoded(b"k" * 32))

    monkeypatch.setattr(Cluster, "connect", connect)
    (tmp_path / "file").touch()
    chosen = settings(results=tmp_path / "file" / "results", key_secret="own-key")
    memo = kopf.Memo(settings=chosen, refused=False)
    start = cast(Callable[..., Coroutine[Any, Any, None]], main.start)
    with pytest.raises(kopf.PermanentError) as caught:
        asyncio.run(start(settings=kopf.OperatorSettings(), memo=memo))
    expected = "a folder that the operator can write to (Not a directory)"
    assert str(caught.value).endswith(f"/file/results', expected {expected}")
    assert memo.refused
