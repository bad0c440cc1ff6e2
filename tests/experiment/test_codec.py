"""One codec, one name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from splittracr.experiment.codec import Blosc2, Codec, Lossless, Lz4, ValueCodec, Zstd

stages: st.SearchStrategy[Lossless | None] = st.none() | st.one_of(
    st.builds(Zstd, level=st.integers(1, 19)),
    st.builds(Lz4, level=st.integers(1, 12)),
    st.builds(
        Blosc2,
        inner=st.sampled_from(["blosclz", "lz4", "lz4hc", "zlib", "zstd"]),
        level=st.integers(1, 9),
        filter=st.sampled_from(["noshuffle", "shuffle", "bitshuffle"]),
    ),
)


@given(st.sampled_from(ValueCodec), stages)
def test_names_and_codecs_correspond(values: ValueCodec, lossless: Lossless | None) -> None:
    codec = Codec(values, lossless)
    assert Codec.parse(str(codec)) == codec
    assert hash(Codec.parse(str(codec))) == hash(codec)


def test_names_as_people_write_them() -> None:
    assert str(Codec(ValueCodec.UINT8, Zstd())) == "uint8+zstd1"
    assert str(Codec()) == "raw"
    assert Codec.parse("float16+lz4-1") == Codec(ValueCodec.FLOAT16, Lz4())
    assert Codec.parse("raw+blosc2-zstd-3-bitshuffle").lossless == Blosc2(
        inner="zstd", level=3, filter="bitshuffle"
    )


OTHERS = """
uint9 RAW +zstd1 raw+ raw+gzip1 raw+zstd1+zstd1 raw+zstd１
uint8+zstd uint8+zstd0 uint8+zstd20 uint8+zstd01 uint8+zstd-1
raw+lz4 raw+lz4-13 raw+lz4-x raw+lz4--1
raw+blosc2 raw+blosc2-snappy-1-shuffle raw+blosc2-zstd-1-sort raw+blosc2-zstd-1
"""


@pytest.mark.parametrize("name", ["", " raw", "raw+zstd1 ", *OTHERS.split()])
def test_other_names_are_refused_with_what_was_expected(name: str) -> None:
    with pytest.raises(ValueError, match="is no codec; expected raw, float16, uint8 or uint4"):
        Codec.parse(name)


@given(st.text(max_size=20))
def test_any_text_is_a_codec_or_a_value_error(text: str) -> None:
    try:
        codec = Codec.parse(text)
    except ValueError:
        return
    assert str(codec) == text


def test_codecs_are_closed() -> None:
    with pytest.raises(ValidationError):
        Zstd(level=99)
    with pytest.raises(ValidationError):
        Blosc2.model_validate({"threads": 3})
    assert all(values.error for values in ValueCodec)
