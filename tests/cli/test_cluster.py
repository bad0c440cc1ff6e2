"""The commands for studies in a cluster, against an API server in memory."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from splittracr.cli.main import app
from splittracr.experiment.figures import Progress
from splittracr.experiment.joining import TokenReply, TokenRequest
from splittracr.experiment.status import ExperimentStatus
from splittracr.results import archive
from splittracr_operator import client, conditions
from splittracr_operator.cluster import Cluster
from splittracr_operator.connection import Unreachable
from splittracr_operator.lifecycle import Stage, Verdict
from tests.cli.processes import splittracr
from tests.control.studies import NOW, body

LAB = "/apis/splittracr.io/v1alpha1/namespaces/lab/splitexperiments"
PODS = "/api/v1/namespaces/lab/pods"
Pages = Mapping[str, tuple[int, Any]]


class Answers(Cluster):
    """An API server that has these pages; of all else it says that it is not there."""

    server = "https://cluster.example:6443"

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    async def __aexit__(self, *_: object) -> None:
        pass

    async def raw(self, method: str, path: str, *_: Any, **__: Any) -> tuple[int, bytes]:
        where = path.partition("?")[0]
        missing = 404, {"message": f"no {where}"}
        status, answer = self._pages.get(path) or self._pages.get(where, missing)
        return status, answer if isinstance(answer, bytes) else json.dumps(answer).encode()


def study(stage: Stage, reason: str, message: str, **more: Any) -> tuple[int, Any]:
    """The page of a study that is there."""
    made = conditions.updated(ExperimentStatus(), 1, Verdict(stage, reason, message), NOW, **more)
    expected = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
    progress = Progress(done=3, summary="3/9", estimated_completion_time=expected)
    status = ExperimentStatus(state=str(stage), conditions=made, progress=progress)
    return 200, body(status=status.model_dump(mode="json", by_alias=True, exclude_none=True))


FAILED = study(Stage.FAILED, "InvalidInput", "spec.model.name: got 'x', expected y")
RUNNING = study(
    Stage.RUNNING,
    "Measuring",
    "The edges are measuring.",
    degraded=("SettingsRefused", "No such cut."),
)


def ask(monkeypatch: pytest.MonkeyPatch, pages: Pages, *command: str) -> tuple[int, str, str]:
    """Exit code, output and errors of a command in the namespace, each text as one line."""

    async def connect() -> Cluster:
        return Answers(pages)

    monkeypatch.setattr(Cluster, "connect", connect)
    done = CliRunner().invoke(app, [*command, "-n", "lab"], env={"COLUMNS": "120", "NO_COLOR": "1"})
    return done.exit_code, " ".join(done.stdout.split()), " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("options", "what"), [((), "no pods"), (("--role", "server"), "no server pods")]
)
def test_logs_of_a_study_without_pods_say_why(
    monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], what: str
) -> None:
    pages = {f"{LAB}/alexnet": FAILED, PODS: (200, {"items": []})}
    code, out, err = ask(monkeypatch, pages, "logs", "alexnet", *options)
    assert (code, out) == (1, "")
    assert err == (
        f"Error lab/alexnet has {what}; its state is Failed: spec.model.name: got 'x', expected y"
    )


def test_logs_that_were_kept_are_pointed_to(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {"archives": [{"name": "logs", "bytes": 1, "sha256": "0" * 64}], "path": "/v1"}
    code, ended = study(Stage.SUCCEEDED, "Completed", "9 samples were recorded.")
    ended["status"]["results"] = kept
    pages = {f"{LAB}/alexnet": (code, ended), PODS: (200, {"items": []})}
    code, _, err = ask(monkeypatch, pages, "logs", "alexnet", "--role", "server")
    assert code == 1
    assert "has no server pods; its state is Succeeded" in err
    assert "`splittracr results alexnet` fetches logs that were kept" in err


def test_logs_of_a_study_with_pods(monkeypatch: pytest.MonkeyPatch) -> None:
    pod = {"metadata": {"name": "alexnet-edge-0"}}
    log = f"{PODS}/alexnet-edge-0/log"
    pages = {f"{LAB}/alexnet": RUNNING, PODS: (200, {"items": [pod]}), log: (200, "a line")}
    code, out, _ = ask(monkeypatch, pages, "logs", "alexnet")
    assert code == 0
    assert "alexnet-edge-0" in out
    assert "a line" in out


def test_logs_are_those_of_the_workers_own_containers(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = {"splittracr.io/role": "edge"}
    pod = {"metadata": {"name": "alexnet-edge-0", "labels": labels}}
    log = f"{PODS}/alexnet-edge-0/log?container=edge&tailLines=100"
    pages = {f"{LAB}/alexnet": RUNNING, PODS: (200, {"items": [pod]}), log: (200, "a line")}
    code, out, _ = ask(monkeypatch, pages, "logs", "alexnet")
    assert code == 0
    assert "a line" in out


def test_no_results_say_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    command = "results", "alexnet", "--out", str(tmp_path / "out")
    code, _, err = ask(monkeypatch, {f"{LAB}/alexnet": FAILED}, *command)
    assert code == 1
    assert err.endswith("has no results; its state is Failed: spec.model.name: got 'x', expected y")
    _, _, err = ask(monkeypatch, {f"{LAB}/alexnet": (200, body())}, *command)
    assert err.endswith("its state is not known yet: no operator has reconciled it")


def test_the_status_says_each_sentence_once(monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = ask(monkeypatch, {f"{LAB}/alexnet": RUNNING}, "status", "alexnet")
    assert code == 0
    assert "State Running: The edges are measuring." in out
    assert "Degraded No such cut." in out
    assert out.count("The edges are measuring.") == out.count("No such cut.") == 1
    assert "Expected end" in out
    assert "Degraded True" in out


@pytest.mark.parametrize("command", [("status",), ("status", "alexnet"), ("delete", "alexnet")])
def test_a_namespace_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    code, _, err = ask(monkeypatch, {LAB: (200, {"items": []})}, *command)
    assert code == 2
    assert err == (
        "Error namespace: got 'lab', expected a namespace of the cluster at "
        "https://cluster.example:6443"
    )


NAMESPACE = "/api/v1/namespaces/lab"
MAY_NOT = {"message": 'namespaces "lab" is forbidden: User "jo" cannot get resource "namespaces"'}


@pytest.mark.parametrize("namespace", [(200, {}), (403, MAY_NOT)])
def test_a_study_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, namespace: tuple[int, Any]
) -> None:
    pages = {LAB: (200, {"items": []}), NAMESPACE: namespace}
    code, _, err = ask(monkeypatch, pages, "status", "alexnot")
    assert code == 2
    assert "NAME: got 'alexnot', expected a study in namespace lab" in err
    assert ask(monkeypatch, pages, "status")[0] == 0


def kubeconfig(server: str) -> str:
    return yaml.safe_dump(
        {
            "clusters": [{"name": "a", "cluster": {"server": server}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "c", "context": {"cluster": "a", "user": "u"}}],
            "current-context": "c",
        }
    )


def wrong(why: str) -> str:
    return f"expected a file that names a cluster ({why}"


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        (None, 2, wrong("there is no such file)")),
        ("", 2, wrong("config is empty)")),
        ("text", 2, wrong("config holds no mapping)")),
        ("[1, 2]", 2, wrong("config holds no mapping)")),
        ("clusters: 3", 2, wrong("clusters in config is no list)")),
        ("{current-context: c, contexts: [3]}", 2, wrong("TypeError: ")),
        ("{current-context: c, contexts: [{name: c, context: 3}]}", 2, wrong("")),
        ("{", 2, wrong("while parsing a flow")),
        ("{}", 2, wrong("Invalid kube-config")),
        (kubeconfig("https://127.0.0.1:9"), 1, "Error the API server https://127.0.0.1:9, by"),
    ],
)
def test_a_kubeconfig_that_leads_to_no_cluster_is_named(
    tmp_path: Path, text: str | None, code: int, words: str
) -> None:
    file = tmp_path / "config"
    if text is not None:
        file.write_text(text)
    done = splittracr("status", cwd=tmp_path, KUBECONFIG=str(file))
    err = " ".join(done.err.split())
    assert done.code == code
    assert words in err
    assert str(file) in err.replace(" ", "")
    assert "Traceback" not in err
    assert not err.startswith("Config")


def test_the_second_of_two_kubeconfigs_is_named(tmp_path: Path) -> None:
    (tmp_path / "one").write_text(kubeconfig("https://127.0.0.1:9"))
    (tmp_path / "two").touch()
    done = splittracr("status", cwd=tmp_path, KUBECONFIG=f"{tmp_path}/one:{tmp_path}/two")
    assert done.code == 2
    assert "(two is empty)" in " ".join(done.err.split())


def test_a_kubeconfig_that_was_not_read_is_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Away(Answers):
        kubeconfig = None

        async def raw(self, *_: Any, **__: Any) -> tuple[int, bytes]:
            raise Unreachable("no route")

    async def connect() -> Cluster:
        return Away({})

    monkeypatch.setattr(Cluster, "connect", connect)
    done = CliRunner().invoke(app, ["status", "-n", "lab"], env={"COLUMNS": "120"})
    assert done.exit_code == 1
    assert " ".join(done.stderr.split()) == (
        "Error the API server https://cluster.example:6443 does not answer (no route)"
    )


def test_logs_are_fetched_even_if_there_are_no_records(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "server.log").write_text("served\n")
    logs = {"logs": archive.pack(tmp_path)}
    monkeypatch.setattr(client, "archives", lambda *_: logs)
    out = tmp_path / "out"
    code, _, err = ask(monkeypatch, {}, "results", "alexnet", "--out", str(out))
    assert code == 1
    assert "the results store holds no records of alexnet" in err
    assert (out / "logs" / "server.log").read_text() == "served\n"


# ---------------------------------------------------------------- edges outside of the cluster


def reply(address: str | None) -> TokenReply:
    expires = datetime(2026, 3, 1, 13, tzinfo=UTC)
    return TokenReply(edge="edge-1", token="D.S", expires=expires, address=address)


@pytest.mark.parametrize(
    ("address", "options", "expected"),
    [
        ("192.0.2.7:30443", (), "wss://192.0.2.7:30443#D.S"),
        (None, ("--host", "tower.example:443"), "wss://tower.example:443#D.S"),
        ("192.0.2.7:30443", ("--host", "localhost:8443"), "wss://localhost:8443#D.S"),
    ],
)
def test_the_command_of_an_edge_outside_is_printed_alone(
    monkeypatch: pytest.MonkeyPatch, address: str | None, options: tuple[str, ...], expected: str
) -> None:
    asked: list[object] = []

    def join_token(*given: object) -> TokenReply:
        asked.extend(given)
        return reply(address)

    monkeypatch.setattr(client, "join_token", join_token)
    command = ("join-token", "alexnet", "--edge", "edge-1", "--ttl", "30m", *options)
    code, out, err = ask(monkeypatch, {}, *command)
    assert (code, out) == (0, f"splittracr edge {expected}")
    assert "Run this on the machine that becomes edge-1, until " in err
    assert asked == ["lab", "alexnet", TokenRequest(edge="edge-1", seconds=1800)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "--host: got nothing, expected HOST:PORT of the operator's results port; the chart's"),
        (("--host", "tower"), "--host: got 'tower', expected HOST:PORT"),
        (("--edge", "one"), "--edge: got 'one', expected the name of an edge, such as edge-1"),
    ],
)
def test_a_token_without_an_address_is_of_no_use(
    monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], message: str
) -> None:
    monkeypatch.setattr(client, "join_token", lambda *_: reply(None))
    code, out, err = ask(monkeypatch, {}, "join-token", "alexnet", *options)
    assert (code, out) == (2, "")
    assert message in err


def test_a_study_without_edges_outside_gives_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, err = ask(monkeypatch, {f"{LAB}/alexnet": RUNNING}, "join-token", "alexnet")
    assert code == 2
    assert "spec.edge.outside: got 0, expected the number of edges outside of the cluster" in err
