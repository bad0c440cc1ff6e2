"""The address at which an edge joins."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.joining import Invitation

_LETTERS = "ABCXYZabcxyz0189-_"


@given(
    st.sampled_from(["192.0.2.7", "tower.example", "2001:db8::7", "::1"]),
    st.integers(1, 65535),
    st.text(_LETTERS, min_size=43, max_size=43),
    st.sampled_from([22, 51]).flatmap(lambda n: st.text(_LETTERS, min_size=n, max_size=n)),
)
def test_an_address_survives_being_printed(host: str, port: int, digest: str, secret: str) -> None:
    one = Invitation(host, port, digest, secret)
    assert Invitation.parse(str(one)) == one
    assert Invitation.parse(one.server + "/#" + one.token) == one


GOOD = f"wss://192.0.2.7:8765#{'A' * 43}.{'s' * 22}"


@pytest.mark.parametrize(
    "text",
    [
        GOOD.replace("wss", "ws"),
        GOOD.replace(":8765", ""),
        GOOD.replace("8765", "99999"),
        GOOD.replace("192.0.2.7", ""),
        GOOD.replace("#", "/v1/session#"),
        GOOD.replace("192.0.2.7", "[2001:db8"),
        GOOD[:-1],
        GOOD.replace("#", "?"),
        GOOD.partition("#")[0],
    ],
)
def test_another_text_is_refused_without_its_secret(text: str) -> None:
    with pytest.raises(InvalidInput, match="the address that `splittracr serve` printed") as caught:
        Invitation.parse(text)
    assert "s" * 21 not in str(caught.value)


def test_nothing_secret_shows_in_a_representation() -> None:
    assert "s" * 22 not in repr(Invitation.parse(GOOD))
