"""The fuzzer's target on right inputs that Hypothesis spoils."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.target import both, seeds

SEEDS = seeds()


@st.composite
def spoilt(draw: st.DrawFn) -> bytes:
    """A right input with a few bytes cut out, changed or put in; or two of them joined."""
    data = draw(st.sampled_from(SEEDS))
    if draw(st.booleans()):
        data += draw(st.sampled_from(SEEDS))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.binary(max_size=6)) + data[at + draw(st.integers(0, 6)) :]
    return data


@settings(max_examples=500)
@given(spoilt() | st.binary(max_size=300))
def test_nothing_but_a_protocol_error_comes_of_what_a_peer_writes(data: bytes) -> None:
    both(data)
