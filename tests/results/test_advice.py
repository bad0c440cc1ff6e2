"""What the report says to do: measured and predicted figures, the best by constraint, the words."""

import re
from pathlib import Path
from typing import Any

import pytest

from splittracr.experiment.calibration import Calibration
from splittracr.experiment.contracts import Role, Statistic
from splittracr.experiment.spec import ExperimentSpec, Metadata, SplitExperiment
from splittracr.experiment.types import Cut, Operation, OperationTime, Place, Record, TensorSpec
from splittracr.results import advice_words, tables
from splittracr.results.advice import Advice, advise
from splittracr.results.candidates import Candidate, CandidateKind
from splittracr.results.environment import EndTimes, Environment
from splittracr.results.rate import METRICS, Metric, Rate, RatePoint
from splittracr.results.report import write_results
from splittracr.results.summary import Estimate
from tests.results import synthetic
from tests.results.test_report import Page

EDGE_MS, SERVER_MS = (10.0, 20.0, 30.0), (1.0, 2.0, 3.0)
LINK = {
    "uplinkKilobitsPerSecond": 8000,
    "downlinkKilobitsPerSecond": 8000,
    "roundTripMilliseconds": 20,
}
"""1,000 bytes a millisecond."""


def _cut(index: int, name: str) -> Cut:
    dtype = "uint8" if index == 0 else "float32"
    live = TensorSpec(name=name, shape=(1, 3, 8, 8), dtype=dtype, bytes=20_000)
    return Cut(index=index, name=name, live=(live,), bytes=20_000, work=index / 3)


CUTS = tuple(_cut(i, name) for i, name in enumerate(("input", "a", "b", "output")))


def environment(**sections: Any) -> Environment:
    spec = {
        "model": {"name": "net"},
        "partition": {"mode": "Sweep"},
        "transport": {"link": LINK},
        "workload": {"batchSize": 1},
        **sections,
    }
    times = [
        EndTimes(
            role=role,
            edge="edge-0",
            operations=tuple(OperationTime(mean_ms=ms, p95_ms=ms, readings=3) for ms in each),
        )
        for role, each in ((Role.EDGE, EDGE_MS), (Role.SERVER, SERVER_MS))
    ]
    manifest = SplitExperiment(
        metadata=Metadata(name="study", uid=synthetic.UID),
        spec=ExperimentSpec.model_validate(spec, by_alias=True),
    )
    operations = [
        Operation(name=name, module=name, type="Conv2d", shapes=(), bytes=0, parameters=0, flops=0)
        for name in ("a", "b", "c")
    ]
    return synthetic.environment(
        CUTS,
        manifest=manifest,
        operations=tuple(operations),
        operation_times=tuple(times),
        link="8 Mbit/s, 20 ms round trip",
    )


def record(index: int, sample: int, stages: dict[str, float], **changes: Any) -> Record:
    total = sum(stages.values())
    return synthetic.record(CUTS[index], sample, stages=stages, total_ms=total, **changes)


def swept() -> list[Record]:
    """Two samples at the cuts input, in 51 ms, and output, in 65 ms."""
    sent = {"codec": "uint8", "bytes_up": 20_000, "bytes_down": 1_000}
    whole = {"load": 5.0, "link": 40.0, "tail": 6.0}
    alone = {"load": 5.0, "head": 60.0}
    return [
        one
        for sample in range(2)
        for one in (record(0, sample, whole, **sent), record(3, sample, alone))
    ]


def point(
    index: int, codec: str, size: float, accuracy: float, encode: float | None, decode: float
) -> RatePoint:
    return RatePoint(
        family="input jpeg", cut=CUTS[index].name, cut_index=index, codec=codec, work=index / 3,
        bytes=size, accuracy=Estimate(value=accuracy, low=None, high=None), agreement=None,
        encode_ms=encode, decode_ms=decode,
    )  # fmt: skip


def rated(**changes: Any) -> Rate:
    """Of an uncut model with 80 %: 100, 95, 99.5, 100 and 50 % are kept."""
    points = (
        point(0, "uint8", 20_000, 0.8, 0.0, 0.0),
        point(0, "jpeg50", 4_000, 0.76, 2.0, 1.0),
        point(0, "jpeg90", 9_000, 0.796, 3.0, 1.0),
        point(1, "uint8", 2_000, 0.8, 0.5, 1.0),
        point(2, "uint4", 1_000, 0.4, 0.5, 1.0),
        point(2, "float16", 4_000, 0.8, None, 1.0),  # without a time there is no prediction
    )
    uncut = Estimate(value=0.8, low=None, high=None)
    fields: dict[str, Any] = {
        "study": "study", "model": "net", "weights": "IMAGENET1K_V1", "samples": 50, "failed": 0,
        "reason": None, "metric": Metric.TOP1, "judged": 50, "uncut": uncut, "points": points,
        "curves": (),
    }  # fmt: skip
    return Rate(**(fields | changes))


def calibrated(**changes: Any) -> Calibration:
    fields: dict[str, Any] = {
        "small": "tiny", "small_weights": "w", "large": "net", "large_weights": "IMAGENET1K_V1",
        "statistic": Statistic.MARGIN, "threshold_per_million": 500_000,
        "promised_disagreement": 0.1, "confidence": 0.95, "pictures": 100, "sure": 60,
        "disagreeing": 3, "disagreement_bound": 0.1, "match_percent": None, "cut": "a",
        "codec": "uint8", "kilobytes": 0.8, "kilobytes_without": 2.0, "failed": 0, "small_ms": 4.0,
    }  # fmt: skip
    return Calibration(**(fields | changes))


def advised(
    records: list[Record], described: Environment, *files: Rate | Calibration | None
) -> Advice:
    figures = tables.summarise(tables.frame(records), described)
    return advise(described, figures, records, *files)  # type: ignore[arg-type]


def by_title(made: Advice) -> dict[str, Candidate]:
    return {one.title: one for one in made.candidates}


def latencies(made: Advice) -> dict[str, tuple[float, bool]]:
    """Latency by title, and whether it was measured."""
    found = {one.title: one.latency_ms for one in made.candidates}
    return {k: (round(v.value, 6), v.measured) for k, v in found.items() if v is not None}


def test_latencies_are_measured_or_follow_from_operations_link_and_codec() -> None:
    """The stages before the head take 5 ms, a message 20 ms and its bytes, a reply 1 ms."""
    made = advised(swept(), environment(), rated())
    assert latencies(made) == {
        "whole input as uint8": (51, True),
        "edge only": (65, True),
        "whole input as jpeg50": (5 + 2 + 20 + 4 + 1 + 1 + 6, False),
        "whole input as jpeg90": (5 + 3 + 20 + 9 + 1 + 1 + 6, False),
        "cut at a as uint8": (5 + 10 + 0.5 + 20 + 2 + 1 + 1 + 5, False),
        "cut at b as uint4": (5 + 30 + 0.5 + 20 + 1 + 1 + 1 + 3, False),
    }
    # Also predicted: 5 + 20 + 20 + 1 + 6 ms of uint8 and 65 ms of the edge alone.
    assert sorted(made.errors) == pytest.approx([0, 52 / 51 - 1])
    kept = {one.title: one.kept.value for one in made.candidates if one.kept}
    assert kept == {
        "whole input as uint8": 1,
        "edge only": 1,
        "whole input as jpeg50": pytest.approx(0.95),
        "whole input as jpeg90": pytest.approx(0.995),
        "cut at a as uint8": 1,
        "cut at b as uint4": 0.5,
    }


def test_a_slow_edge_is_slow_in_predictions_too() -> None:
    records = [one for one in swept() if one.cut == "input"]
    records.append(record(3, 0, {"load": 5.0, "head": 180.0}))
    made = latencies(advised(records, environment(edge={"slowdownPercent": 300}), rated()))
    assert made["cut at a as uint8"] == (5 + 3 * 10.5 + 20 + 2 + 1 + 1 + 5, False)


def test_predictions_are_scaled_to_the_machines_as_the_study_found_them() -> None:
    """The edge alone took 120 ms instead of 60, the server 9 instead of 6, after a wait of 1."""
    sent = {"codec": "uint8", "bytes_up": 20_000, "bytes_down": 1_000}
    whole = {"load": 5.0, "link": 40.0, "server_wait": 1.0, "tail": 9.0}
    records = [record(0, 0, whole, **sent), record(3, 0, {"load": 5.0, "head": 120.0})]
    made = latencies(advised(records, environment(), rated()))
    assert made["cut at a as uint8"] == (5 + 2 * 10.5 + 20 + 2 + 1 + 1.5 * 6 + 1, False)


@pytest.mark.parametrize(
    ("asked", "winners"),
    [
        ({}, ["whole input as jpeg50", "cut at a as uint8", "cut at a as uint8"]),
        (
            {"mode": "Adaptive", "adaptive": {"accuracyPercent": 95}},
            ["whole input as jpeg50", "whole input as jpeg50", "cut at a as uint8"],
        ),
        (
            {"mode": "Adaptive", "adaptive": {"accuracyPercent": 50}},
            ["whole input as jpeg50", "whole input as jpeg50", "cut at b as uint4"],
        ),
    ],
)
def test_the_best_depends_on_the_accuracy_asked_for(
    asked: dict[str, Any], winners: list[str]
) -> None:
    sections = {"partition": asked} if asked else {}
    made = advised(swept(), environment(**sections), rated())
    assert [one.candidate and one.candidate.title for one in made.winners] == winners
    assert made.share == asked.get("adaptive", {}).get("accuracyPercent", 99) / 100


def test_without_an_emulated_link_its_rate_is_fitted_to_the_cuts() -> None:
    """40 ms for 20,000 bytes and 22 ms for 2,000: 20 ms and 1,000 bytes a millisecond."""
    sent = {"codec": "uint8", "bytes_up": 2_000, "bytes_down": 1_000}
    stages = {"load": 5.0, "head": 10.0, "link": 22.0, "tail": 5.0}
    records = [*swept(), *(record(1, sample, stages, **sent) for sample in range(2))]
    made = advised(records, environment(transport={}), rated())
    assert latencies(made)["whole input as jpeg90"] == (5 + 3 + 20 + 9 + 1 + 6, False)
    assert made.link == "8 Mbit/s and 20 ms, fitted to the times of 2 cuts on the link"
    alone = advised(swept(), environment(transport={}), rated())
    assert set(latencies(alone)) == {"whole input as uint8", "edge only"}  # one size is no line


def test_energy_is_that_of_the_declared_power() -> None:
    power = {"computeMilliwatts": 5000, "transmitMilliwatts": 2000, "idleMilliwatts": 1000}
    made = by_title(advised(swept(), environment(edge={"power": power}), rated()))
    joules = made["whole input as jpeg90"].joules
    assert joules is not None
    # 8 ms of computing, 9 ms of sending and 28 ms of waiting.
    assert joules.value == pytest.approx((8 * 5 + 9 * 2 + 28 * 1) / 1e3)
    assert not joules.measured
    alone = made["edge only"].joules
    assert alone is not None
    assert alone.value == pytest.approx(0.325)
    assert not alone.measured  # but modelled


def test_a_cascade_reads_and_prepares_every_sample() -> None:
    """5 ms of reading and 4 of the small model. After that 40 % take 10.5 ms of computing, 2 of
    sending and 27 of waiting.
    """
    power = {"computeMilliwatts": 5000, "transmitMilliwatts": 2000, "idleMilliwatts": 1000}
    files = rated(), calibrated()
    made = by_title(advised(swept(), environment(edge={"power": power}), *files))
    joules = made["cascade, tiny answers 60 %"].joules
    assert joules is not None
    assert joules.value == pytest.approx((9 * 5 + 0.4 * (10.5 * 5 + 2 * 2 + 27 * 1)) / 1e3)
    assert not joules.measured


def test_a_calibrated_cascade_is_a_candidate() -> None:
    """4 ms of the small model, and for 40 of 100 pictures the 39.5 ms after the first 5."""
    made = advised(swept(), environment(), rated(), calibrated())
    cascade = by_title(made)["cascade, tiny answers 60 %"]
    assert cascade.kind is CandidateKind.CASCADE
    assert cascade.latency_ms is not None
    assert cascade.latency_ms.value == pytest.approx(5 + 4 + 0.4 * 39.5)
    assert cascade.bytes is not None
    assert (cascade.bytes.value, cascade.bytes.measured) == (800, True)
    assert cascade.kept is not None
    assert cascade.kept.value == pytest.approx(0.57 + 0.4)
    untimed = advised(swept(), environment(), rated(), calibrated(small_ms=None))
    assert CandidateKind.CASCADE not in [one.kind for one in untimed.candidates]


def test_calibrated_exits_are_a_candidate() -> None:
    """Of 60 sure pictures in 100, 40 end at `a` after 10 ms of head and 1 ms of exit, 20 at `b`
    after 30 and 1 + 2. The others also take the 3 ms of both exits.
    """
    exits = {"small": "net", "small_ms": None, "exits": {"a": 40, "b": 20}, "sure": 60}
    times = {"exit_ms": {"a": 1.0, "b": 2.0}}
    behind = calibrated(**exits, **times, cut="b", codec="uint4")
    made = advised(swept(), environment(), rated(), behind)
    sure = 0.4 * (10 + 1) + 0.2 * (30 + 3)
    at_b = 30 + 0.5 + 20 + 1 + 1 + 1 + 3
    latency, measured = latencies(made)["cascade, exits answer 60 %"]
    assert latency == pytest.approx(5 + sure + 0.4 * (3 + at_b))
    assert not measured
    # As a whole input they have run the head up to `b` in vain.
    whole = calibrated(**exits, **times, cut="input", codec="uint8")
    made = advised(swept(), environment(), rated(), whole)
    latency, _ = latencies(made)["cascade, exits answer 60 %"]
    assert latency == pytest.approx(5 + sure + 0.4 * (3 + 30 + 46))
    untimed = advised(swept(), environment(), rated(), calibrated(**exits, cut="b", codec="uint4"))
    assert CandidateKind.CASCADE not in [one.kind for one in untimed.candidates]


@pytest.mark.parametrize(
    ("codec", "rest"), [("uint8", 1.0), ("uint4+zstd1", None), ("raw", 1.0), ("float16", 0.75)]
)
def test_a_cascade_that_ran_is_measured(codec: str, rest: float | None) -> None:
    cascade = {
        "model": {"name": "tiny"}, "statistic": "Margin", "thresholdPerMillion": 500_000,
    }  # fmt: skip
    described = environment(partition={"mode": "Cascade", "cut": "a", "cascade": cascade})
    audits = ["agrees", "disagrees", "agrees", None, None, None]
    records = [
        record(3, i, {"load": 5.0, "head": 5.0}, network="small", audit=audit)
        for i, audit in enumerate(audits)
    ]
    large = {"codec": codec, "bytes_up": 2_000, "bytes_down": 1_000, "network": "large"}
    stages = {"load": 5.0, "small": 5.0, "head": 10.0, "link": 25.0, "tail": 5.0}
    records += [record(1, i, stages, **large) for i in range(6, 10)]
    points = (*rated().points, point(1, "float16", 4_000, 0.6, 1.0, 1.0))
    made = advised(records, described, rated(points=points))
    one = by_title(made)["cascade, tiny answers 60 %"]
    others = latencies(made)
    expected = {"edge only": 5 + 60, "cut at a as uint8": 5 + 10 + 0.5 + 20 + 2 + 1 + 5 + 1}
    assert {title: others[title] for title in expected} == {
        title: (value, False) for title, value in expected.items()
    }
    assert one.latency_ms is not None
    assert one.latency_ms.value == pytest.approx(26)
    assert one.latency_ms.measured
    assert one.bytes is not None
    assert one.bytes.value == pytest.approx(800)
    if rest is None:
        assert one.kept is None
    else:
        assert one.kept is not None
        assert one.kept.value == pytest.approx(0.6 * 2 / 3 + 0.4 * rest)


# ----------------------------------------------------------------------------------------- words


def written(folder: Path, *files: Rate | Calibration) -> Page:
    synthetic.write_study(folder, swept(), environment())
    for one in files:
        name = "rate.json" if isinstance(one, Rate) else advice_words.CALIBRATION
        (folder / name).write_text(one.model_dump_json())
    write_results(folder)
    return Page((folder / "report.html").read_text())


def test_the_page_has_the_sentence_the_candidates_and_the_best(tmp_path: Path) -> None:
    page = written(tmp_path, rated(), calibrated())
    text = page.text
    assert (
        "For net on ARM Cortex-A76 and a link of 8 Mbit/s, 20 ms round trip, cut at a as uint8 has "
        "the lowest mean latency of the 4 candidates that keep 99 % of the uncut model's top-1 "
        "accuracy: 44.5 ms (predicted) and 2.00 kB a sample, against 65.0 ms (measured) for edge "
        "only and 45.0 ms (predicted) for whole input as jpeg90."
    ) in text
    assert "cascade, tiny answers 60 %≈ 24.8 ms800 B97 %" in text
    assert "edge only65.0 ms–100 %" in text
    assert "the lowest latencycascade, tiny answers 60 %" in text
    assert (
        "Kept, on 50 samples of splittracr rate: top-1 accuracy over that of the uncut model. "
        "These are too few to show differences of a per cent."
    ) in text
    assert "Predictions of 2 candidates that the study measured, too, are +0 to +2 % off." in text
    assert "cut at b as uint4" not in text  # keeps less than another cut, and wins nothing


@pytest.mark.parametrize("metric", Metric)
def test_the_page_names_each_metric(metric: Metric, tmp_path: Path) -> None:
    text = written(tmp_path, rated(metric=metric)).text
    assert f"splittracr rate: {METRICS[metric]}" in text
    assert re.search(r"keep 99 % of the uncut model's [\w -]+", text)


IDENTITY = {
    "graph_fingerprint": "9c41" * 16, "weights_digest": "e5d0" * 16, "input": [3, 8, 8],
    "dtype": "float32", "preparation": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"large_identity": IDENTITY}, None),
        (
            {"large_identity": IDENTITY | {"weights_digest": "other"}},
            "large_identity.weights_digest of calibration.json: got 'other', expected 'e5d0",
        ),
        (
            {"large_identity": IDENTITY | {"graph_fingerprint": "other"}},
            "large_identity.graph_fingerprint of calibration.json: got 'other', expected '9c41",
        ),
        ({"postprocess": {"iouPercent": 10}}, "got 10, expected 70, as in this study"),
    ],
)
def test_a_calibration_of_another_model_is_left_out(
    tmp_path: Path, changes: dict[str, Any], words: str | None
) -> None:
    text = written(tmp_path, rated(), calibrated(**changes)).text
    assert ("cascade, tiny answers 60 %" in text) == (words is None)
    assert words is None or words in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        ({"weights_digest": "other"}, "identity.weights_digest of rate.json: got 'other'"),
        ({"graph_fingerprint": "other"}, "identity.graph_fingerprint of rate.json: got 'other'"),
    ],
)
def test_a_rate_of_another_model_is_left_out(
    tmp_path: Path, changes: dict[str, Any], words: str | None
) -> None:
    text = written(tmp_path, rated(identity=IDENTITY | changes)).text
    assert ("whole input as jpeg50" in text) == (words is None)
    assert words is None or words in text


def test_a_study_without_other_files_says_what_they_would_add(tmp_path: Path) -> None:
    text = written(tmp_path).text
    assert "What should I do?" in text
    assert "rate.json and calibration.json in this folder would add pictures" in text
    assert "≈" not in re.sub(r"≈ is predicted", "", text)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{}", "rate.json"),
        (rated(weights="other").model_dump_json(), "expected net with weights IMAGENET1K_V1"),
        (
            rated(points=(point(2, "jpeg5", 1, 0.8, 1, 1).model_copy(update={"cut": "z"}),))
            .model_dump_json(),
            "expected net with weights",
        ),
    ],
)  # fmt: skip
def test_a_file_that_is_of_something_else_is_left_out(
    tmp_path: Path, content: str, words: str
) -> None:
    synthetic.write_study(tmp_path, swept(), environment())
    (tmp_path / "rate.json").write_text(content)
    write_results(tmp_path)
    text = Page((tmp_path / "report.html").read_text()).text
    assert "Left out: " in text
    assert words in text
    assert "jpeg50" not in text


def test_a_single_way_is_nothing_to_choose_from(tmp_path: Path) -> None:
    described = environment().model_copy(update={"operation_times": ()})
    one = [record(0, 0, {"load": 5.0, "link": 40.0}, codec="uint8", finished_on=Place.SERVER)]
    synthetic.write_study(tmp_path, one, described)
    write_results(tmp_path)
    assert "What should I do?" not in (tmp_path / "report.html").read_text()
