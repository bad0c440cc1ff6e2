import itertools
import re
from collections.abc import Sequence
from typing import Any

import pytest

from splittracr.experiment.types import Cut, Record
from splittracr.results import plots
from splittracr.results.plots import Plot
from splittracr.results.tables import frame, summarise
from tests.results import synthetic

CUTS = synthetic.cuts(12)


def drawn(records: list[Record], cuts: Sequence[Cut] = CUTS, **changes: Any) -> dict[str, Plot]:
    samples = frame(records)
    summary = summarise(samples, synthetic.environment(cuts, **changes))
    return {plot.name: plot for plot in plots.plots(summary, samples)}


def names(found: dict[str, Plot]) -> list[str]:
    return list(found)


def test_a_study_has_the_figures_that_say_something() -> None:
    one, few = synthetic.records(CUTS[3:4], samples=5), synthetic.records(CUTS[:4], samples=5)
    assert names(drawn(one)) == ["latency", "distribution"]
    assert names(drawn(few)) == ["latency", "cuts", "distribution"]
    labelled = synthetic.records(CUTS, samples=5, labelled=True)
    assert names(drawn(labelled)) == ["latency", "cuts", "distribution", "accuracy"]
    many = synthetic.cuts(60, long_names=True)
    assert names(drawn(synthetic.records(many, samples=2), many)) == ["latency", "cuts"]
    assert set(names(drawn(labelled))) == set(plots.NAMES)


@pytest.mark.parametrize("records", [[], [synthetic.failed(synthetic.record(CUTS[1]))]])
def test_without_results_there_are_no_figures(records: list[Record]) -> None:
    assert drawn(records) == {}


def test_labels_of_rows_do_not_overlap() -> None:
    for count in (12, 200):
        cuts = synthetic.cuts(count, long_names=True)
        for plot in drawn(synthetic.records(cuts, samples=2), cuts).values():
            plot.figure.draw_without_rendering()
            labels = [t for t in plot.figure.axes[0].get_yticklabels() if t.get_text()]
            boxes = sorted((label.get_window_extent() for label in labels), key=lambda box: box.y0)
            assert all(lower.y1 <= upper.y0 for lower, upper in itertools.pairwise(boxes))


def test_bars_end_at_the_mean() -> None:
    samples = frame(synthetic.records(CUTS, samples=5))
    summary = summarise(samples, synthetic.environment(CUTS))
    axes = plots.plots(summary, samples)[0].figure.axes[0]
    ends = [patch.get_x() + patch.get_width() for patch in axes.patches][-len(CUTS) :]  # type: ignore[attr-defined]
    assert ends == pytest.approx([cut.total_ms.mean for cut in summary.cuts if cut.total_ms])


def test_emulation_stands_in_the_figures_of_time() -> None:
    found = drawn(synthetic.records(CUTS, samples=2), emulated="edge slowed")
    for name in ("latency", "distribution"):
        assert "(emulated)" in found[name].figure.axes[0].get_xlabel()


def test_bytes_are_logarithmic_where_they_span_decades() -> None:
    records = synthetic.records(CUTS[1:5], samples=2)
    assert drawn(records)["cuts"].figure.axes[0].get_xscale() == "linear"
    wide = [one.model_copy(update={"bytes_up": 10 ** (1 + i % 4)}) for i, one in enumerate(records)]
    assert drawn(wide)["cuts"].figure.axes[0].get_xscale() == "log"


def test_figures_are_the_same_bytes_for_the_same_records() -> None:
    records = synthetic.records(CUTS[:4], samples=3, labelled=True)
    first, second = drawn(records), drawn(records)
    for name, plot in first.items():
        assert plots.svg(plot) == plots.svg(second[name])
        assert plots.png(plot) == plots.png(second[name])
        assert b"<dc:date>" not in plots.svg(plot)


def test_inline_figures_share_no_id_and_name_no_address() -> None:
    found = drawn(synthetic.records(CUTS, samples=3, labelled=True))
    ids: list[str] = []
    for plot in found.values():
        text = plots.inline(plot.name, plots.svg(plot))
        own = re.findall(r'\sid="([^"]+)"', text)
        references = re.findall(r'(?:href="|url\()#([^")]+)', text)
        assert set(references) <= set(own)
        assert "http" not in text
        ids += own
    assert len(ids) == len(set(ids))


def test_alternative_texts_tell_the_range() -> None:
    found = drawn(synthetic.records(CUTS, samples=3, labelled=True))
    assert re.search(
        r"medians from [\d.]+ ms at input to [\d.]+ ms at layer1", found["latency"].alt
    )
    assert "0 B at output to 1.17 MB at layer1.0.add" in found["cuts"].alt
    assert "Top-1 accuracy from" in found["accuracy"].alt


def test_a_cut_may_have_any_name() -> None:
    odd = [
        cut.model_copy(update={"name": name})
        for cut, name in zip(CUTS, ("_blocks.3", "a$b$c", r"\frac{1}", "<b>&"), strict=False)
    ]
    found = drawn(synthetic.records(odd, samples=2), odd)
    legend = found["distribution"].figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == [cut.name for cut in odd]
    assert all(plots.svg(plot) for plot in found.values())


def test_accuracy_shows_the_cuts_that_have_one() -> None:
    first, *others = synthetic.records(CUTS[:3], samples=2, labelled=True)
    records = [synthetic.failed(one) if one.cut == first.cut else one for one in (first, *others)]
    figure = drawn(records)["accuracy"].figure
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["top-5", "top-1"]
