"""Times without records, as between two pods of an edge."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from splittracr.experiment.types import Record
from splittracr.results import tables, words
from splittracr.results.environment import Run
from splittracr.results.gaps import gaps
from splittracr.results.report import write_results
from splittracr.results.summary import Gap
from splittracr.results.terminal import latency_table
from tests.results.synthetic import cuts, environment, record, write_study

BEGAN = 1_760_000_000.0
CUT = cuts(4)[1]


def at(times: Sequence[float], edge: str = "edge-0", seconds: float = 0.5) -> list[Record]:
    """A record at each time, in seconds since BEGAN, that took `seconds`."""
    return [
        record(CUT, sample, edge=edge, started_at=BEGAN + time, total_ms=seconds * 1000)
        for sample, time in enumerate(times)
    ]


def found(records: Sequence[Record]) -> list[tuple[str, float, float]]:
    return [(gap.edge, gap.started_at - BEGAN, gap.seconds) for gap in gaps(tables.frame(records))]


def test_a_study_that_went_on_after_two_minutes() -> None:
    assert found(at([0, 1, 2, 3, 123.5, 124.5])) == [("edge-0", 3.5, 120)]


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([0, 1, 2, 3, 4], []),
        ([0, 0.1, 0.2, 5.6], []),  # 4.9 s
        ([0, 0.1, 0.2, 5.8], [("edge-0", 0.7, 5.1)]),
        ([0, 8, 16, 24, 24 + 160.4], []),  # 8 frames a minute, and 20 times the time between
        ([0, 8, 16, 24, 24 + 160.75], [("edge-0", 24.5, 160.25)]),
        ([0, 1, 61, 62, 122], [("edge-0", 1.5, 59.5), ("edge-0", 62.5, 59.5)]),
        ([0, 3600], []),  # nothing says what is usual
        ([0, 1, 3600], [("edge-0", 1.5, 3598.5)]),
        ([7], []),
        ([], []),
    ],
)
def test_gaps(times: list[float], expected: list[tuple[str, float, float]]) -> None:
    seen = found(at(times))
    assert [edge for edge, _, _ in seen] == [edge for edge, _, _ in expected]
    for one, other in zip(seen, expected, strict=True):
        assert one[1:] == pytest.approx(other[1:], abs=1e-5)


def test_a_frame_that_took_long_is_no_gap() -> None:
    waited = at([0, 1, 2]) + at([3], seconds=600) + at([603.5, 604.5])
    assert found(waited) == []


def test_records_of_a_batch_are_one_frame() -> None:
    assert found(at([0] * 30 + [100] * 30 + [200] * 30)) == []


def test_edges_are_looked_at_one_by_one() -> None:
    both = at([0, 1, 2, 70, 71]) + at([0, 1, 2, 3, 40, 71], edge="edge-1")
    assert found(both) == [("edge-0", 2.5, 67.5), ("edge-1", 3.5, 36.5), ("edge-1", 40.5, 30.5)]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (5.2, "5 s"),
        (59.9, "59 s"),
        (60, "1 min 0 s"),
        (125.7, "2 min 5 s"),
        (3599.9, "59 min 59 s"),
        (3600, "1 h 0 min"),
        (100_000, "27 h 46 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


def test_the_longest_gaps_are_named_and_the_rest_counted() -> None:
    many = [
        Gap(
            edge="edge-0",
            started_at=BEGAN + i,
            seconds=10 + i,
            after=i,
            before=i + 1,
            restarted=i == 4,
        )
        for i in range(5)
    ]
    assert words.gaps(many) == (
        "14 s on edge-0 from 2025-10-09 08:53:24 UTC, between samples 4 and 5, as the edge started "
        "again; 13 s on edge-0 from 2025-10-09 08:53:23 UTC, between samples 3 and 4; "
        "12 s on edge-0 from 2025-10-09 08:53:22 UTC, between samples 2 and 3; and 2 more"
    )


def started(edge: str, *times: float) -> Run:
    moments = tuple(datetime.fromtimestamp(BEGAN + time, UTC) for time in times)
    return Run(edge=edge, samples=9, started_at=moments)


@pytest.mark.parametrize(
    ("runs", "restarted"),
    [
        ([started("edge-0", -5, 100)], True),
        ([started("edge-0", -5, 2), started("edge-1", -5, 100)], False),
        ([started("edge-0", -5, 124)], False),
        ([], False),
    ],
)
def test_a_gap_names_its_samples_and_the_start_in_it(runs: list[Run], restarted: bool) -> None:
    records = at([0, 1, 2, 3, 123.5, 124.5])
    (gap,) = gaps(tables.frame(records), runs)
    assert (gap.after, gap.before, gap.restarted) == (3, 4, restarted)


def test_what_a_study_that_was_broken_off_misses_is_counted(tmp_path: Path) -> None:
    described = environment(
        cuts(4), runs=(started("edge-0", -5), started("edge-1", -5)), finished_at=None
    )
    out = write_study(tmp_path, at([0, 1, 2, 3]), described)
    summary = write_results(out)
    assert (summary.counts.samples, summary.counts.missing) == (4, 14)
    console = Console(width=120, record=True)
    console.print(latency_table(summary))
    shown = " ".join(console.export_text().split())
    assert "Recorded: 4 of 18 samples, 14 are missing." in shown
    assert "4 of 18 samples, 14 are missing." in (out / "report.html").read_text()


def test_the_report_and_the_terminal_name_the_gap(tmp_path: Path) -> None:
    went_on = at([0, 1, 2, 3, 123.5, 124.5])
    out = write_study(tmp_path, went_on, environment(cuts(4)))
    summary = write_results(out)
    assert [round(gap.seconds, 3) for gap in summary.gaps] == [120]
    sentence = "2 min 0 s on edge-0 from 2025-10-09 08:53:23 UTC, between samples 3 and 4"
    page = (out / "report.html").read_text()
    assert "1 gap between records." in page
    assert sentence in page
    console = Console(width=120, record=True)
    console.print(latency_table(summary))
    assert f"No records: {sentence}." in " ".join(console.export_text().split())
