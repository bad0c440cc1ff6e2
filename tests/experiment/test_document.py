"""Scalars as kubectl reads them, and files with more than one object."""

import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from splittracr.experiment import document, manifest
from splittracr.experiment.errors import InvalidInput
from tests.experiment.studies import MINIMAL

# What `kubectl apply` sends as JSON for the text, by the rules of sigs.k8s.io/yaml.
SCALARS: dict[str, Any] = {
    # Sexagesimals are text.
    "190:20:30": "190:20:30",
    "1:30": "1:30",
    "12:30:45.5": "12:30:45.5",
    "-1:30": "-1:30",
    # Exponents need no dot, and no sign.
    "1e3": 1000,
    "1E3": 1000,
    "1e+3": 1000,
    "12e-1": 1.2,
    "1.5e3": 1500,
    ".5e1": 5,
    "1e": "1e",
    "1e400": "1e400",
    # Octal with and without the o; what is none is a number all the same.
    "010": 8,
    "0o10": 8,
    "0O17": 15,
    "-010": -8,
    "08": 8,
    "019": 19,
    "0o8": "0o8",
    "00": 0,
    # Other bases.
    "0x1F": 31,
    "0X1f": 31,
    "-0x1F": -31,
    "0b101": 5,
    "0B11": 3,
    "0xG": "0xG",
    "0b2": "0b2",
    "0b_": "0b_",
    # Words.
    **dict.fromkeys(["y", "Y", "yes", "on", "True", "TRUE"], True),
    **dict.fromkeys(["n", "N", "No", "off", "OFF", "false"], False),
    **dict.fromkeys(["~", "null", "NULL"], None),
    **dict.fromkeys(["yEs", "nULL", "tRUE", "Infinity", "nan", "="]),
    # Whole floats are integers.
    "5.0": 5,
    "5.": 5,
    "+5": 5,
    "-0.0": 0,
    "1_000": 1000,
    "1_000.5": 1000.5,
    "1e20": 10**20,
    "0.1": 0.1,
    "-.5": -0.5,
    ".5_0": ".5_0",
    "_1": "_1",
    # Dates and versions are text.
    "2020-01-01": "2020-01-01",
    "2020-01-01T10:00:00Z": "2020-01-01T10:00:00Z",
    "1.2.3": "1.2.3",
    "1-2": "1-2",
    ".": ".",
    "-": "-",
}
SCALARS |= {word: word for word in ["yEs", "nULL", "tRUE", "Infinity", "nan", "="]}
del SCALARS["-"]  # alone it begins a list


@pytest.mark.parametrize(("text", "expected"), SCALARS.items())
def test_a_scalar_is_what_the_api_server_gets(text: str, expected: object) -> None:
    (found,) = document.load(f"[{text}]")
    assert (found, type(found[0])) == ([expected], type(expected))


@pytest.mark.parametrize("text", SCALARS)
def test_quotes_make_text_of_every_scalar(text: str) -> None:
    for quote in "'\"":
        assert list(document.load(f"[{quote}{text}{quote}, !!str {quote}{text}{quote}]")) == [
            [text, text]
        ]


def test_written_tags_are_obeyed() -> None:
    assert list(document.load("[!!int '3', !!float 3, !!bool yes, !!str 3, !!null ~]")) == [
        [3, 3, True, "3", None]
    ]
    for wrong in ("!!int x", "!!int 1:30", "!!bool 1", "!!int 1.5"):
        with pytest.raises(yaml.YAMLError, match="is no"):
            list(document.load(wrong))


def test_keys_are_written_as_json_has_them_and_stand_once() -> None:
    assert list(document.load("{1: a, y: b, 0x10: c, off: d}")) == [
        {"1": "a", "true": "b", "16": "c", "false": "d"}
    ]
    for twice in ("{1: a, '1': b}", "{y: a, yes: b}", "{a: 1, 'a': 2}", "{010: a, 8: b}"):
        with pytest.raises(yaml.YAMLError, match="occurs twice"):
            list(document.load(twice))


def values(texts: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    return st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**63 - 1)
        | st.floats(allow_nan=False, allow_infinity=False).filter(lambda x: not x.is_integer())
        | texts
        | st.sampled_from(list(SCALARS)),
        lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
        max_leaves=8,
    )


@given(values(st.text(st.characters(codec="utf-8"), max_size=20)))
def test_what_is_dumped_is_loaded(value: Any) -> None:
    assert list(document.load(document.dump([value]))) == [[value]]


@given(values(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)))
def test_json_is_read_as_json(value: Any) -> None:
    assert list(document.load(json.dumps([value]))) == [[value]]


OBJECT = "expected a mapping with apiVersion, kind and spec"
STUDY = document.dump(MINIMAL)
CLAIM = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: data}\nspec: {x: y}\n"
LIST = document.dump(
    {"apiVersion": "v1", "kind": "List", "items": [next(document.load(CLAIM)), MINIMAL]}
)


@pytest.mark.parametrize(
    ("text", "others"),
    [
        (f"{STUDY}---\n", ()),
        (f"---\n{STUDY}---\n---\n", ()),
        (f"{STUDY}...\n", ()),
        (f"{CLAIM}---\n{STUDY}", ("PersistentVolumeClaim data",)),
        (f"{STUDY}---\n{CLAIM}---\nkind: Secret\n", ("PersistentVolumeClaim data", "Secret None")),
        (LIST, ("PersistentVolumeClaim data",)),
        (json.dumps(next(document.load(LIST))), ("PersistentVolumeClaim data",)),
    ],
)
def test_the_study_is_found_among_other_objects(text: str, others: tuple[str, ...]) -> None:
    assert manifest.parse_all(text) == (manifest.parse(STUDY), others)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (CLAIM, "kind: got 'PersistentVolumeClaim', expected SplitExperiment"),
        (f"{CLAIM}---\nkind: Secret\n", "PersistentVolumeClaim, Secret.*of kind SplitExperiment"),
        (f"{STUDY}---\n{STUDY}", "'2 studies', expected one; they are study, study"),
        ("kind: List\nitems: []\n", f"'a List without items', {OBJECT}"),
        ("kind: List\n", f"'a List without items', {OBJECT}"),
        ("kind: List\nitems: 5\n", "items of manifest: got 5, expected a list of objects"),
        ("", f"'an empty file', {OBJECT}"),
        ("\n# nothing yet\n", f"'only comments and empty documents', {OBJECT}"),
        ("---\n---\n", f"'only comments and empty documents', {OBJECT}"),
        ("5", f"manifest: got 5, {OBJECT}"),
        (f"{STUDY}---\n5\n", f"manifest: got 5, {OBJECT}"),
        (f"{STUDY}---\n- 1\n", rf"manifest: got \[1\], {OBJECT}"),
        (f"text\n---\n{STUDY}", f"manifest: got 'text', {OBJECT}"),
        (json.dumps({"kind": "List", "items": [MINIMAL, 5]}), f"manifest: got 5, {OBJECT}"),
        (
            json.dumps({"kind": "List", "items": [MINIMAL, None]}),
            f"manifest: got nothing, {OBJECT}",
        ),
        (
            STUDY.replace("name: study", "name: {{ .Values.name }}"),
            r"got '\{\{ .Values.name \}\}', expected YAML .*looks like a Helm template",
        ),
    ],
)
def test_a_text_without_one_study_says_what_it_holds(text: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        manifest.parse(text)


@pytest.mark.parametrize("value", ["1.0", "1", "true", "y", "0x10", "1e3"])
def test_text_that_needs_quotes_is_refused_with_the_way_out(value: str) -> None:
    labelled = STUDY.replace("name: study", f"name: study\n  labels: {{version: {value}}}")
    with pytest.raises(InvalidInput, match=r"metadata\.labels\.version.*put it in quotes"):
        manifest.parse(labelled)
    manifest.parse(labelled.replace(value + "}", f"'{value}'}}"))
    selecting = STUDY + f"  server:\n    pod:\n      nodeSelector: {{disk: {value}}}\n"
    with pytest.raises(InvalidInput, match=r"nodeSelector\.disk.*put it in quotes"):
        manifest.parse(selecting)


@pytest.mark.parametrize("labels", ["[a]", "3", "{a: {b: c}}", "{a: [b]}", "{a: }"])
def test_labels_of_another_shape_are_refused(labels: str) -> None:
    for key in ("labels", "annotations"):
        with pytest.raises(InvalidInput, match=rf"metadata\.{key}"):
            manifest.parse(STUDY.replace("name: study", f"name: study\n  {key}: {labels}"))
