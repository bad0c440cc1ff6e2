import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splittracr.results import words
from splittracr.results.tables import frame, summarise
from tests.results import synthetic


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=6), st.integers(0, 3))
def test_rounded_parts_add_up_and_move_by_less_than_a_unit(parts: list[float], digits: int) -> None:
    rounded = words.rounded_parts(parts, digits)
    unit = 10.0**-digits
    assert abs(sum(rounded) - sum(parts)) <= 0.5 * unit + 1e-6
    assert all(abs(r - p) <= unit * 1.001 for r, p in zip(rounded, parts, strict=True))


@given(st.floats(0, 9e11))
def test_bytes_are_short_and_within_half_a_percent(value: float) -> None:
    text = words.human_bytes(value)
    assert len(text) <= 7
    number, unit = text.split()
    scale = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[unit]
    assert float(number) * scale == pytest.approx(value, rel=0.0051, abs=0.5)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (999, "999 B"), (999.6, "1.00 kB"), (774_144, "774 kB"), (999_999, "1.00 MB")],
)
def test_bytes(value: float, text: str) -> None:
    assert words.human_bytes(value) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(None, "–"), (0, "0 %"), (1, "100 %"), (0.37, "37 %"), (0.998, "99.8 %"), (0.002, "0.2 %")],
)
def test_percent_claims_none_and_all_only_where_that_is_so(share: float, text: str) -> None:
    assert words.percent(share) == text


@given(st.text(max_size=60), st.integers(3, 40))
def test_a_shortened_name_keeps_both_ends(text: str, limit: int) -> None:
    short = words.middle_cut(text, limit)
    assert len(short) <= limit
    head, _, tail = short.partition("…")
    assert short == text or (text.startswith(head) and text.endswith(tail))


def headline(count: int = 12, keep: slice = slice(None), **changes: Any) -> str:
    cuts = synthetic.cuts(count)
    records = synthetic.records(cuts[keep], samples=5)
    return words.headline(summarise(frame(records), synthetic.environment(cuts, **changes)))


def test_a_study_of_one_cut_is_one_plain_sentence() -> None:
    assert re.fullmatch(
        r"Cutting resnet18 at layer2\.0\.add took 1\d\d\.\d ms in the median\.",
        headline(keep=slice(5, 6)),
    )


def test_the_best_cut_is_set_against_not_splitting() -> None:
    text = headline(keep=slice(6, None))
    assert text.startswith("Cutting resnet18 at layer2.1.relu took ")
    assert re.search(r"the lowest of 6 cuts \(edge only \d+\.\d ms\)\.$", text)


def test_where_not_splitting_won_the_best_split_is_named() -> None:
    text = headline()
    assert text.startswith("Running resnet18 wholly on the server (cut input) took ")
    assert re.search(r"\(edge only [\d.]+ ms, best split [\d.]+ ms at layer[\w.]+\)\.$", text)


def test_emulation_and_failures_are_in_the_sentence() -> None:
    cuts = synthetic.cuts(4)
    first, *others = synthetic.records(cuts[1:2], samples=4)
    environment = synthetic.environment(cuts, emulated="edge slowed")
    summary = summarise(frame([synthetic.failed(first), *others]), environment)
    assert words.headline(summary).endswith("median, emulated; 1 of 4 samples failed.")


@pytest.mark.parametrize(
    ("samples", "text"),
    [
        (0, "No sample was recorded."),
        (1, "1 sample failed. The first: the picture could not be decoded."),
        (2, "2 samples failed. The first: the picture could not be decoded."),
    ],
)
def test_without_a_result_the_sentence_says_so(samples: int, text: str) -> None:
    cuts = synthetic.cuts(4)
    failed = [synthetic.failed(one) for one in synthetic.records(cuts[:1], samples)]
    summary = summarise(frame(failed), synthetic.environment(cuts))
    assert words.headline(summary).endswith(text)


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        (None, ("–", None)),
        ([], ("nothing found", None)),
        ([{"label": "tabby", "class": 281, "score": 0.5}, {"label": "cat"}], ("tabby", 0.5)),
        ([{"label": "tabby", "class": 281, "score": None}], ("tabby", None)),
        (
            [
                {"label": "bus", "class": 5, "score": 0.94, "box": [0, 0, 1, 1]},
                {"label": "person", "class": 0, "score": 0.9, "box": [0, 0, 1, 1]},
                {"label": "person", "class": 0, "score": 0.8, "box": [0, 0, 1, 1]},
            ],
            ("2 person, 1 bus", 0.94),
        ),
        (
            [{"label": "sky", "class": 1, "share": 0.71}, {"label": "sea", "share": None}],
            ("sky 71 %, sea –", None),
        ),
        ([{"name": "output", "shape": [1, 2]}], ('[{"name": "output", "shape": [1, 2]}]', None)),
    ],
)
def test_predictions_in_words(prediction: Any, expected: tuple[str, float | None]) -> None:
    assert words.best_prediction(prediction) == expected
