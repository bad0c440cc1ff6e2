"""Profiles and candidates made up for tests, and strategies that draw them."""

from collections.abc import Sequence

from hypothesis import strategies as st

from splittracr.experiment.profile import CodecProfile, Profile
from splittracr.planning.cost import Candidates, candidates
from splittracr.planning.estimate import Beliefs


def codec(
    name: str, sizes: Sequence[int], encode: float = 0.0, decode: float = 0.0,
    agreement: float | None = 1.0, accuracy: Sequence[float | None] | None = None,
) -> CodecProfile:  # fmt: skip
    """A codec with the same speed at every cut."""
    return CodecProfile(
        codec=name,
        bytes=tuple(sizes),
        encode_ms=(encode,) * len(sizes),
        decode_ms=(decode,) * len(sizes),
        agreement=agreement,
        accuracy=None if accuracy is None else tuple(accuracy),
    )


def profile(
    op_ms: Sequence[float],
    sizes: Sequence[int],
    codecs: Sequence[CodecProfile] = (),
    pictures: Sequence[CodecProfile] = (),
    **changes: object,
) -> Profile:
    """A profile of `len(op_ms)` operations; `sizes` are the live bytes at the cuts before each."""
    live = (*sizes, 100)
    raw = codec("raw", live)
    fields: dict[str, object] = {
        "network": "net",
        "weights": "none (random, seed 0)",
        "input": (1, 3, 8, 8),
        "dtype": "float32",
        "device": "cpu",
        "threads": 1,
        "processor": "test",
        "cores": 2,
        "capability": "test",
        "versions": {},
        "frames": 1,
        "cuts": tuple(f"cut{k}" for k in range(len(live))),
        "live_bytes": live,
        "memory_bytes": tuple(1000 * (k + 1) for k in range(len(live))),
        "op_ms": tuple(op_ms),
        "reduce_ms": 0.0,
        "reply_bytes": 100,
        "codecs": tuple(codecs) or (raw,),
        "picture_codecs": tuple(pictures),
        **changes,
    }
    return Profile.model_validate(fields)


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    """Chains of up to twelve operations with two codecs and, perhaps, pictures."""
    count = draw(st.integers(1, 12))
    times = draw(st.lists(st.floats(0.01, 100), min_size=count, max_size=count))
    sizes = draw(st.lists(st.integers(100, 3_000_000), min_size=count, max_size=count))
    small = [max(1, size // 4) for size in (*sizes, 100)]
    codecs = [codec("raw", (*sizes, 100)), codec("uint8", small, draw(st.floats(0, 5)))]
    pictures = [codec("uint8", [sizes[0]])] if draw(st.booleans()) else []
    return profile(times, sizes, codecs, pictures)


def sets() -> st.SearchStrategy[Candidates]:
    """Candidates of a slow edge and a server."""
    slowed = st.sampled_from([1.0, 3.0, 10.0])
    return st.builds(lambda p, s: candidates(p, p, slowdown=s), profiles(), slowed)


def links() -> st.SearchStrategy[Beliefs]:
    """Links from 10 kbit/s to 1 Gbit/s, some with a backlog or a busy server."""

    def build(rate: float, rtt: float, wait: float, backlog: float) -> Beliefs:
        link = Beliefs.of_link(rate, rtt)
        return Beliefs(link.up, link.down, server_wait_ms=wait, backlog_ms=backlog)

    times = st.floats(0, 500)
    return st.builds(build, st.floats(1e4, 1e9), times, times, times)
