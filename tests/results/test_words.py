import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from splittracr.experiment.spec import ExperimentSpec
from splittracr.results import words
from splittracr.results.summary import Summary
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


def headline(count: int = 12, keep: slice = slice(None), samples: int = 40, **changes: Any) -> str:
    cuts = synthetic.cuts(count)
    records = synthetic.records(cuts[keep], samples=samples)
    return words.headline(summarise(frame(records), synthetic.environment(cuts, **changes)))


def test_a_study_of_one_cut_is_one_plain_sentence() -> None:
    assert re.fullmatch(
        r"Cutting resnet18 at layer2\.0\.add took 1\d\d\.\d ms in the median\.",
        headline(keep=slice(5, 6)),
    )


def test_the_best_cut_is_set_against_not_splitting() -> None:
    cuts = synthetic.cuts(12)
    records = [
        synthetic.record(cut, sample, total_ms=level + sample / 100, stages={})
        for cut, level in ((cuts[6], 50.0), (cuts[11], 60.0))
        for sample in range(9)
    ]
    text = words.headline(summarise(frame(records), synthetic.environment(cuts)))
    assert text == (
        "Cutting resnet18 at layer2.1.relu took 50.0 ms in the median, the lowest of 2 cuts "
        "(edge only 60.0 ms)."
    )


def test_where_not_splitting_won_the_best_split_is_named() -> None:
    text = headline()
    assert text.startswith("Running resnet18 wholly on the server (cut input) took ")
    assert re.search(r"\(edge only [\d.]+ ms, best split [\d.]+ ms at layer[\w.]+\)\.$", text)


def test_an_uncertain_winner_is_called_a_tie_at_once() -> None:
    noise = np.random.default_rng(0).normal(0, 10, 30)
    cuts = synthetic.cuts(3)
    pairs = [(cuts[0], 50 + noise), (cuts[1], 50 + noise[::-1]), (cuts[2], 90 + noise)]
    records = [
        synthetic.record(cut, sample, total_ms=ms, stages={})
        for cut, values in pairs
        for sample, ms in enumerate(values.tolist())
    ]
    summary = summarise(frame(records), synthetic.environment(cuts))
    assert summary.winner is None
    assert re.fullmatch(
        r"A tie: (running|cutting) resnet18 .* took [\d.]+ ms in the median, the lowest of 3 cuts, "
        r"and cut [\w.]+ took [\d.]+ ms \(.*\)\.",
        words.headline(summary),
    )


@pytest.mark.parametrize(
    ("medians", "text"),
    [
        (
            (63, 52, 73, 51),  # the best split is in the sentence
            "running resnet18 wholly on the edge (cut output) took 51.0 ms in the median, the "
            "lowest of 4 cuts, and cut layer1.0.add took 52.0 ms (server only 63.0 ms)",
        ),
        (
            (52, 63, 73, 51),
            "running resnet18 wholly on the edge (cut output) took 51.0 ms in the median, the "
            "lowest of 4 cuts, and cut input took 52.0 ms (best split 63.0 ms at layer1.0.add)",
        ),
        (
            (63, 51, 52, 73),
            "cutting resnet18 at layer1.0.add took 51.0 ms in the median, the lowest of 4 cuts, "
            "and cut layer1.1.relu took 52.0 ms (server only 63.0 ms, edge only 73.0 ms)",
        ),
        (
            (63, 51, 73, 52),
            "cutting resnet18 at layer1.0.add took 51.0 ms in the median, the lowest of 4 cuts, "
            "and cut output took 52.0 ms (server only 63.0 ms)",
        ),
    ],
)
def test_a_tie_names_each_cut_once(medians: tuple[float, ...], text: str) -> None:
    records = [
        synthetic.record(cut, sample, total_ms=median, stages={})
        for cut, median in zip(synthetic.cuts(4), medians, strict=True)
        for sample in range(3)
    ]
    summary = summarise(frame(records), synthetic.environment(synthetic.cuts(4)))
    assert words.headline(summary) == f"A tie, as too few frames were measured: {text}."


@pytest.mark.parametrize("mode", [{"mode": "Cascade", "cut": "input"}, {"mode": "Adaptive"}])
def test_the_cuts_of_a_cascade_have_samples_of_their_own(mode: dict[str, str]) -> None:
    cuts = synthetic.cuts(3)
    records = [
        synthetic.record(cut, sample, total_ms=ms, stages={})
        for cut, ms, samples in ((cuts[0], 90.0, range(4)), (cuts[2], 30.0, range(4, 10)))
        for sample in samples
    ]
    small = {"model": {"name": "tiny"}, "statistic": "Margin", "thresholdPerMillion": 1}
    partition = {**mode, "cascade": small}
    spec = {"model": {"name": "resnet18"}, "partition": partition}
    manifest = synthetic.environment(cuts).manifest.model_copy(
        update={"spec": ExperimentSpec.model_validate(spec)}
    )
    summary = summarise(frame(records), synthetic.environment(cuts, manifest=manifest))
    assert summary.best is None
    assert words.headline(summary) == (
        "Of 10 samples the cascade of resnet18 answered 4 at input (median 90.0 ms) and 6 at "
        "output (median 30.0 ms)."
    )


def _taking_turns(mode: dict[str, str], count: int) -> Summary:
    """Two frames at a cut, the next two at the next one, of the last cut eight."""
    cuts = synthetic.cuts(max(count, 2))[:count]
    ran = [cut for cut in cuts for _ in range(8 if cut is cuts[-1] else 2)]
    records = [
        synthetic.record(cut, i, total_ms=10.0 + i, started_at=float(i), stages={})
        for i, cut in enumerate(ran)
    ]
    spec = {"model": {"name": "resnet18"}, "partition": mode}
    manifest = synthetic.environment(cuts).manifest.model_copy(
        update={"spec": ExperimentSpec.model_validate(spec)}
    )
    return summarise(frame(records), synthetic.environment(cuts, manifest=manifest))


@pytest.mark.parametrize("mode", [{"mode": "Adaptive"}, {"mode": "Static", "cut": "input"}])
def test_cuts_with_samples_of_their_own_are_not_ranked(mode: dict[str, str]) -> None:
    summary = _taking_turns(mode, 3)
    assert (summary.best, summary.winner) == (None, None)
    assert words.headline(summary) == (
        f"In mode {mode['mode']} resnet18 took 15.5 ms in the median of 12 samples, 8 at output, "
        "2 at input and 2 at layer1.0.add, with 2 changes of the cut."
    )


def test_many_cuts_of_an_adaptive_study_are_summed_up() -> None:
    assert words.headline(_taking_turns({"mode": "Adaptive"}, 8)) == (
        "In mode Adaptive resnet18 took 20.5 ms in the median of 22 samples, 8 at output, "
        "2 at input, 2 at layer1.0.add, 2 at layer1.1.relu, 2 at layer1.1.add and "
        "6 at 3 other cuts, with 7 changes of the cut."
    )


def test_an_adaptive_study_of_one_cut_has_no_best_one() -> None:
    summary = _taking_turns({"mode": "Adaptive"}, 1)
    assert summary.best is None
    assert words.headline(summary) == (
        "In mode Adaptive resnet18 took 13.5 ms in the median of 8 samples, 8 at input, "
        "with 0 changes of the cut."
    )


def test_too_few_frames_are_a_tie_and_it_says_why() -> None:
    text = headline(samples=5)
    assert text.startswith(
        "A tie, as too few frames were measured: running resnet18 wholly on the server (cut input) "
    )


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
