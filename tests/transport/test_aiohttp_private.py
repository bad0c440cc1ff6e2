"""What is taken from aiohttp's inside, and what happens if a version lacks it."""

import re
import sys
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from splittracr.experiment.errors import SplittracrError
from splittracr.transport import aiohttp_private
from splittracr.transport.aiohttp_private import MADE_FOR, compiled_mask, opened, slow_mask


@given(st.binary(max_size=100), st.binary(min_size=4, max_size=4))
def test_both_masks_do_the_same(data: bytes, key: bytes) -> None:
    fast, slow = bytearray(data), bytearray(data)
    aiohttp_private.websocket_mask(key, fast)
    slow_mask(key, slow)
    assert fast == slow == bytearray(b ^ key[i % 4] for i, b in enumerate(data))


def test_the_compiled_mask_is_used_where_aiohttp_has_it() -> None:
    assert aiohttp_private.websocket_mask is not slow_mask


def test_without_the_compiled_mask_a_warning_names_both_versions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp._websocket.helpers", None)
    words = (
        f"aiohttp {re.escape(aiohttp.__version__)} has no compiled .*, expected aiohttp {MADE_FOR}"
    )
    with pytest.warns(RuntimeWarning, match=words):
        assert compiled_mask() is slow_mask


@pytest.mark.parametrize(
    "socket",
    [
        SimpleNamespace(),
        SimpleNamespace(_writer=SimpleNamespace()),
        SimpleNamespace(_writer=SimpleNamespace(transport=SimpleNamespace())),
    ],
    ids=["no writer", "no transport", "another transport"],
)
def test_a_version_that_keeps_its_transport_elsewhere_is_named(socket: Any) -> None:
    words = f"aiohttp {re.escape(aiohttp.__version__)} cannot be used, expected {MADE_FOR}: "
    with pytest.raises(SplittracrError, match=words):
        opened(socket)


def test_a_closed_socket_is_an_error_of_the_connection() -> None:
    closed: Any = aiohttp.web.WebSocketResponse()
    with pytest.raises(ConnectionResetError, match="closed before its first message"):
        opened(closed)
