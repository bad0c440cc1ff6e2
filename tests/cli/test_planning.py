"""plan, simulate and profile as a user runs them."""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from splittracr.cli import profiles
from splittracr.cli.main import app
from splittracr.experiment.identity import ModelIdentity
from splittracr.experiment.profile import parse_profile
from splittracr.experiment.spec import ExperimentSpec
from splittracr.planning.registry import POLICIES
from splittracr.results.rate import Metric, Rate, RatePoint
from splittracr.results.summary import Estimate
from tests.cli.processes import manifest

TRACE = "duration_ms,bandwidth_kbps,latency_ms\n5000,{},20\n5000,500,20\n"
SLOW = ["--edge-slowdown", "10", "--rtt", "20ms"]


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "120", "NO_COLOR": "1"})
    return done.exit_code, done.output


@pytest.mark.parametrize("name", profiles.shipped())
def test_reference_profiles_are_complete(name: str) -> None:
    one = profiles.read(name, "--profile")
    assert one.network == name
    assert {codec.codec for codec in one.codecs} >= {"raw", "uint8", "uint8+zstd1"}
    assert [codec.codec for codec in one.picture_codecs] == ["uint8", "png", "jpeg90"]
    assert one.processor
    raw = next(codec for codec in one.codecs if codec.codec == "raw")
    assert all(sent >= live for sent, live in zip(raw.bytes, one.live_bytes, strict=True))
    assert list(one.memory_bytes) == sorted(one.memory_bytes)


def test_there_are_the_reference_profiles_that_are_promised() -> None:
    promised = {"vgg16", "yolov5nu", "mobilenet_v3_small", "alexnet", "resnet18"}
    assert set(profiles.shipped()) >= promised | {"efficientnet_lite0"}


def test_plan_answers_with_a_table_a_reason_and_a_figure(tmp_path: Path) -> None:
    figure = tmp_path / "plan.png"
    code, out = run(
        "plan", "mobilenet_v3_small", "--uplink", "5mbit", *SLOW, "--codec", "uint8",
        "--plot", str(figure),
    )  # fmt: skip
    assert code == 0, out
    assert "Cut at " in out
    assert " ".join(out.split()).count("owest median latency by uplink rate") == 1
    assert "emulated 10 times slower" in " ".join(out.split())
    assert figure.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ([], "Lowest median latency at every uplink rate: edge only."),
        (["--cut", "10"], "Lowest median latency at every uplink rate: features.8 as uint8."),
    ],
)
def test_one_winner_at_every_rate_is_a_sentence(more: list[str], sentence: str) -> None:
    code, out = run("plan", "alexnet", "--uplink", "5mbit", "--codec", "uint8", *more)
    assert code == 0, out
    assert sentence in " ".join(out.split())
    assert "wins" not in out


def test_not_to_split_is_an_answer(tmp_path: Path) -> None:
    file = manifest(tmp_path, {"model": {"name": "alexnet", "weights": "none"}})
    slow = run("plan", str(file), "--uplink", "50kbit", "--codec", "uint8")
    assert "Do not split: the edge alone takes" in " ".join(slow[1].split())
    fast = run("plan", "alexnet", "--uplink", "1gbit", "--edge-slowdown", "10")
    assert "Do not split: send the whole input" in " ".join(fast[1].split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["vgg61"], "one of: vgg16"),
        (["alexnet", "--uplink", "5"], "a rate such as 5mbit"),
        (["alexnet", "--rtt", "soon"], "a time such as 40ms"),
        (["alexnet", "--cut", "nowhere"], "a cut of alexnet"),
        (["alexnet", "--objective", "joy"], "'latency', 'throughput', 'energy'"),
        (["alexnet", "--objective", "energy"], "got 'energy', expected --compute-watts"),
        (["alexnet", "--edge-memory", "1kb", "--cut", "20"], "more memory than the edge has"),
        (["alexnet", "--server-profile", "resnet18"], "a profile of alexnet"),
        (["alexnet", "--edge-profile", "alexnet"], "alexnet is the edge's profile"),
        (["alexnet", "--codec", "unit8"], "a codec in the profile of alexnet, one of: uint8"),
        (["alexnet", "--plot", "plan.pdf"], "a file that ends in .png or .svg"),
        (["alexnet", "--plot", "nowhere/plan.png"], "a file in a folder that is there"),
        (["alexnet", "--edge-slowdown", "inf"], "a number from 0.001 to 1000"),
        (["alexnet", "--compute-watts", "nan"], "a number from 0.001 to 10000"),
        (["alexnet", "--deadline", "1ms"], "later than the deadline: the fastest takes"),
    ],
)
def test_what_cannot_be_planned_is_named(arguments: list[str], words: str) -> None:
    code, out = run("plan", *arguments)
    assert code == 2
    assert words in " ".join(out.split())


def rate_file(folder: Path, model: str = "alexnet", kept: float = 0.97, **identity: Any) -> str:
    """A file with two points of alexnet: a small JPEG, and uint8 at a cut with few bytes."""
    points = [
        ("input jpeg", "input", 0, "jpeg20", 4_000.0, kept),
        ("features.12", "features.12", 14, "uint8", 10_000.0, 1.0),
    ]
    share = partial(Estimate, low=None, high=None)
    made = Rate(
        study="s", model=model, weights="official",
        identity=ModelIdentity(**identity) if identity else None, samples=9, failed=0, reason=None,
        metric=Metric.TOP1, judged=9, uncut=share(value=0.5),
        points=tuple(
            RatePoint(
                family=family, cut=cut, cut_index=index, codec=codec, work=0.5, bytes=size,
                accuracy=share(value=0.5 * kept), agreement=kept, encode_ms=1.0, decode_ms=1.0,
            )
            for family, cut, index, codec, size, kept in points
        ),
        curves=(),
    )  # fmt: skip
    file = folder / "rate.json"
    file.write_text(made.model_dump_json())
    return str(file)


def test_a_measured_accuracy_decides_with_the_link(tmp_path: Path) -> None:
    """At 5 Mbit/s 4 kB take 6 ms and the small JPEG wins, unless it keeps too little."""
    asked = ["plan", "alexnet", "--uplink", "5mbit", *SLOW, "--rate", rate_file(tmp_path)]
    code, out = run(*asked, "--accuracy", "97")
    assert code == 0, out
    assert "send the whole input as jpeg20" in " ".join(out.split())
    code, out = run(*asked, "--accuracy", "97.5", "--rows", "400")
    assert code == 0, out
    assert "as jpeg20" not in out
    rows = [line for line in out.splitlines() if " uint8 " in line and "not measured" in line]
    assert len(rows) > 5  # all cuts but features.12
    assert "keeps too" in out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--rate", "nowhere.json"], "--rate: got 'nowhere.json', expected a file made by"),
        (["--rate", "{other}"], "expected a file of alexnet, not of vgg16"),
        (["--accuracy", "101"], "--accuracy: got '101', expected a number from 0 to 100"),
        (
            ["--rate", "{file}", "--accuracy", "99", "--codec", "jpeg20", "--cut", "0"],
            "keeps too little accuracy; not an allowed codec; not an allowed cut: input as jpeg20 "
            "keeps 97 %",
        ),
    ],
)
def test_what_has_no_accuracy_is_named(tmp_path: Path, options: list[str], words: str) -> None:
    (tmp_path / "other").mkdir()
    files = {"file": rate_file(tmp_path), "other": rate_file(tmp_path / "other", "vgg16")}
    code, out = run("plan", "alexnet", *(option.format(**files) for option in options))
    assert code == 2
    assert words in " ".join(out.split())


def test_a_codec_of_tensors_alone_leaves_the_picture_on_the_edge(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(TRACE.format(20_000))
    file = tmp_path / "out.json"
    code, out = run(
        "simulate", "--traces", str(tmp_path), "--profile", "alexnet", "--codec", "uint8+zstd1",
        "--json", str(file),
    )  # fmt: skip
    assert code == 0, out
    policies = [one["policy"] for one in json.loads(file.read_text())]
    assert policies == [*(name for name in POLICIES if name != "server-only"), "oracle"]


EXITS: dict[str, Any] = {
    "small": "alexnet",
    "small_ms": None,
    "exits": {"features.2": 25, "features.5": 50},
    "exit_ms": {"features.2": 0.2, "features.5": 0.3},
}
"""Exits in place of the small model. They answer 20 and 40 of 100 samples."""


def calibration_file(folder: Path, **changes: Any) -> str:
    """Of alexnet: a small model of 1 ms answers 60 of 100 samples and disagrees on 3 of them."""
    fields: dict[str, Any] = {
        "small": "tiny", "small_weights": "w", "large": "alexnet", "large_weights": "w",
        "statistic": "Margin", "threshold_per_million": 500_000, "promised_disagreement": 0.1,
        "confidence": 0.95, "pictures": 100, "sure": 60, "disagreeing": 3,
        "disagreement_bound": 0.1, "match_percent": None, "cut": "input", "codec": "uint8",
        "kilobytes": 60, "kilobytes_without": 150, "failed": 0, "small_ms": 1.0,
    }  # fmt: skip
    file = folder / "calibration.json"
    file.write_text(json.dumps({"schemaVersion": 2, **(fields | changes)}))
    return str(file)


def test_a_calibrated_cascade_is_planned_and_simulated(tmp_path: Path) -> None:
    asked = ["--calibration", calibration_file(tmp_path)]
    code, out = run("plan", "alexnet", "--uplink", "5mbit", *SLOW, *asked, "--rows", "1")
    assert code == 0, out
    assert "Cascade: tiny answers 60 % of the samples on the edge" in " ".join(out.split())
    (row,) = (line for line in out.splitlines() if "tiny, then" in line)
    assert "tiny, then input" in row
    (tmp_path / "a.csv").write_text(TRACE.format(20_000))
    found = []
    for more in ([], asked):
        file = tmp_path / "out.json"
        code, out = run(
            "simulate", "--traces", str(tmp_path), "--profile", "alexnet", "--json", str(file),
            *more,
        )  # fmt: skip
        assert code == 0, out
        found.append({one["policy"]: one["mean_ms"] for one in json.loads(file.read_text())})
    assert "tiny answers 60 % in 10 ms" in " ".join(out.split())
    whole = found[0]["edge-only"]
    assert found[1]["edge-only"] == pytest.approx(10 + 0.4 * whole, rel=0.3)  # few frames
    assert found[1]["server-only"] < found[0]["server-only"]


def test_calibrated_exits_are_planned_and_simulated(tmp_path: Path) -> None:
    file = calibration_file(tmp_path, **EXITS)
    edge = profiles.read("alexnet", "FILE")
    heads = [10 * edge.head_ms()[edge.cuts.index(cut)] for cut in EXITS["exits"]]
    ended = (heads[0] + 2, heads[1] + 5)
    asked = ["--calibration", file]
    code, out = run("plan", "alexnet", "--uplink", "300kbit", *SLOW, *asked)
    assert code == 0, out
    words = " ".join(out.split())
    found = re.search(
        r"2 exits answer 60 % of the samples on the edge \(features.2 20 %, features.5 40 %\), the "
        r"others go on as (\S+) as",
        words,
    )
    assert found is not None
    assert "Lowest median latency by uplink rate, without the exits:" in words
    assert edge.cuts.index(found[1]) > edge.cuts.index("features.5")
    code, out = run("plan", "alexnet", "--uplink", "5mbit", *SLOW, *asked)
    assert re.search(r"2 exits, then input +0 jpeg90", out)
    code, out = run("plan", "alexnet", "--uplink", "100kbit", *SLOW, *asked)
    assert "features.5 40 %), the others stay on the edge" in " ".join(out.split())
    code, out = run("plan", "alexnet", *SLOW, *asked, "--cut", "features.2")
    assert code == 0, out
    assert "no allowed cut is input or after the last exit" in " ".join(out.split())
    (tmp_path / "a.csv").write_text(TRACE.format(20_000))
    table = tmp_path / "out.json"
    code, out = run(
        "simulate", "--traces", str(tmp_path), "--profile", "alexnet", "--json", str(table), *asked
    )
    assert code == 0, out
    words = " ".join(out.split())
    first = f"features.2 20 % in {ended[0]:,.1f} ms, features.5 40 % in {ended[1]:,.1f} ms."
    assert f"2 exits answer 60 %: {first} The others go on after 5.0 ms of exits," in words
    means = {one["policy"]: one["mean_ms"] for one in json.loads(table.read_text())}
    assert means["server-only"] >= means["oracle"]
    whole = 10 * (edge.head_ms()[-1] + edge.reduce_ms)
    mean = 0.2 * ended[0] + 0.4 * ended[1] + 0.4 * (5 + whole)
    assert means["edge-only"] == pytest.approx(mean, rel=0.3)  # few frames
    assert means["oracle"] <= means["edge-only"]


@pytest.mark.parametrize("changes", [{}, EXITS], ids=["small model", "exits"])
def test_memory_limits_a_calibrated_cascade(changes: dict[str, Any], tmp_path: Path) -> None:
    """Behind the input the small model is alone; exits have the head up to the last one."""
    edge = profiles.read("alexnet", "FILE")
    head = edge.memory_bytes[edge.cuts.index("features.5") if changes else 0]
    asked = ["plan", "alexnet", "--uplink", "5mbit", *SLOW, "--cut", "input"]
    asked += ["--calibration", calibration_file(tmp_path, memory_bytes=1_000, **changes)]
    for more, fits in ((1_500, True), (500, False)):
        code, out = run(*asked, "--edge-memory", f"{(head + more) / 1000:.3f}kb")
        assert code == 0, out
        assert ("more memory than the edge has" in " ".join(out.split())) != fits
    asked[-1] = calibration_file(tmp_path, **changes)  # as earlier versions wrote it
    code, out = run(*asked, "--edge-memory", "1gb")
    assert code == 0, out
    assert re.search("memory of the .* is not known", " ".join(out.split()))


@pytest.mark.parametrize("changes", [{"small_ms": 4.0}, EXITS], ids=["small model", "exits"])
def test_policies_decide_whether_the_small_model_or_exits_go_first(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text(TRACE.format(20_000))
    found, file = list[dict[str, float]](), tmp_path / "out.json"
    asked = ["--calibration", calibration_file(tmp_path, **changes)]
    for more in ([], asked, [*asked, "--small-if-it-pays"]):
        code, out = run(
            "simulate", "--traces", str(tmp_path), "--profile", "alexnet", "--json", str(file),
            *more,
        )  # fmt: skip
        assert code == 0, out
        found.append({one["policy"]: one["mean_ms"] for one in json.loads(file.read_text())})
    assert list(found[2]) == ["adaptive", "deadline", "hedge", "oracle"]
    for policy in found[2]:
        assert found[2][policy] <= 1.1 * min(found[0][policy], found[1][policy])  # few frames
    code, out = run("simulate", "--traces", str(tmp_path), "--small-if-it-pays")
    assert code == 2
    expected = "--calibration: got nothing, expected a file of `splittracr calibrate`: "
    assert f"{expected}--small-if-it-pays needs it" in " ".join(out.split())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"large": "vgg16"}, "expected a file of alexnet"),
        ({"small_ms": None}, "with the time of the small model, small_ms"),
        ({**EXITS, "large": "vgg16"}, "expected a file of alexnet"),
        ({**EXITS, "exit_ms": None}, "with the times of the exits, exit_ms"),
        (
            {
                **EXITS,
                "exits": {"features.9": 60, "classifier.99": 0},
                "exit_ms": {"features.9": 1, "classifier.99": 1},
            },
            "calibration.json: got 'classifier.99', expected a cut inside alexnet, one of: "
            "classifier.",
        ),
        (
            {**EXITS, "exits": {"output": 60}, "exit_ms": {"output": 1}},
            "calibration.json: got 'output', expected a cut inside alexnet",
        ),
        ({**EXITS, "exit_ms": {"features.2": 1}}, "expected the same cuts in exits and exit_ms"),
        (
            {**EXITS, "exits": {"features.2": 15, "features.5": 30}},
            "expected exits with 60 answers (sure) or more, got 45",
        ),
        ({"sure": 101}, "expected disagreeing <= sure <= pictures, got 3, 101 and 100"),
        ({"pictures": 0, "sure": 0, "disagreeing": 0}, "pictures of"),
    ],
)
def test_a_calibration_that_does_not_fit_is_named(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    file = calibration_file(tmp_path, **changes)
    (tmp_path / "a.csv").write_text(TRACE.format(20_000))
    for command in (["plan", "alexnet"], ["simulate", "--traces", str(tmp_path), "--profile"]):
        name = ["alexnet"] if command[-1] == "--profile" else []
        code, out = run(*command, *name, "--calibration", file)
        assert code == 2
        assert words in " ".join(out.split())
    code, out = run("plan", "alexnet", "--calibration", "nowhere.json")
    assert code == 2
    assert "--calibration: got 'nowhere.json'" in " ".join(out.split())


LARGE: dict[str, Any] = {
    "graph_fingerprint": "sha256:graph", "weights_digest": "sha256:weights",
    "input": [3, 224, 224], "dtype": "float32", "preparation": "resize",
}  # fmt: skip


def profile_file(folder: Path, **changes: Any) -> str:
    """A profile of alexnet with weights, as another machine wrote it."""
    made = json.loads(profiles.read("alexnet", "FILE").model_dump_json(by_alias=True))
    file = folder / "profile.json"
    file.write_text(json.dumps({**made, "weights": "w", "identity": LARGE, **changes}))
    return str(file)


@pytest.mark.parametrize(
    ("changes", "of_profile", "words"),
    [
        ({"large_weights": "w2"}, {}, "large_weights of FILE: got 'w2', expected 'w', as in the p"),
        (
            {"large_identity": LARGE | {"weights_digest": "sha256:other"}},
            {},
            "large_identity.weights_digest of FILE: got 'sha256:other', expected 'sha256:weights'",
        ),
        (
            {"large_identity": LARGE | {"graph_fingerprint": "sha256:other"}},
            {},
            "large_identity.graph_fingerprint of FILE: got 'sha256:other', expected 'sha256:graph'",
        ),
        (
            {"large_identity": LARGE | {"preparation": "crop"}},
            {},
            "large_identity.preparation of FILE: got 'crop', expected 'resize', as in the profile",
        ),
        (
            {"large_identity": LARGE | {"input": [3, 96, 128]}},
            {"identity": None},
            "large_identity.input of FILE: got (3, 96, 128), expected (3, 224, 224), as in the pro",
        ),
        (
            {"large_identity": LARGE | {"dtype": "bfloat16"}},
            {"identity": None, "weights": "none (random)"},
            "large_identity.dtype of FILE: got 'bfloat16', expected 'float32', as in the profile",
        ),
    ],
)
def test_a_calibration_of_another_model_of_the_same_name_is_refused(
    tmp_path: Path, changes: dict[str, Any], of_profile: dict[str, Any], words: str
) -> None:
    file = calibration_file(tmp_path, **changes)
    edge = profile_file(tmp_path, **of_profile)
    (tmp_path / "a.csv").write_text(TRACE.format(20_000))
    for command in (["plan"], ["simulate", "--traces", str(tmp_path), "--profile"]):
        code, out = run(*command, edge, "--calibration", file)
        assert code == 2
        assert words.replace("FILE", file) in " ".join(out.split())


def test_a_rate_of_another_model_of_the_same_name_is_refused(tmp_path: Path) -> None:
    edge = profile_file(tmp_path)
    (tmp_path / "a.csv").write_text(TRACE.format(20_000))
    commands = ["plan"], ["simulate", "--traces", str(tmp_path), "--profile"]
    for key in ("graph_fingerprint", "weights_digest", "preparation"):
        file = rate_file(tmp_path, **LARGE | {key: "other"})
        for command in commands:
            code, out = run(*command, edge, "--rate", file)
            assert code == 2
            expected = f"identity.{key} of {file}: got 'other', expected '{LARGE[key]}', as in the "
            assert expected in " ".join(out.split())
    # The same weights under another name, and random weights, which stand for any.
    assert run("plan", edge, "--rate", rate_file(tmp_path, **LARGE))[0] == 0
    anything = profile_file(tmp_path, weights="none (random)")
    other = rate_file(tmp_path, **LARGE | {"weights_digest": "other"})
    assert run("plan", anything, "--rate", other)[0] == 0


@pytest.mark.parametrize(
    ("changes", "of_profile"),
    [
        ({"large_identity": LARGE}, {}),
        ({}, {}),  # of an earlier version
        ({"large_identity": LARGE, "large_weights": "w2"}, {}),  # another name of the same file
        ({"large_identity": LARGE}, {"identity": None}),
        (  # random weights stand for any
            {"large_identity": LARGE, "large_weights": "w2"},
            {"weights": "none (random)", "identity": LARGE | {"weights_digest": "sha256:random"}},
        ),
        ({"large_identity": LARGE | {"input": None}}, {}),
    ],
)
def test_a_calibration_of_the_model_of_the_profile_is_planned(
    tmp_path: Path, changes: dict[str, Any], of_profile: dict[str, Any]
) -> None:
    file = calibration_file(tmp_path, **changes)
    code, out = run("plan", profile_file(tmp_path, **of_profile), "--calibration", file)
    assert code == 0, out
    assert "Cascade: tiny answers 60 %" in " ".join(out.split())


@pytest.mark.parametrize(
    ("changes", "sections", "words"),
    [
        (
            {"postprocess": {"topK": 9}},
            {},
            "postprocess.topK of FILE: got 9, expected 5, as in the manifest",
        ),
        (
            {"postprocess": {"name": "own:Post"}},
            {},
            "postprocess.name of FILE: got 'own:Post', expected None, as in the manifest",
        ),
        (
            {},
            {"cascade": {"model": {"name": "huge"}}},
            "small of FILE: got 'tiny', expected 'huge', as in the manifest",
        ),
        (
            {"small_identity": LARGE},
            {"cascade": {"model": {"name": "tiny", "dtype": "float16"}}},
            "small_identity.dtype of FILE: got 'float32', expected 'float16', as in the manifest",
        ),
        (
            {**EXITS, "exits_digest": "sha256:other"},
            {"cascade": {"exits": "exits.safetensors"}},
            "exits_digest of FILE: got 'sha256:other', expected 'sha256:2cf24dba5fb0a30e26e83b2ac5"
            "b9e29e1b161e5c1fa7425e73043362938b9824', as in the manifest",
        ),
    ],
)
def test_a_calibration_of_another_study_is_refused(
    tmp_path: Path, changes: dict[str, Any], sections: dict[str, Any], words: str
) -> None:
    (tmp_path / "exits.safetensors").write_text("hello")
    partition: dict[str, Any] = {"mode": "Static", "cut": 0}
    if sections:
        wanted = {"statistic": "Margin", "thresholdPerMillion": 1, **sections["cascade"]}
        partition = {"mode": "Cascade", "cut": 0, "cascade": wanted}
    study = manifest(tmp_path, {"model": {"name": "alexnet"}, "partition": partition})
    file = calibration_file(tmp_path, **changes)
    code, out = run("plan", str(study), "--calibration", file)
    assert code == 2
    assert words.replace("FILE", file) in " ".join(out.split())


def test_an_accuracy_that_the_cascade_does_not_keep_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(TRACE.format(20_000))
    code, out = run(
        "simulate", "--traces", str(tmp_path), "--profile", "alexnet", "--calibration",
        calibration_file(tmp_path), "--accuracy", "98",
    )  # fmt: skip
    assert code == 2
    assert "--accuracy: got '98', expected at most 97" in " ".join(out.split())
    code, out = run(
        "simulate", "--traces", str(tmp_path), "--profile", "alexnet", "--calibration",
        calibration_file(tmp_path, **EXITS), "--accuracy", "90", "--codec", "uint4+zstd1",
    )  # fmt: skip
    assert code == 2
    words = " ".join(out.split())
    assert "--accuracy: got '90', expected a share that a candidate with a server keeps" in words
    assert words.endswith("Samples that go on have to keep 82.5 %")


def test_limits_that_leave_the_cascade_alone_are_no_error(tmp_path: Path) -> None:
    asked = [
        "plan", "alexnet", "--rate", rate_file(tmp_path, kept=0.8), "--cut", "input", "--codec",
        "jpeg20", "--accuracy", "90", "--calibration",
        calibration_file(tmp_path, sure=97, disagreeing=1),
    ]  # fmt: skip
    code, out = run(*asked)
    assert code == 0, out
    words = " ".join(out.split())
    assert "Cascade: tiny answers 97 % of the samples on the edge, the others go on as" in words
    assert "The limits leave no candidate without the cascade, at any uplink rate." in words
    code, out = run(*asked, "--plot", str(tmp_path / "plan.png"))
    assert code == 2
    assert "a cascade alone, of which there is no figure" in " ".join(out.split())


def test_the_oracle_keeps_the_accuracy_if_policies_decide(tmp_path: Path) -> None:
    """The cascade keeps at most 97 %, so the oracle goes past it, as without a calibration."""
    (tmp_path / "a.csv").write_text(TRACE.format(20_000))
    cascade = ["--calibration", calibration_file(tmp_path), "--small-if-it-pays"]
    rate, found = rate_file(tmp_path), list[float]()
    for more in ([], cascade):
        file = tmp_path / "out.json"
        code, out = run(
            "simulate", "--traces", str(tmp_path), "--profile", "alexnet", "--json", str(file),
            "--rate", rate, "--accuracy", "99", *more,
        )  # fmt: skip
        assert code == 0, out
        means = {one["policy"]: one["mean_ms"] for one in json.loads(file.read_text())}
        found.append(means["oracle"])
    assert found[0] == found[1]


def test_simulated_policies_keep_the_accuracy_too(tmp_path: Path) -> None:
    (tmp_path / "traces").mkdir()
    (tmp_path / "traces" / "a.csv").write_text(TRACE.format(20_000))
    found = {}
    for kept in (1.0, 0.97):
        file = tmp_path / f"{kept}.json"
        code, out = run(
            "simulate", "--traces", str(tmp_path / "traces"), "--profile", "alexnet", "--json",
            str(file), "--rate", rate_file(tmp_path, kept=kept), "--accuracy", "99", "--codec",
            "uint8", "--codec", "jpeg20",
        )  # fmt: skip
        assert code == 0, out
        found[kept] = {one["policy"]: one["mean_ms"] for one in json.loads(file.read_text())}
    assert found[1.0]["server-only"] < found[0.97]["server-only"]
    assert found[1.0]["edge-only"] == found[0.97]["edge-only"]
    code, out = run(
        "simulate", "--traces", str(tmp_path / "traces"), "--profile", "alexnet", "--rate",
        rate_file(tmp_path), "--accuracy", "99", "--codec", "jpeg20",
    )  # fmt: skip
    assert code == 2
    assert "a candidate with a server keeps: input as jpeg20 keeps 97 %" in " ".join(out.split())


@pytest.mark.parametrize(
    ("sections", "taken"),
    [
        ({}, True),
        ({"model": {"name": "alexnet", "inputSize": [224, 224]}}, True),
        ({"model": {"name": "alexnet", "inputSize": [512, 512]}}, False),
        ({"model": {"name": "alexnet", "dtype": "bfloat16"}}, False),
        ({"model": {"name": "alexnet", "numClasses": 10}}, False),
        ({"model": {"name": "alexnet", "source": "custom"}}, False),
        ({"workload": {"batchSize": 4}}, False),
        ({"model": {"name": "squeezenet1_1"}}, False),
    ],
)
def test_a_reference_profile_is_for_the_network_it_was_made_with(
    sections: dict[str, Any], taken: bool
) -> None:
    base = {"model": {"name": "alexnet"}, "partition": {"mode": "Adaptive"}}
    spec = ExperimentSpec.model_validate({**base, **sections}, by_alias=True)
    assert (profiles.reference(spec) is not None) == taken


def test_another_network_of_a_manifest_is_measured(tmp_path: Path) -> None:
    model = {"name": "alexnet", "weights": "none", "inputSize": [64, 64], "numClasses": 7}
    file = manifest(tmp_path, {"model": model, "workload": {"batchSize": 2, "samples": 2}})
    wrong = run("plan", str(file), "--edge-profile", "alexnet")
    assert wrong[0] == 2
    assert "not alexnet for 1x3x224x224 in float32" in " ".join(wrong[1].split())
    code, out = run("plan", str(file), "--uplink", "1gbit", "--codec", "uint8", "--rows", "100")
    assert code == 0, out
    assert "25.0 kB" in out  # two pictures of 64 by 64


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--scale", "0.014", "whole hundredths"),
        ("--scale", "inf", "a number from 0.01 to 1000"),
        ("--codec", "unit8", "one of: uint8"),
        ("--json", "nowhere/found.json", "a file in a folder that is there"),
    ],
)
def test_what_cannot_be_simulated_is_named(
    tmp_path: Path, option: str, value: str, words: str
) -> None:
    (tmp_path / "a.csv").write_text(TRACE.format(20_000))
    code, out = run("simulate", "--traces", str(tmp_path), "--profile", "alexnet", option, value)
    assert code == 2
    assert words in " ".join(out.split())


def test_simulate_prints_and_writes_every_policy(tmp_path: Path) -> None:
    for family, rate in (("near", 20_000), ("far/away", 3_000)):
        (tmp_path / family).mkdir(parents=True)
        (tmp_path / family / "a.csv").write_text(TRACE.format(rate))
    file = tmp_path / "out.json"
    code, out = run(
        "simulate",
        "--traces",
        str(tmp_path),
        "--profile",
        "mobilenet_v3_small",
        "--json",
        str(file),
    )
    assert code == 0, out
    found = json.loads(file.read_text())
    assert [set(one) for one in found] == [
        {
            "family", "network", "policy", "mean_ms", "p95_ms", "p99_ms", "p999_ms",
            "percent_of_oracle", "switches_per_100",
        }
    ] * len(found)  # fmt: skip
    expected = [(family, policy) for family in ("away", "near") for policy in (*POLICIES, "oracle")]
    assert [(one["family"], one["policy"]) for one in found] == expected
    by = {(one["family"], one["policy"]): one for one in found}
    for family in ("away", "near"):
        assert by[family, "oracle"]["percent_of_oracle"] == pytest.approx(100)
        assert by[family, "hedge"]["p999_ms"] <= by[family, "edge-only"]["p999_ms"] * 1.000001
        assert by[family, "hedge"]["percent_of_oracle"] <= 101
    assert "% of oracle" in out


def test_rates_can_be_scaled(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(TRACE.format(20_000))
    figures = []
    for scale in ("1", "0.25"):
        file = tmp_path / f"{scale}.json"
        run(
            "simulate", "--traces", str(tmp_path), "--profile", "alexnet", "--json", str(file),
            "--scale", scale,
        )  # fmt: skip
        found = json.loads(file.read_text())
        figures.append({one["policy"]: one["mean_ms"] for one in found})
    assert figures[1]["server-only"] > 1.5 * figures[0]["server-only"]
    assert figures[1]["edge-only"] == figures[0]["edge-only"]


def test_no_traces_are_an_error(tmp_path: Path) -> None:
    code, out = run("simulate", "--traces", str(tmp_path))
    assert code == 2
    assert "a folder with traces" in " ".join(out.split())


def test_a_profile_is_measured_and_read_back(tmp_path: Path) -> None:
    file = tmp_path / "own.json"
    code, out = run(
        "profile", "squeezenet1_1", "--weights", "none", "--device", "cpu", "--frames", "1",
        "-o", str(file),
    )  # fmt: skip
    assert code == 0, out
    one = parse_profile(file.read_text(), "own")
    assert (one.network, one.threads, one.device) == ("squeezenet1_1", 1, "cpu")
    assert len(one.op_ms) == len(one.cuts) - 1
    assert min(one.op_ms) >= 0
    assert sum(one.op_ms) > 1
    code, out = run("plan", str(file), "--uplink", "5mbit", *SLOW)
    assert code == 0, out


def test_a_profile_can_be_a_table_of_operations_without_a_file() -> None:
    code, out = run(
        "profile", "alexnet", "--weights", "none", "--device", "cpu", "--frames", "1",
        "--per", "layer",
    )  # fmt: skip
    assert code == 0, out
    rows = [line.split() for line in out.splitlines() if line.strip()[:1].isdigit()]
    assert [row[1] for row in rows[:3]] == ["pixels", "features.0", "features.1"]
    # 3 x 11 x 11 multiplications and additions at 64 x 55 x 55 places.
    assert rows[1][2:9] == ["Conv2d", "1×64×55×55", "774", "kB", "23.3", "k", "141"]
    code, out = run("profile", "alexnet", "--weights", "none")
    assert code == 2
    assert "--out" in out
    assert "--per layer" in out


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a file system without new files")
def test_a_profile_that_cannot_be_written_is_refused_before_anything_is_measured() -> None:
    code, out = run("profile", "alexnet", "--weights", "none", "-o", "/proc/own.json")
    assert code == 2
    assert "--out: got '/proc/own.json'" in " ".join(out.split())
    assert "ms" not in out.split()
