"""The sentence of a refusal: which setting, and both values."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import convert, structs

from splittracr.wire.identity import difference, settings_text
from splittracr.wire.messages import Identity, PartDigest, Refusal, Summary, encode

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
SETTINGS = st.dictionaries(st.text(max_size=20), VALUES, max_size=6)


def identity(settings: str, **other: Any) -> Identity:
    same = {"network": "n", "fingerprint": "f", "weights": "w", "batch": 1, "outputs": "Reduced"}
    return convert({**same, "settings": settings, **other}, Identity)


def test_a_setting_is_named_before_the_digests_that_it_changes() -> None:
    edge = identity(settings_text({"a": 1, "inputSize": [64, 64]}))
    server = identity(settings_text({"a": 1, "inputSize": None}), fingerprint="g")
    assert difference(edge, server) == "inputSize: the edge has [64, 64], the server None"
    assert difference(edge, structs.replace(edge, batch=2)) == (
        "batch: the edge has 1, the server 2"
    )


def test_a_long_value_is_told_by_its_digest() -> None:
    one, other = (
        identity(settings_text({"names": [f"{i}-{n}" for n in range(1000)]})) for i in "ab"
    )
    said = difference(one, other)
    assert said is not None
    assert said.startswith("names: the edge has 'sha256:")
    assert len(said) < 250


@given(SETTINGS, SETTINGS)
def test_there_is_a_difference_exactly_where_settings_differ(
    a: dict[str, Any], b: dict[str, Any]
) -> None:
    one, other = settings_text(a), settings_text(b)
    if max(len(one), len(other)) <= 4096:
        assert (difference(identity(one), identity(other)) is None) is (one == other)


@pytest.mark.parametrize("text", ["", "{", "[" * 4096, "3", '{"a": NaN}', '{"\\ud800": "\\ud800"}'])
@given(SETTINGS)
def test_a_strangers_settings_are_refused_in_a_sentence(text: str, own: dict[str, Any]) -> None:
    server = identity(settings_text({"a": 1, **own})[:4096])
    said = difference(identity(text), server)
    assert said is not None
    assert encode(Refusal(reason=said[:4096]))


SUMMARY = Summary("float32[2,4]", 0.5, 0.75, 1.0)
PART = PartDigest("operation part (net.Part)", "00", (SUMMARY,))
NAMED = "operation part (net.Part), computed from the same input: "


def computing(part: PartDigest | None, processor: str = "cpu, one", **other: Any) -> Identity:
    parts = () if part is None else (part,)
    return structs.replace(identity("{}"), parts=parts, processor=processor, **other)


def summarised(**changes: Any) -> PartDigest:
    return PartDigest(PART.name, "11", (structs.replace(SUMMARY, **changes),))


@pytest.mark.parametrize(
    ("theirs", "processor", "named"),
    [
        (PART, "cpu, one", None),
        (PART, "cpu, two", None),
        (summarised(), "cpu, one", "the edge has '11', the server '00'"),
        (summarised(), "cpu, two", None),
        (summarised(mean=0.509, size=0.741, rms=1.009), "cpu, two", None),
        (
            summarised(rms=1.1),
            "cpu, two",
            "the edge has float32[2,4] of mean 0.5 and rms 1.1, "
            "the server float32[2,4] of mean 0.5 and rms 1",
        ),
        (
            summarised(mean=-0.5),
            "cpu, one",
            "the edge has float32[2,4] of mean -0.5 and rms 1, "
            "the server float32[2,4] of mean 0.5 and rms 1",
        ),
        (summarised(kind="float32[3,4]"), "cpu, two", None),
        (
            summarised(kind="float32[3,4]"),
            "cpu, one",
            "the edge has float32[3,4], the server float32[2,4]",
        ),
        (
            summarised(kind="float32[2,4,1]"),
            "cpu, two",
            "the edge has float32[2,4,1], the server float32[2,4]",
        ),
        (
            summarised(kind="float16[2,4]"),
            "cpu, two",
            "the edge has float16[2,4], the server float32[2,4]",
        ),
        (PartDigest(PART.name, "11"), "cpu, two", "the edge has '11', the server '00'"),
        (PartDigest(PART.name, ""), "cpu, two", None),
        (PartDigest(PART.name, ""), "cpu, one", "the edge has '', the server '00'"),
    ],
)
def test_what_is_computed_agrees_to_the_bit_or_between_processors_within_a_tolerance(
    theirs: PartDigest, processor: str, named: str | None
) -> None:
    said = difference(computing(theirs, processor), computing(PART))
    assert said == (None if named is None else NAMED + named)


def test_an_edge_that_did_not_compute_a_part_is_refused() -> None:
    assert difference(computing(None), computing(PART)) == (
        "operation part (net.Part): the edge did not compute it"
    )


def test_files_that_differ_are_named_beside_what_they_change() -> None:
    here = computing(PART, code={"a.py": "1", "b.py": "2", "data.py": "3"})
    there = computing(PART, code={"a.py": "1", "b.py": "4", "c.py": "5"})
    files = "source file b.py: the edge has '2', the server '4'"
    assert difference(here, there) == files
    assert difference(structs.replace(here, weights="v"), there) == (
        f"weights: the edge has 'v', the server 'w'; {files}"
    )
    more = structs.replace(there, code={"a.py": "0", "b.py": "4"})
    assert difference(here, more) == (
        "source file a.py (and 1 more file): the edge has '1', the server '0'"
    )


def test_a_librarys_version_is_named_before_the_digests_that_it_changes() -> None:
    here = computing(PART, versions={"torch": "1.0"})
    there = computing(PART, versions={"torch": "2.0"}, fingerprint="g", weights="v")
    words = "version of torch: the edge has '1.0', the server '2.0'"
    assert difference(here, there) == words
