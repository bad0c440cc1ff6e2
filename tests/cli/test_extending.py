"""The shipped examples of extensions, each run as a user runs it."""

import json
import os
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from splittracr.data.importing import import_object
from splittracr.planning.cost import candidates
from splittracr.planning.estimate import Beliefs
from splittracr.planning.policy import PolicyOptions, Reason
from splittracr.results import journal
from splittracr.results.environment import read_environment
from tests.cli.processes import ROOT, environment, manifest, splittracr
from tests.planning.profiles import profile

CONFIGS = ROOT / "configs"


def installed(folder: Path) -> str:
    """The search path with the package of configs/acme, installed as pip would."""
    project = tomllib.loads((CONFIGS / "acme" / "pyproject.toml").read_text())["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    module = "acme_splittracr.py"
    (folder / module).write_text((CONFIGS / "acme" / module).read_text())
    metadata = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(metadata)
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return os.pathsep.join((str(folder), environment()["PYTHONPATH"]))


def test_clips_of_a_mapping_go_through_a_video_network(tmp_path: Path) -> None:
    done = splittracr(
        "run",
        str(CONFIGS / "clips.yaml"),
        *("--set", "spec.model.input.shape=[4, 3, 32, 32]"),
        *("--set", "spec.dataset.args={count: 2, frames: 4, size: 32}"),
        *("--out", "out"),
        cwd=tmp_path,
    )
    assert done.code == 0, done.err
    assert "Samples are mappings: the input is 'video', the label is 'label'." in done.out
    records = journal.read(tmp_path / "out" / journal.FILE)
    assert {r.outcome for r in records} == {"ok"}
    assert {r.label for r in records} == {0, 1}
    sent = {r.bytes_up for r in records if r.cut == "input"}
    assert min(sent) > 4 * 4 * 3 * 32 * 32, "float values of all pixels"


def test_a_policy_of_ones_own_decides(tmp_path: Path) -> None:
    slow = "{uplinkKilobitsPerSecond: 500, downlinkKilobitsPerSecond: 50000}"
    done = splittracr(
        *("run", str(CONFIGS / "policy.yaml"), "--out", "out"),
        *("--set", f"spec.transport.link={slow}", "--set", "spec.workload.samples=6"),
        cwd=tmp_path,
    )
    assert done.code == 0, done.err
    records = journal.read(tmp_path / "out" / journal.FILE)
    assert [(r.cut, r.reason) for r in records] == [("output", "fixed")] * 6


@pytest.mark.parametrize(
    ("rate", "connected", "reason"),
    [(50e6, True, Reason.BEST), (1e6, True, Reason.FIXED), (50e6, False, Reason.LOST)],
)
def test_the_policy_of_the_example_takes_the_fastest_of_a_fast_link(
    monkeypatch: pytest.MonkeyPatch, rate: float, connected: bool, reason: Reason
) -> None:
    monkeypatch.syspath_prepend(CONFIGS)
    maker = import_object("policy_study:Cautious", "policy")
    one = profile([1, 50], [1_000_000, 100_000])
    offered = candidates(one, one, slowdown=100)
    decision = maker(offered, PolicyOptions()).decide(0.0, link(rate, connected=connected))
    assert decision.reason == reason
    assert (decision.cut == one.last) == (reason is not Reason.BEST)


def link(rate: float, *, connected: bool) -> Beliefs:
    return replace(Beliefs.of_link(rate, 10), connected=connected)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("class P: pass", "expected a policy that can be made"),
        ("def P(candidates, settings): return 3", "expected a subclass of splittracr.planning"),
        ("P = 3", "expected a class, or a function that makes a policy"),
        ("", "expected a name that"),
        (
            "from splittracr.planning.policy import Policy\n"
            "class P(Policy):\n    def decide(self, now, beliefs): return 3",
            "policy bad_policy:P: decide returned int, expected a Decision",
        ),
        (
            "from splittracr.planning.policy import Policy\n"
            "class P(Policy):\n    def decide(self, now, beliefs): raise KeyError('x')",
            "policy bad_policy:P: decide: KeyError: 'x'",
        ),
    ],
)
def test_a_policy_that_is_none_is_named(tmp_path: Path, body: str, error: str) -> None:
    (tmp_path / "bad_policy.py").write_text(body + "\n")
    partition = {"mode": "Adaptive", "adaptive": {"policy": "bad_policy:P"}}
    file = manifest(tmp_path, {"partition": partition})
    done = splittracr("run", str(file), "--out", "out", cwd=tmp_path)
    assert done.code != 0
    assert error in " ".join(done.err.split())
    assert "Traceback" not in done.err


def test_a_codec_and_an_energy_reader_of_a_package_are_used(tmp_path: Path) -> None:
    meter = tmp_path / "watts"
    meter.write_text("2.5\n")
    (tmp_path / "site").mkdir()
    sections = {"transport": {"codec": "acme.planes"}, "results": {"pictures": 0}}
    file = manifest(tmp_path, sections)
    done = splittracr(
        *("run", str(file), "--out", "out"),
        cwd=tmp_path,
        PYTHONPATH=installed(tmp_path / "site"),
        ACME_METER=str(meter),
    )
    assert done.code == 0, done.err
    records = journal.read(tmp_path / "out" / journal.FILE)
    assert {(r.outcome, r.codec) for r in records} == {("ok", "acme.planes")}
    windows = [one for one in read_environment(tmp_path / "out").energy if one.source == "acme"]
    idle = next(one for one in windows if one.of == "idle")
    assert idle.joules is not None
    assert idle.joules / idle.seconds == pytest.approx(2.5, rel=0.05)
    assert idle.kind == "measured"
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    counted = [one for cut in summary["cuts"] for one in cut["energy"] if one["machine"]]
    assert {one["source"] for one in counted} == {"acme"}, "it stands for the machine"
