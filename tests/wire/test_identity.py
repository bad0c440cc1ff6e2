"""The sentence of a refusal: which setting, and both values."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import convert, structs

from splittracr.wire.identity import difference, settings_text
from splittracr.wire.messages import Identity, Refusal, encode

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
