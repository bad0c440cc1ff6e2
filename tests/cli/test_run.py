"""A study on one machine, from a manifest to a report, and every way it can be refused."""

import html
import json
import os
import re
import signal
import socket
import time
from pathlib import Path

import psutil
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from splittracr.cli import output
from splittracr.cli.inputs import new_folder
from splittracr.cli.local import conclude_run
from splittracr.cli.main import app
from splittracr.cli.workers import Failure
from splittracr.experiment.errors import InvalidInput
from splittracr.results import journal
from splittracr.results.environment import read_environment
from tests.cli.processes import ROOT, event, files_below, manifest, splittracr, start
from tests.results import synthetic


def test_a_sweep_leaves_records_tables_pictures_and_a_report(tmp_path: Path) -> None:
    file = manifest(
        tmp_path,
        {
            "partition": {"mode": "Sweep", "maxCuts": 4, "repeats": 2},
            "results": {"pictures": 2, "picturesPerCut": True, "outputs": "Raw"},
        },
    )
    done = splittracr("run", str(file), "--out", "out", "-v", cwd=tmp_path)
    assert done.code == 0, done.err + done.out
    out = tmp_path / "out"
    files = files_below(out)
    assert {
        "basis.json",
        "environment.json",
        "records.csv",
        "records.jsonl",
        "records.parquet",
        "report.html",
        *(f"layers.{kind}" for kind in ("parquet", "csv")),
        *(f"summary.{kind}" for kind in ("json", "csv", "tex", "xlsx")),
    } <= set(files)
    assert [name for name in files if re.fullmatch(r"pictures/\d+\.jpg", name)] == [
        "pictures/0000.jpg",
        "pictures/0001.jpg",
    ]
    assert done.err.startswith("0 s: proving the model at both ends\n")
    assert (out / "report.html").read_text().count('<img src="data:image/jpeg') == 2
    records = journal.read(out / "records.jsonl")
    cuts = {record.cut for record in records}
    assert {"input", "output"} <= cuts
    assert len(cuts) <= 4
    assert len(records) == len(cuts) * 2 * 3
    drawn = [name for name in files if re.match(r"pictures/\d{3}-", name)]
    assert len(drawn) == 2 * len(cuts)
    logs = {name: (out / name).read_text() for name in ("logs/edge-0.log", "logs/server.log")}
    words = r"edge DEBUG frame \d+ of trial \d+: cut \S+, codec \S+, (edge|server), [\d.]+ ms"
    assert len(re.findall(words, logs["logs/edge-0.log"])) == len(records)
    assert re.search(
        r"server DEBUG requests \[\d+\] at cut \d+: [\d.]+ ms", logs["logs/server.log"]
    )
    by_sample = {(r.sample, r.output_digest) for r in records}
    assert len(by_sample) == 3, "every cut gives the same bits, every picture others"
    environment = read_environment(out)
    assert environment.server is not None
    assert environment.server.weights_digest == environment.edge.weights_digest
    assert environment.random_weights
    assert "random" in done.out
    for cut in cuts:
        assert cut.split(".")[0] in done.out


def test_numbered_folders_are_classes_and_the_rule_is_said(tmp_path: Path) -> None:
    for label in range(12):
        (tmp_path / "data" / str(label)).mkdir(parents=True)
        colour = (label * 20, 255 - label * 20, 90)
        Image.new("RGB", (8, 8), colour).save(tmp_path / "data" / str(label) / "a.png")
    (tmp_path / "data" / "__MACOSX").mkdir()
    net = "import torch\nfrom torch import nn\nclass Net(nn.Module):\n    def forward(self, x):\n"
    red = "        red = x[:, :1, 0, 0] * 255 / 20\n"
    (tmp_path / "mine.py").write_text(f"{net}{red}        return -(torch.arange(12) - red) ** 2\n")
    sections = {
        "model": {"name": "mine:Net", "inputSize": [8, 8]},
        "dataset": {"source": "LabelledFolder", "path": "data"},
        "workload": {},
        "partition": {"mode": "EdgeOnly"},
    }
    done = splittracr("run", str(manifest(tmp_path, sections)), "--out", "out", cwd=tmp_path)
    assert done.code == 0, done.err + done.out
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["cuts"][0]["accuracy"]["top1"] == 1.0
    rule = (
        "Labels: 12 classes matched with the model's, 12 by class index. "
        "Left out: 1 folder without pictures (__MACOSX)."
    )
    assert rule in done.out
    assert summary["study"]["labels"] == rule
    assert (tmp_path / "out" / "labels.txt").read_text() == rule + "\n"
    assert rule in html.unescape((tmp_path / "out" / "report.html").read_text())


def test_relative_paths_start_at_the_manifest_and_labels_give_accuracy(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    for label in ("Egyptian cat", "espresso"):
        (folder / "data" / label).mkdir(parents=True)
        Image.new("RGB", (80, 80), "navy" if label == "espresso" else "white").save(
            folder / "data" / label / "picture.png"
        )
    (folder / "data" / "espresso" / "broken.jpg").write_bytes(b"not a picture")
    latin1 = os.fsdecode(b"caf\xe9.jpg")
    (folder / "data" / "espresso" / latin1).write_bytes(b"not a picture")
    Image.new("L", (1, 40_000)).save(folder / "data" / "espresso" / "thin.png")
    file = manifest(
        folder,
        {
            "dataset": {"source": "LabelledFolder", "path": "data"},
            "workload": {},
            "partition": {"mode": "EdgeOnly"},
        },
    )
    done = splittracr("run", str(file), "--out", str(tmp_path / "out"), cwd=tmp_path)
    assert done.code == 0, done.err + done.out
    records = {r.name: r for r in journal.read(tmp_path / "out" / "records.jsonl")}
    assert "2 by class name." in done.out
    assert records["Egyptian cat/picture.png"].label == 285
    assert records["espresso/picture.png"].top1 is not None
    assert records["espresso/broken.jpg"].outcome == "failed"
    assert "broken.jpg" in (records["espresso/broken.jpg"].error or "")
    assert "espresso/caf\\udce9.jpg" in records
    assert "40000 pixels" in (records["espresso/thin.png"].error or "")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["counts"]["failed"] == 3


OWN_DATA = """
import torch
from splittracr.data.contracts import Sample

class Data:
    classes = None
    def __init__(self, broken):
        self.broken = broken
    def __len__(self):
        return 3
    def name(self, index):
        return f"no. {index}"
    def load(self, index):
        if index in self.broken:
            raise ValueError(f"no. {index} is gone")
        return Sample(self.name(index), data=torch.zeros((3, 64, 64), dtype=torch.uint8))
"""


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        (
            {"dataset": {"source": "Folder", "path": "data"}, "partition": {"mode": "EdgeOnly"}},
            "0.jpg: not a picture in a format that Pillow reads",
        ),
        (  # the samples are sound, the model's output is not
            {"model": {"name": "mine:Broken", "inputSize": [8, 8]}, "partition": {"cut": "input"}},
            "the model's output is not finite",
        ),
        (
            {
                "dataset": {"source": "Class", "class": "mine:Data", "args": {"broken": [0, 1, 2]}},
                "partition": {"mode": "Sweep", "maxCuts": 2},
                "workload": {"samples": 2, "batchSize": 2},
                "edge": {"replicas": 2},
            },
            "ValueError: no. 0 is gone",
        ),
    ],
)
def test_a_study_whose_samples_all_fail_has_failed(
    tmp_path: Path, sections: dict[str, object], reason: str
) -> None:
    (tmp_path / "data").mkdir()
    for number in range(3):
        (tmp_path / "data" / f"{number}.jpg").write_bytes(b"not a picture")
    net = "from torch import nn\nclass Broken(nn.Module):\n    def forward(self, x):\n"
    (tmp_path / "mine.py").write_text(f"{net}        return x.mean((2, 3)) * 1e39\n{OWN_DATA}")
    done = splittracr("run", str(manifest(tmp_path, sections)), "--out", "out", cwd=tmp_path)
    assert done.code == 3, done.err + done.out
    said = " ".join(done.error.split())
    assert re.fullmatch(rf"Error all \d+ samples failed; the first: {re.escape(reason)}", said)
    out = tmp_path / "out"
    failed = {record.outcome for record in journal.read(out / "records.jsonl")}
    assert failed == {"failed"}
    assert f"The first: {reason}." in " ".join(done.out.split())
    assert reason in html.unescape((out / "report.html").read_text().replace("<wbr>", ""))
    assert json.loads((out / "summary.json").read_text())["counts"]["first_error"] == reason


def test_one_sample_that_does_not_fail_is_a_result(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN_DATA)
    sections = {
        "dataset": {"source": "Class", "class": "mine:Data", "args": {"broken": [0, 2]}},
        "partition": {"mode": "EdgeOnly"},
    }
    done = splittracr("run", str(manifest(tmp_path, sections)), "--out", "out", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "2 of 3 samples failed" in done.out


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("spec.workload.samples=0", ["spec.workload.samples", "0", "at least 1"]),
        ("spec.workload.sample=1", ["spec.workload.sample", "a known key", "samples"]),
        ("nonsense", ["--set", "'nonsense'", "path=value"]),
    ],
)
def test_a_bad_manifest_is_refused_before_anything_starts(
    tmp_path: Path, override: str, expected: list[str]
) -> None:
    file = manifest(tmp_path, {})
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["run", str(file), "--out", str(out), "--set", override])
    assert done.exit_code == 2
    for part in expected:
        assert part in " ".join(done.stderr.split())
    assert not out.exists()


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("spec.partition.cut=9999", ["spec.partition.cut", "9999", "0 to "]),
        ("spec.partition.cut=features.99", ["spec.partition.cut", "features.9"]),
        ("spec.dataset.classNames=none.txt", ["spec.dataset.classNames", "none.txt"]),
        ("spec.model.weightsFile=none.pt", ["spec.model.weightsFile", "none.pt"]),
        ("spec.model.inputSize=[8,0]", ["spec.model.inputSize", "0"]),
        ("spec.edge.device=cuda:7", ["spec.edge.device", "cuda:7", "cpu"]),
    ],
)
def test_what_only_a_worker_can_find_is_named_by_it(
    tmp_path: Path, override: str, expected: list[str]
) -> None:
    file = manifest(tmp_path, {})
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["edge", str(file), "--out", str(out), "--set", override])
    assert done.exit_code == 2
    for part in expected:
        assert part in done.output
    assert not out.exists()


def test_a_workers_error_is_one_paragraph_and_leaves_nothing(tmp_path: Path) -> None:
    file = manifest(tmp_path, {"model": {"name": "resnet81", "weights": "none"}})
    done = splittracr("run", str(file), "--out", "out", cwd=tmp_path)
    assert done.code == 2
    assert done.out.strip() == ""
    assert done.error.startswith("Error spec.model.name: got 'resnet81', expected a model of ")
    assert "resnet18" in done.error
    assert len(done.error.strip().splitlines()) <= 3
    assert not (tmp_path / "out").exists()


def test_an_edge_that_fails_first_is_heard_not_the_server_it_stops(tmp_path: Path) -> None:
    file = manifest(tmp_path, {"dataset": {"source": "Folder", "path": "nowhere"}})
    done = splittracr("run", str(file), "--out", "out", cwd=tmp_path)
    assert done.code == 2
    assert "spec.dataset.path: got 'nowhere', expected a folder" in done.err
    assert not (tmp_path / "out").exists()


def test_a_missing_manifest_and_a_used_folder_are_named(tmp_path: Path) -> None:
    done = splittracr("run", "none.yaml", cwd=tmp_path)
    assert (done.code, "none.yaml" in done.err) == (2, True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "records.jsonl").write_text("{}\n")
    file = manifest(tmp_path, {})
    done = splittracr("run", str(file), "--out", "out", cwd=tmp_path)
    assert done.code == 2
    assert "--out" in done.err


@pytest.mark.parametrize("text", ["", "{}\n"])
def test_an_empty_journal_is_no_result(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A full disk leaves one; the command then works again in the same folder."""
    (tmp_path / "records.jsonl").write_text(text)
    failure = Failure("edge: No space left on device", exit_code=1)
    assert conclude_run(failure, tmp_path, output.console()) == 1
    assert ("The records so far are in" in capsys.readouterr().err) == bool(text)
    if text:
        with pytest.raises(InvalidInput, match="without records"):
            new_folder(tmp_path)
    else:
        assert new_folder(tmp_path) == tmp_path


@pytest.mark.parametrize(
    ("out", "reason"),
    [
        ("study.yaml", "Not a directory"),
        ("study.yaml/out", "Not a directory"),
        ("/proc/out", "No such file or directory"),
        ("long" * 100, "File name too long"),
    ],
)
def test_a_folder_that_cannot_be_made_is_refused_at_once(
    tmp_path: Path, out: str, reason: str
) -> None:
    file = manifest(tmp_path, {"model": {"name": "not looked for"}})
    done = CliRunner().invoke(app, ["run", str(file), "--out", str(tmp_path / out)])
    assert done.exit_code == 2
    assert "--out: got" in done.stderr
    assert f"({reason})" in " ".join(done.stderr.split())


def test_two_runs_at_once_in_one_folder_leave_the_records_of_one(tmp_path: Path) -> None:
    file = str(manifest(tmp_path, {"partition": {"mode": "EdgeOnly"}}))
    both = [start("run", file, "--out", "out", cwd=tmp_path) for _ in range(2)]
    said = [run.communicate(timeout=200)[1] for run in both]
    assert sorted(run.returncode for run in both) == [0, 2], said
    refused = said[[run.returncode for run in both].index(2)]
    assert "records.jsonl" in refused
    records = journal.read(tmp_path / "out/records.jsonl")
    assert [record.sample for record in records] == [0, 1, 2]
    assert len({record.uid for record in records}) == 1


def test_runs_of_one_second_have_folders_of_their_own(tmp_path: Path) -> None:
    file = str(manifest(tmp_path, {"partition": {"mode": "EdgeOnly"}}))
    both = [start("run", file, cwd=tmp_path) for _ in range(2)]
    said = [run.communicate(timeout=200)[1] for run in both]
    assert [run.returncode for run in both] == [0, 0], said
    folders = list(tmp_path.glob("runs/study-*"))
    assert [len(journal.read(folder / "records.jsonl")) for folder in folders] == [3, 3]


def test_trying_a_folder_leaves_nothing(tmp_path: Path) -> None:
    file = manifest(tmp_path, {"model": {"name": "none"}, "partition": {"mode": "EdgeOnly"}})
    (tmp_path / "there").mkdir()
    for out in ("there", "a/b/c"):
        done = CliRunner().invoke(app, ["edge", str(file), "--out", str(tmp_path / out)])
        assert done.exit_code == 2
        assert "spec.model.name" in done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["study.yaml", "there"]
    assert files_below(tmp_path / "there") == []


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1", f"{'x' * 70}.example"])
def test_a_host_that_is_not_here_is_named(tmp_path: Path, host: str) -> None:
    file = manifest(tmp_path, {"server": {"host": host}})
    done = CliRunner().invoke(app, ["server", str(file)])
    assert done.exit_code == 2
    assert f"spec.server.host: got '{host}'" in " ".join(done.stderr.split())


def test_a_busy_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        file = manifest(tmp_path, {"server": {"port": port}})
        done = splittracr("run", str(file), "--out", "out", cwd=tmp_path)
    assert done.code == 2
    assert "spec.server.port" in done.err
    assert str(port) in done.err
    assert not (tmp_path / "out").exists()


def _after_first_record(out: Path, deadline: float = 100) -> None:
    """Wait until the study has recorded something."""
    journal_file, end = out / "records.jsonl", time.monotonic() + deadline
    while not (journal_file.exists() and journal_file.stat().st_size):
        assert time.monotonic() < end, "no record was written in time"
        time.sleep(0.02)


def _worker(parent: int, role: str) -> psutil.Process:
    for child in psutil.Process(parent).children(recursive=True):
        if role in child.cmdline():
            return child
    raise AssertionError(f"no {role} process")


def _long_study(tmp_path: Path) -> Path:
    return manifest(tmp_path, {"workload": {"samples": 100_000}})


def test_a_killed_server_ends_the_run_with_a_sentence(tmp_path: Path) -> None:
    fail = ("--set", "spec.partition.onServerLoss=Fail")
    run = start("run", str(_long_study(tmp_path)), "--out", "out", *fail, cwd=tmp_path)
    try:
        _after_first_record(tmp_path / "out")
        _worker(run.pid, "server").kill()
        out, err = run.communicate(timeout=100)
    finally:
        run.kill()
    assert run.returncode == 1
    assert "the server was lost" in err
    assert "onServerLoss" in err
    assert "SIGKILL" in err
    assert "records.jsonl" in out + err
    assert journal.read(tmp_path / "out" / "records.jsonl")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_keeps_its_records_and_leaves_no_process(
    tmp_path: Path, number: signal.Signals
) -> None:
    run = start("run", str(_long_study(tmp_path)), "--out", "out", cwd=tmp_path)
    try:
        _after_first_record(tmp_path / "out")
        children = psutil.Process(run.pid).children(recursive=True)
        run.send_signal(number)
        run.communicate(timeout=100)
    finally:
        run.kill()
    assert run.returncode != 0
    _, alive = psutil.wait_procs(children, timeout=100)
    assert alive == []
    assert journal.read(tmp_path / "out" / "records.jsonl")


def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    run = start("run", str(_long_study(tmp_path)), "--out", "out", cwd=tmp_path)
    try:
        _after_first_record(tmp_path / "out")
        children = psutil.Process(run.pid).children(recursive=True)
    finally:
        run.kill()
        run.communicate()
    _, alive = psutil.wait_procs(children, timeout=100)
    assert alive == []


def test_two_machines_by_hand_a_server_an_edge_and_a_report(tmp_path: Path) -> None:
    """What `run` does by itself, in four commands; the token travels in the environment."""
    file = str(manifest(tmp_path, {}))
    unprotected = splittracr("server", file, cwd=tmp_path)
    assert unprotected.code == 2
    assert "--tls: got nothing, expected the folder that `splittracr certs` made" in unprotected.err
    assert splittracr("certs", "--out", "tls", "--host", "127.0.0.1", cwd=tmp_path).code == 0
    server = start("server", file, "--tls", "tls", cwd=tmp_path, SPLITTRACR_TOKEN="secret")
    try:
        url = event(server.stdout, "serving")["url"]
        arguments = ("edge", file, "--out", "out", "--server", url)
        assert url.startswith("wss://")
        authority = ("--tls-ca", "tls/ca.crt")
        refused = start(*arguments, *authority, cwd=tmp_path, SPLITTRACR_TOKEN="other")
        _, said = refused.communicate(timeout=100)
        assert refused.returncode != 0
        assert "does not accept the token" in said
        edge = start(*arguments, *authority, cwd=tmp_path, SPLITTRACR_TOKEN="secret")
        events, said = edge.communicate(timeout=100)
        assert edge.returncode == 0, said
        assert [json.loads(line)["event"] for line in events.splitlines()][-1] == "finished"
        server.terminate()
        server.communicate(timeout=100)
        assert server.returncode == 0
    finally:
        server.kill()
    again = CliRunner().invoke(app, ["edge", file, "--out", str(tmp_path / "out")])
    assert again.exit_code == 2
    assert "--out" in again.output
    assert splittracr("report", "out", cwd=tmp_path).code == 0
    assert (tmp_path / "out" / "report.html").exists()


def test_a_report_that_was_stopped_says_how_to_make_it(tmp_path: Path) -> None:
    cuts = synthetic.cuts(4)
    study = synthetic.write_study(
        tmp_path / "s", synthetic.records(cuts), synthetic.environment(cuts)
    )
    making = start("report", str(study), cwd=tmp_path)
    try:
        end = time.monotonic() + 100
        while not (study / "records.csv").exists():  # the first of many files
            assert time.monotonic() < end
            time.sleep(0.005)
        making.terminate()
        _, err = making.communicate(timeout=60)
    finally:
        making.kill()
    assert making.returncode == 1
    assert f"`splittracr report {study}` makes it again" in " ".join(err.split())


@pytest.mark.parametrize("name", sorted(p.name for p in (ROOT / "configs").glob("*.yaml")))
def test_every_shipped_manifest_is_valid(name: str) -> None:
    from splittracr.experiment import manifest as manifests

    text = (ROOT / "configs" / name).read_text()
    experiment = manifests.parse(text)
    assert experiment.metadata.name == yaml.safe_load(text)["metadata"]["name"]


def test_help_names_every_command(tmp_path: Path) -> None:
    done = splittracr("--help", cwd=tmp_path)
    for command in ("run", "server", "edge", "report", "models", "cuts"):
        assert command in done.out


def test_cuts_and_models_are_listed(tmp_path: Path) -> None:
    done = splittracr("cuts", "alexnet", "--input-size", "64x64", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "features.0" in done.out
    assert "proven exact" in done.out
    own = "from torch import nn\nclass Net(nn.Conv2d):\n    def __init__(self, width):\n"
    (tmp_path / "mine.py").write_text(f"{own}        super().__init__(3, width, 5)\n")
    # As the installed command runs: without the current folder on the path.
    process = start(
        "cuts",
        "mine:Net",
        "--input-size",
        "8x8",
        "--args",
        "{width: 4}",
        cwd=tmp_path,
        PYTHONSAFEPATH="1",
    )
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    assert "mine:Net" in out
    listed = splittracr("models", "resnet1", cwd=tmp_path)
    assert "resnet18" in listed.out
    assert splittracr("models", "zzz", cwd=tmp_path).code == 2


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        (("resnet18", "--input-size", "0x0"), "--input-size: got '0x0', expected a number of"),
        (("resnet18", "--args", "[1]"), "--args: got '[1]', expected a mapping in YAML"),
        (("resnet18", "--args", "{"), "--args: got '{', expected YAML"),
        (("resnet18", "--input-size", "8x99999"), "--input-size: got '8x99999', expected a"),
        (("resnet18", "--input-size", "\u00b2x8"), "expected HEIGHTxWIDTH"),
        (("resnet18", "--input-size", "9" * 5000 + "x8"), "expected HEIGHTxWIDTH"),
        (("",), "MODEL: got '', expected text that is not empty"),
        (("x" * 300,), "expected text of at most 253 characters"),
    ],
)
def test_a_bad_argument_of_cuts_is_named(arguments: tuple[str, ...], argument: str) -> None:
    done = CliRunner().invoke(app, ["cuts", *arguments])
    assert done.exit_code == 2
    assert argument in " ".join(done.stderr.split())


def test_several_edges_share_a_server_and_their_records_are_one_study(tmp_path: Path) -> None:
    sections = {
        "edge": {"replicas": 2},
        "dataset": {"source": "LabelledFolder", "path": "data"},
        "results": {"pictures": 1, "outputs": "Raw"},
        "transport": {"codec": "raw+zstd1"},
    }
    for label in ("0", "1", "2"):
        (tmp_path / "data" / label).mkdir(parents=True)
        Image.new("RGB", (8, 8), (int(label) * 90, 5, 9)).save(tmp_path / "data" / label / "a.png")
    done = splittracr("run", str(manifest(tmp_path, sections)), "--out", "out", cwd=tmp_path)
    assert done.code == 0, done.err + done.out
    assert "3 by class index" in done.out
    records = journal.read(tmp_path / "out" / "records.jsonl")
    assert sorted((r.edge, r.sample) for r in records) == [
        (edge, sample) for edge in ("edge-0", "edge-1") for sample in range(3)
    ]
    assert {r.codec for r in records} == {"raw+zstd1"}
    assert len({(r.sample, r.output_digest) for r in records}) == 3
    assert (tmp_path / "out" / "report.html").exists()
