import contextlib
import re
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from splittracr.experiment import manifest
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.spec import ClosedLoop, Mode, OpenLoop, SplitExperiment
from splittracr.experiment.spec_values import CUT_REF
from tests.experiment.studies import FULL, MINIMAL, study, texts, valid_studies


def text(data: Any) -> str:
    return yaml.safe_dump(data)


def refusal(source: str, *overrides: str) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        manifest.parse(source, overrides, "study.yaml")
    return caught.value


def test_minimal_manifest_gets_every_default() -> None:
    experiment = manifest.parse(text(MINIMAL))
    assert experiment.metadata.name == "study"
    assert experiment.metadata.namespace == "default"
    assert experiment.spec.partition.mode is Mode.STATIC
    assert experiment.spec.partition.cut == 3
    assert experiment.spec.model.weights == "official"
    assert experiment.spec.workload.arrival == ClosedLoop()


def test_every_part_is_read() -> None:
    spec = manifest.parse(text(FULL)).spec
    assert spec.model.input_size == (224, 160)
    assert spec.model.args == {"deep": [None, 1.5]}
    assert spec.partition.cuts == (0, "relu", 7)
    assert spec.workload.arrival == OpenLoop(mode="Open", frames_per_minute=60, process="Poisson")
    assert spec.server.device == "cuda:1"


def test_a_study_is_hashable_where_nothing_is_free() -> None:
    assert len({manifest.parse(text(FULL)).spec.partition for _ in range(2)}) == 1


def test_kubernetes_metadata_and_status_are_accepted() -> None:
    data = {
        **MINIMAL,
        "metadata": {"name": "study", "labels": {"a": "b"}, "uid": "1-2", "generation": 3},
        "status": {"anything": [1]},
    }
    assert manifest.parse(text(data)).metadata.uid == "1-2"
    assert manifest.from_object(data) == manifest.parse(text(data))


def test_key_without_value_is_left_out() -> None:
    assert manifest.parse(text(study(edge=None))) == manifest.parse(text(MINIMAL))


def test_free_arguments_are_kept_as_they_are() -> None:
    args = {"a": None, "when": "2020-01-01", "list": [None, {"b": None}]}
    data = study(model={"name": "mine", "source": "custom", "args": args})
    assert manifest.parse(text(data)).spec.model.args == args


def test_dates_stay_text() -> None:
    experiment = manifest.parse(text(MINIMAL), ["spec.model.args.when=2020-01-01"])
    assert experiment.spec.model.args == {"when": "2020-01-01"}


@pytest.mark.parametrize(
    ("spec", "field", "value", "expected"),
    [
        ({"partition": {"cut": -1}}, "spec.partition.cut", -1, CUT_REF),
        ({"partition": {"cut": True}}, "spec.partition.cut", True, CUT_REF),
        ({"partition": {"cut": ""}}, "spec.partition.cut", "", CUT_REF),
        ({"partition": {"cut": 1.5}}, "spec.partition.cut", 1.5, CUT_REF),
        (
            {"partition": {"mode": "Sweep", "cuts": [1, [], 2]}},
            "spec.partition.cuts[1]",
            [],
            CUT_REF,
        ),
        ({"partition": {}}, "spec.partition", {}, "that cut goes with mode Static"),
        ({"partition": {"layer": -1}}, "spec.partition.layer", -1, "a number of at least 0"),
        ({"partition": {"layer": "3"}}, "spec.partition.layer", "3", "a valid integer"),
        (
            {"partition": {"mode": "static"}},
            "spec.partition.mode",
            "static",
            "one of 'Static', 'Sweep', 'EdgeOnly', 'ServerOnly', 'Adaptive' or 'Cascade'",
        ),
        ({"model": {}}, "spec.model.name", None, "a value, it is required"),
        ({"model": 3}, "spec.model", 3, "an object"),
        ({"model": {"name": 3}}, "spec.model.name", 3, "a valid string"),
        ({"model": {"name": "x" * 254}}, "spec.model.name", "x" * 80 + "…", "at most 253 char"),
        (
            {"model": {"name": "a", "inputSize": [1]}},
            "spec.model.inputSize[1]",
            None,
            "a value, it is required",
        ),
        (
            {"model": {"name": "a", "inputSize": [1, 2, 3]}},
            "spec.model.inputSize",
            [1, 2, 3],
            "a list of at most 2",
        ),
        ({"workload": {"samples": "3"}}, "spec.workload.samples", "3", "a valid integer"),
        ({"workload": {"samples": 0}}, "spec.workload.samples", 0, "a number of at least 1"),
        ({"edge": {"threads": 2000}}, "spec.edge.threads", 2000, "a number of at most 1024"),
        ({"edge": {"device": "gpu"}}, "spec.edge.device", "gpu", "auto, cpu, mps, cuda or cuda:0"),
        ({"workload": {"arrival": {}}}, "spec.workload.arrival.mode", None, "a value"),
        (
            {"workload": {"arrival": {"mode": "Opne"}}},
            "spec.workload.arrival.mode",
            "Opne",
            "one of 'Closed', 'Open'",
        ),
        (
            {"workload": {"arrival": {"mode": "Open"}}},
            "spec.workload.arrival.framesPerMinute",
            None,
            "a value, it is required",
        ),
        (
            {"dataset": {"path": "here"}},
            "spec.dataset",
            {"path": "here"},
            "that path goes with source Folder, LabelledFolder, Coco, Yolo or Masks, "
            "and only with them",
        ),
        ({"results": {"outputs": "raw"}}, "spec.results.outputs", "raw", "'Reduced' or 'Raw'"),
    ],
)
def test_refusal_names_field_value_and_expectation(
    spec: dict[str, Any], field: str, value: object, expected: str
) -> None:
    refused = refusal(text(study(**spec)))
    assert refused.field == field
    assert refused.value == value
    assert expected in refused.expected


@pytest.mark.parametrize(
    ("spec", "field", "near"),
    [
        ({"partition": {"ctu": 3}}, "spec.partition.ctu", "cut"),
        ({"partition": {"max_cuts": 3, "cut": 1}}, "spec.partition.max_cuts", "maxCuts"),
        ({"dataset": {"class_": "a:b"}}, "spec.dataset.class_", "class"),
        ({"model": {"nmae": "alexnet"}}, "spec.model.nmae", "name"),
        ({"egde": {}}, "spec.egde", "edge"),
        (
            {"workload": {"arrival": {"mode": "Closed", "inflight": 2}}},
            "spec.workload.arrival.inflight",
            "inFlight",
        ),
    ],
)
def test_unknown_key_names_the_nearest_known_one(
    spec: dict[str, Any], field: str, near: str
) -> None:
    refused = refusal(text(study(**spec)))
    assert refused.field == field
    assert refused.expected.startswith(f"a known key, one of: {near}")


def test_a_variant_of_a_union_offers_its_own_keys_only() -> None:
    refused = refusal(text(study(workload={"arrival": {"mode": "Closed", "seed": 1}})))
    assert refused.field == "spec.workload.arrival.seed"
    assert refused.expected == "a known key, one of: inFlight, mode"


@pytest.mark.parametrize(
    ("change", "field"),
    [({"kind": "Pod"}, "kind"), ({"apiVersion": "v1"}, "apiVersion"), ({"spec": None}, "spec")],
)
def test_the_frame_of_the_manifest_is_checked(change: dict[str, Any], field: str) -> None:
    assert refusal(text({**MINIMAL, **change})).field == field


@pytest.mark.parametrize("name", ["A", "a_b", "-a", "a..b", "", "a" * 254, "a\n"])
def test_a_name_that_kubernetes_would_refuse_is_refused(name: str) -> None:
    assert refusal(text({**MINIMAL, "metadata": {"name": name}})).field == "metadata.name"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("", "a mapping with apiVersion, kind and spec"),
        ("3", "a mapping with apiVersion, kind and spec"),
        ("- a", "a mapping with apiVersion, kind and spec"),
        ("a: [", r"YAML \(line 1: .*\)"),
        ("a: 1\n b: 2", r"YAML \(line 2: .*\)"),
        ("a: 1\n---\na: 2", "an object of kind SplitExperiment"),
        ("a: 1\nb: 2\na: 3", r"YAML \(line 3: the key 'a' occurs twice\)"),
        ("a: \x00", r"YAML \(unacceptable character.*\)"),
        ("a: !!int 0b_", r"YAML \(.*\)"),
        ("!!bool x", r"YAML \(.*\)"),
        ("!!timestamp x", r"YAML \(.*\)"),
        ("!!python/object/apply:os.getcwd []", r"YAML \(.*could not determine a constructor.*\)"),
        ("[" * 1000, r"YAML \(.*\)"),
        ("a: !!binary aGk=", "text, a number, .*"),
        ("a: !!set {b}", "text, a number, .*"),
        ("1.5: a", "a key that is text"),
        ("a: .nan", "a finite number"),
        ("a: 9223372036854775808", "an integer of at most 64 bits"),
        ('a: "\\ud800"', "Unicode text without half surrogates"),
        ("a: &a [*a]", "at most 100000 values, nested at most 50 deep"),
    ],
)
def test_text_that_is_no_manifest(source: str, expected: str) -> None:
    refused = refusal(source)
    assert refused.field in ("study.yaml", "a")
    assert re.fullmatch(expected, refused.expected)


def test_aliases_cannot_blow_up() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert "100000 values" in refusal("\n".join(lines)).expected


def test_merge_keys_work() -> None:
    source = text(study(edge={"threads": 1})).replace("threads: 1", "<<: {threads: 1}\n    <<: {}")
    assert refusal(source).expected.endswith("occurs twice)")
    source = source.replace("\n    <<: {}", "\n    threads: 2")
    assert manifest.parse(source).spec.edge.threads == 2


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("spec.workload.samples=3", 3),
        (" spec.workload.samples =3", 3),
        ("spec.workload={samples: 3}", 3),
        ("spec.workload.samples=", None),
        ("spec.workload=", None),
    ],
)
def test_override(override: str, value: int | None) -> None:
    experiment = manifest.parse(text(study(workload=None)), [override])
    assert experiment.spec.workload.samples == value


def test_later_override_wins_and_value_may_hold_an_equals_sign() -> None:
    overrides = ["spec.model.weights=a", "spec.model.weights=b=c"]
    assert manifest.parse(text(MINIMAL), overrides).spec.model.weights == "b=c"


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("", "--set"),
        ("spec", "--set"),
        ("=3", "--set"),
        ("spec..model=3", "--set"),
        ("spec.=3", "--set"),
        ("spec.model=[", "--set"),
        ("spec.model.name.first=3", "--set"),
        ("spec.model.args.x=.inf", "--set"),
        ("spec.model.args.x={1.5: 2}", "--set"),
        ("spec.partition.max_cuts=3", "spec.partition.max_cuts"),
        ("spec.workload.samples=many", "spec.workload.samples"),
        ("spec.model=alexnet", "spec.model"),
        ("specs.model=alexnet", "specs"),
    ],
)
def test_bad_override(override: str, field: str) -> None:
    assert refusal(text(MINIMAL), override).field == field


@given(valid_studies())
def test_dump_and_parse_are_inverse(data: dict[str, Any]) -> None:
    experiment = manifest.from_object(data)
    dumped = manifest.dump(experiment)
    assert manifest.parse(dumped) == experiment
    assert manifest.dump(manifest.parse(dumped)) == dumped


def only_invalid_input_escapes(source: str, *overrides: str) -> None:
    with contextlib.suppress(InvalidInput):
        assert isinstance(manifest.parse(source, overrides), SplitExperiment)


@given(st.text(st.sampled_from("abc:-?[]{},&*!|>'\"%@`#\n\t 0123456789._xob~<=")) | texts)
@example("? ")
@example("!!int ''")
@example("!!float ''")
@example("!!omap [a]")
@example("- &a !!pairs [*a]")
@example("190:20:30.15")
@example("0x_")
@example("=")
@example("<<: 3")
def test_any_text(source: str) -> None:
    only_invalid_input_escapes(source)
    only_invalid_input_escapes(text(MINIMAL), source)
    only_invalid_input_escapes(text(MINIMAL), f"spec.model.args.x={source}")


@given(st.data())
def test_spoilt_manifest(data: st.DataObject) -> None:
    source = text(FULL)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(source)))
        cut = data.draw(st.integers(0, 8))
        piece = data.draw(st.sampled_from(["", " ", "\n", ":", "- ", "[", "{", "&a ", "*a", "!"]))
        source = source[:at] + piece + source[at + cut :]
    only_invalid_input_escapes(source)
