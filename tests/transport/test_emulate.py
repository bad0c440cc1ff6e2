"""Traces from disk."""

from pathlib import Path

import pytest

from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.spec import LinkSpec
from splittracr.planning.emulated_link import Span
from splittracr.planning.emulation import Direction
from splittracr.transport.emulate import sender_conditions


def test_a_trace_is_found_beside_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "bus.csv").write_text("duration_ms,bandwidth_kbps,latency_ms\n1000,5000,20\n")
    found = sender_conditions(LinkSpec(trace="bus.csv"), Direction.UP, tmp_path)
    assert found is not None
    assert found.spans == (Span(10**9, 5_000_000, 20_000_000),)


def test_no_link_no_conditions(tmp_path: Path) -> None:
    assert sender_conditions(None, Direction.UP, tmp_path) is None


@pytest.mark.parametrize("content", [None, b"\xff\xfe\xff", b"hello"])
def test_what_is_no_trace_is_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "bus.csv").write_bytes(content)
    with pytest.raises(InvalidInput, match=r"bus\.csv"):
        sender_conditions(LinkSpec(trace="bus.csv"), Direction.UP, tmp_path)
