import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from splittracr.experiment import manifest
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.spec import SplitExperiment
from splittracr.results.environment import (
    FILE,
    Environment,
    continued,
    read_environment,
    write_environment,
)
from tests.experiment.studies import study
from tests.results import synthetic

CUTS = synthetic.cuts(4)
VERSION_1 = Path(__file__).parent / "version1"


def test_it_comes_back_as_it_went_in(tmp_path: Path) -> None:
    environment = synthetic.environment(CUTS, server=None, finished_at=None)
    write_environment(tmp_path, environment)
    assert read_environment(tmp_path) == environment


def test_the_manifest_in_it_reads_as_a_manifest(tmp_path: Path) -> None:
    write_environment(tmp_path, synthetic.environment(CUTS))
    written = json.loads((tmp_path / FILE).read_text())
    assert written["manifest"]["apiVersion"] == "splittracr.io/v1alpha1"
    assert written["manifest"]["spec"]["workload"]["warmUp"] == 1


@pytest.mark.parametrize(
    ("weights", "random"), [("none (random, seed 0)", True), ("IMAGENET1K_V1", False)]
)
def test_random_weights_are_known_by_their_name(weights: str, random: bool) -> None:
    assert synthetic.environment(CUTS, weights=weights).random_weights is random


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"to contain environment\.json"):
        read_environment(tmp_path)


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("not JSON", "{file}", "not JSON"),
        ("{}", "uid of {file} (an environment)", None),
        ('{"uid": 3}', "uid of {file} (an environment)", 3),
    ],
)
def test_another_file_is_refused(tmp_path: Path, text: str, field: str, value: object) -> None:
    file = tmp_path / FILE
    file.write_text(text)
    with pytest.raises(InvalidInput) as caught:
        read_environment(tmp_path)
    assert (caught.value.field, caught.value.value) == (field.format(file=file), value)


def test_a_study_that_goes_on_has_begun_when_it_first_did(tmp_path: Path) -> None:
    began = datetime(2025, 10, 9, 8, 0, tzinfo=UTC)
    again = began + timedelta(minutes=5)
    first = synthetic.environment(CUTS, started_at=began, link_began_at=(began,))
    second = synthetic.environment(CUTS, started_at=again, link_began_at=(again,))
    with pytest.raises(InvalidInput, match=r"to contain environment\.json"):
        continued(second, tmp_path)
    write_environment(tmp_path, first)
    both = continued(second, tmp_path)
    assert (both.started_at, both.link_began_at) == (began, (began, again))
    assert continued(second.model_copy(update={"uid": "another"}), tmp_path).started_at == again


def test_another_study_is_not_gone_on_with(tmp_path: Path) -> None:
    first = synthetic.environment(CUTS)
    write_environment(tmp_path, first)
    manifest = first.manifest
    model = manifest.spec.model.model_copy(update={"name": "other"})
    spec = manifest.spec.model_copy(update={"model": model})
    other = first.model_copy(update={"manifest": manifest.model_copy(update={"spec": spec})})
    with pytest.raises(InvalidInput, match=r"with which the study in .* began") as caught:
        continued(other, tmp_path)
    assert (caught.value.field, caught.value.value) == ("spec.model.name", "other")


LINK = {"uplinkKilobitsPerSecond": 8000, "downlinkKilobitsPerSecond": 8000}
LINK_IN_FULL = {
    **LINK,
    "phases": [],
    "uplinkPercent": 100,
    "downlinkPercent": 100,
    "offsetSeconds": 0,
    "jitterMilliseconds": 0,
    "lossPerMillion": 0,
    "seed": 0,
}
OPEN = {"mode": "Open", "framesPerMinute": 60}
SWEEP = {"mode": "Sweep", "cuts": [1, 2]}
ADAPTIVE = {"mode": "Adaptive", "cut": None}


@pytest.mark.parametrize(
    ("before", "now", "field", "value", "expected"),
    [
        ({}, {"transport": {"link": LINK}}, "transport.link", LINK_IN_FULL, None),
        ({"transport": {"link": LINK}}, {}, "transport.link", None, LINK_IN_FULL),
        (
            {"transport": {"link": LINK}},
            {"transport": {"link": LINK | {"roundTripMilliseconds": 40}}},
            "transport.link.roundTripMilliseconds",
            40,
            None,
        ),
        (
            {"transport": {"link": LINK}},
            {"transport": {"link": LINK | {"lossPerMillion": 3}}},
            "transport.link.lossPerMillion",
            3,
            0,
        ),
        ({}, {"transport": {"security": "Plain"}}, "transport.security", "Plain", "TLS"),
        ({}, {"edge": {"slowdownPercent": 300}}, "edge.slowdownPercent", 300, 100),
        ({}, {"edge": {"threads": 2}}, "edge.threads", 2, 1),
        ({}, {"edge": {"device": "cpu"}}, "edge.device", "cpu", "auto"),
        ({}, {"server": {"threads": 2}}, "server.threads", 2, 1),
        ({}, {"server": {"device": "cuda"}}, "server.device", "cuda", "auto"),
        ({}, {"server": {"maxBatch": 4}}, "server.maxBatch", 4, 1),
        ({}, {"workload": {"arrival": OPEN}}, "workload.arrival.mode", "Open", "Closed"),
        (
            {},
            {"workload": {"arrival": {"mode": "Closed", "inFlight": 3}}},
            "workload.arrival.inFlight",
            3,
            1,
        ),
        ({}, {"workload": {"batchSize": 2}}, "workload.batchSize", 2, 1),
        (
            {"partition": SWEEP},
            {"partition": SWEEP | {"cuts": [1, 3]}},
            "partition.cuts",
            [1, 3],
            [1, 2],
        ),
        (
            {"partition": {"mode": "Sweep"}},
            {"partition": {"mode": "Sweep", "maxCuts": 4}},
            "partition.maxCuts",
            4,
            16,
        ),
        (
            {"partition": ADAPTIVE | {"adaptive": {"objective": "Throughput"}}},
            {"partition": ADAPTIVE | {"adaptive": {"objective": "Latency"}}},
            "partition.adaptive.objective",
            "Latency",
            "Throughput",
        ),
    ],
)
def test_what_a_record_measures_may_not_change(
    tmp_path: Path,
    before: dict[str, Any],
    now: dict[str, Any],
    field: str,
    value: object,
    expected: object,
) -> None:
    first = synthetic.environment(CUTS)
    write_environment(tmp_path, of_manifest(first, before))
    other = of_manifest(first, now)
    with pytest.raises(InvalidInput) as caught:
        continued(other, tmp_path)
    found = caught.value
    assert (found.field, found.value) == (f"spec.{field}", value)
    assert found.expected == f"{expected!r}, with which the study in {tmp_path} began"


def of_manifest(environment: Environment, parts: dict[str, Any]) -> Environment:
    return environment.model_copy(update={"manifest": manifest.from_object(study(**parts))})


@pytest.mark.parametrize(
    "now",
    [
        {"partition": {"cut": 5, "deadlineMilliseconds": 90, "hedgeDelayMilliseconds": 9}},
        {"partition": {"cut": 3, "repeats": 2}},
        {"transport": {"codec": "uint8", "pictureCodec": "png"}},
        {"workload": {"samples": 10_000}},
        {"edge": {"metricsPort": 9000}, "results": {"pictures": 2}},
    ],
)
def test_live_settings_and_more_samples_may_change(tmp_path: Path, now: dict[str, Any]) -> None:
    first = of_manifest(synthetic.environment(CUTS), {})
    write_environment(tmp_path, first)
    more = of_manifest(first, now)
    assert continued(more, tmp_path).manifest == more.manifest


def test_more_samples_and_another_codec_are_the_same_study(tmp_path: Path) -> None:
    first = synthetic.environment(CUTS)
    write_environment(tmp_path, first)
    spec = first.manifest.spec
    workload = spec.workload.model_copy(update={"samples": 10_000})
    transport = spec.transport.model_copy(update={"codec": "uint8"})
    changed = spec.model_copy(update={"workload": workload, "transport": transport})
    more = first.model_copy(
        update={"manifest": first.manifest.model_copy(update={"spec": changed})}
    )
    assert continued(more, tmp_path).manifest == more.manifest


def test_an_environment_of_version_1_is_read(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes((VERSION_1 / FILE).read_bytes())
    assert "schemaVersion" not in json.loads((tmp_path / FILE).read_text())
    found = read_environment(tmp_path)
    assert (found.schema_version, found.manifest.metadata.name) == (2, "version-1")
    write_environment(tmp_path, found)
    written, before = (json.loads((at / FILE).read_text()) for at in (tmp_path, VERSION_1))
    assert written.pop("schemaVersion") == 2
    # The written manifest has fields that are younger than the file.
    manifests = [SplitExperiment.model_validate(file.pop("manifest")) for file in (written, before)]
    # So has the environment.
    younger = ("runs", "energy", "energy_problems", "usage", "operations", "operation_times")
    assert [written.pop(key) for key in younger] == [[]] * 6
    assert written.pop("preparation") is None
    assert written.pop("link") == before.pop("network") == "as it is"
    assert [written[end].pop("runtime") for end in ("edge", "server")] == ["Torch", "Torch"]
    assert [written[end].pop("classes_cached_at") for end in ("edge", "server")] == [None, None]
    for cut in written["cuts"]:
        assert cut.pop("exactness") == "Exact"
        assert [cut.pop(key) for key in ("largest_error", "top1_agreement")] == [None, None]
    assert written == before
    assert manifests[0] == manifests[1]


def test_an_environment_of_a_later_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"schemaVersion": 3, "other": 1}')
    with pytest.raises(
        InvalidInput, match=r"schemaVersion of .*environment\.json: got 3, .* 2 .* 1"
    ):
        read_environment(tmp_path)
