import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.spec import SplitExperiment
from splittracr.results.environment import FILE, continued, read_environment, write_environment
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
    younger = ("runs", "energy", "energy_problems", "usage")
    assert [written.pop(key) for key in younger] == [[], [], [], []]
    assert written.pop("link") == before.pop("network") == "as it is"
    assert written == before
    assert manifests[0] == manifests[1]


def test_an_environment_of_a_later_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"schemaVersion": 3, "other": 1}')
    with pytest.raises(
        InvalidInput, match=r"schemaVersion of .*environment\.json: got 3, .* 2 .* 1"
    ):
        read_environment(tmp_path)
