import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.types import Record
from splittracr.results.journal import Journal, _Keys, key, read
from tests.results import synthetic
from tests.results.test_files import files_end_at

CUT = synthetic.cuts(4)[1]
VERSION_1 = Path(__file__).parent / "version1" / "records.jsonl"
RECORDS = [synthetic.record(CUT, sample, repeat) for repeat in range(2) for sample in range(4)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "study" / "records.jsonl"


def append_all(path: Path, records: list[Record]) -> list[bool]:
    with Journal(path) as journal:
        return [journal.append(record) for record in records]


def test_records_come_back_as_they_went_in(path: Path) -> None:
    odd = synthetic.record(CUT, name="li\u2028ne\n.jpg", prediction={"größe": [1, None, 0.1]})
    assert append_all(path, [odd, *RECORDS[1:]]) == [True] * len(RECORDS)
    assert read(path) == [odd, *RECORDS[1:]]


def test_a_key_is_written_once_even_after_reopening(path: Path) -> None:
    append_all(path, RECORDS[:3])
    other = RECORDS[0].model_copy(update={"total_ms": 1.0})
    assert append_all(path, [other, *RECORDS[:4]]) == [False, False, False, False, True]
    assert read(path) == RECORDS[:4]


def test_the_journal_knows_what_is_in_it(path: Path) -> None:
    append_all(path, RECORDS[:3])
    with Journal(path) as journal:
        assert len(journal) == 3
        assert key(RECORDS[2]) in journal
        assert key(RECORDS[3]) not in journal


def test_concatenated_journals_count_a_key_once(path: Path) -> None:
    append_all(path, RECORDS[:3])
    path.write_bytes(path.read_bytes() * 2)
    assert read(path) == RECORDS[:3]


@pytest.mark.parametrize(
    "tail", [b'{"uid": "x', b"\0\0\0\0", RECORDS[3].model_dump_json().encode()]
)
def test_a_torn_last_line_is_dropped_with_a_warning(
    path: Path, tail: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    append_all(path, RECORDS[:3])
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    with caplog.at_level(logging.WARNING):
        assert read(path) == RECORDS[:3]
    assert "line 4 is torn" in caplog.text
    assert append_all(path, [RECORDS[3]]) == [True]
    assert path.read_bytes() == whole + RECORDS[3].model_dump_json().encode() + b"\n"


@pytest.mark.parametrize("line", [b"{}\n", b"nonsense\n", b"\n"])
def test_a_damaged_whole_line_is_an_error_that_names_it_and_keeps_the_file(
    path: Path, line: bytes
) -> None:
    append_all(path, RECORDS[:1])
    path.write_bytes(path.read_bytes() + line)
    before = path.read_bytes()
    with pytest.raises(InvalidInput, match=r"line 2.*a record"):
        read(path)
    with pytest.raises(InvalidInput, match="line 2"):
        Journal(path)
    assert path.read_bytes() == before


def test_a_missing_journal_is_an_error(path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"to contain records\.jsonl"):
        read(path)


def test_a_second_writer_is_refused_while_the_first_one_writes(path: Path) -> None:
    with Journal(path), pytest.raises(InvalidInput, match="no other run"):
        Journal(path)
    append_all(path, RECORDS[:1])


def test_a_full_disk_leaves_the_journal_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append_all(path, RECORDS[:1])
    before = path.read_bytes()
    write = os.write
    with Journal(path) as journal:
        monkeypatch.setattr(os, "write", lambda file, line: write(file, line[:50]))
        with pytest.raises(OSError, match="no room"):
            journal.append(RECORDS[1])
        monkeypatch.undo()
        assert path.read_bytes() == before
        assert journal.append(RECORDS[1])
    assert read(path) == RECORDS[:2]


def test_a_full_disk_is_an_error_that_names_the_journal(path: Path) -> None:
    append_all(path, RECORDS[:1])
    size = path.stat().st_size
    for room, words in ((0, "File too large"), (10, "no room for the record")):
        full = pytest.raises(OSError, match=words)
        with Journal(path) as journal, files_end_at(size + room), full as caught:
            journal.append(RECORDS[1])
        assert caught.value.filename == str(path)
    assert read(path) == RECORDS[:1]


STEPS = st.lists(
    st.one_of(
        st.integers(0, len(RECORDS) - 1),  # append this record
        st.just("reopen"),
        st.binary(min_size=1, max_size=20).filter(lambda torn: b"\n" not in torn),  # power cut
        st.integers(1, 40).map(lambda lost: f"lose {lost}"),  # the end of the last line is lost
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_exactly_once_under_any_interleaving(steps: list[int | str | bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records.jsonl"
        kept: list[Record] = []
        journal = Journal(path)
        for step in steps:
            if isinstance(step, int):
                assert journal.append(RECORDS[step]) == (RECORDS[step] not in kept)
                kept += [RECORDS[step]] if RECORDS[step] not in kept else []
                continue
            journal.close()
            if isinstance(step, bytes):
                path.write_bytes(path.read_bytes() + step)
            elif step.startswith("lose") and kept:
                path.write_bytes(path.read_bytes()[: -int(step.split()[1])])
                kept.pop()
            assert read(path) == kept
            journal = Journal(path)
        journal.close()
        assert read(path) == kept


WRITER = """
import sys
from pathlib import Path
from splittracr.results.journal import Journal
from tests.results import synthetic

cut = synthetic.cuts(4)[1]
with Journal(Path(sys.argv[1])) as journal:
    for sample in range(10**9):
        journal.append(synthetic.record(cut, sample))
        print(sample, flush=True)
"""


def test_what_was_appended_survives_sigkill_of_the_writer(path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, env=environment
    ) as writer:
        assert writer.stdout is not None
        for _ in range(50):
            assert writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
        said = 50 + len(writer.stdout.read().split())
    found = read(path)
    # The last record may have been written and not yet been spoken of.
    assert len(found) in (said, said + 1)
    assert found == [synthetic.record(CUT, sample) for sample in range(len(found))]
    assert append_all(path, [found[0], synthetic.record(CUT, len(found))]) == [False, True]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 2), st.integers(0, 40))))
def test_the_keys_of_a_journal_are_a_set(drawn: list[tuple[str, int, int]]) -> None:
    keys = _Keys()
    expected: set[tuple[str, str, int, int]] = set()
    for edge, trial, sample in drawn:
        key = ("u", edge, trial, sample)
        assert (key in keys) == (key in expected)
        keys.add(key)
        expected.add(key)
        assert len(keys) == len(expected)
    assert ("u", "c", 0, 0) not in keys


def test_a_journal_of_version_1_is_read_and_continued(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(VERSION_1.read_bytes())
    assert b"schemaVersion" not in path.read_bytes()
    before = read(path)
    assert len(before) == 6
    assert {record.schema_version for record in before} == {2}
    lines = [json.loads(line) for line in VERSION_1.read_text().splitlines()]
    for record, line in zip(before, lines, strict=True):
        stages = dict(line["stages"])
        if "network" in stages:
            stages["link"] = stages.pop("network")
        assert record.stages == stages
    assert sum("link" in record.stages for record in before) == 3
    assert append_all(path, [before[0], RECORDS[0]]) == [False, True]
    assert read(path) == [*before, RECORDS[0]]
    *old, new = path.read_text().splitlines()
    assert old == VERSION_1.read_text().splitlines()
    assert new.startswith('{"schemaVersion":2,')


def test_a_record_of_a_later_version_is_refused(path: Path) -> None:
    append_all(path, RECORDS[:2])
    text = path.read_text().replace('"schemaVersion":2', '"schemaVersion":3')
    path.write_text(text)
    with pytest.raises(InvalidInput, match=r"schemaVersion of .*jsonl, line 1: got 3, .* 2 .* 1"):
        read(path)
