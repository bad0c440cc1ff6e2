from datetime import UTC, datetime, timedelta
from typing import Literal

import numpy as np
import pytest

from splittracr.experiment.spec import SplitExperiment
from splittracr.results.environment import Environment
from splittracr.results.timeline import timeline
from tests.results import synthetic

CUTS = synthetic.cuts(3)
BEGAN = datetime(2025, 10, 9, 8, 0, tzinfo=UTC)
PHASES = [
    {
        "durationSeconds": 10,
        "uplinkKilobitsPerSecond": rate,
        "downlinkKilobitsPerSecond": 1000,
    }
    for rate in (50_000, 2_000)
]


def environment(*lives: float) -> Environment:
    """Of a study whose emulated link began at these times, and which started 4 s after it did."""
    spec = {
        "model": {"name": "resnet18"},
        "partition": {"mode": "Adaptive"},
        "transport": {"link": {"phases": PHASES}},
    }
    manifest = {"metadata": {"name": "study"}, "spec": spec}
    return synthetic.environment(
        CUTS,
        manifest=SplitExperiment.model_validate(manifest, by_alias=True),
        started_at=BEGAN + timedelta(seconds=4),
        link_began_at=tuple(BEGAN + timedelta(seconds=life) for life in lives),
    )


@pytest.mark.parametrize(
    ("lives", "steps"),
    [
        ([0.0], [(0, 50), (10, 2), (20, 50)]),
        ([0.0, 12.0], [(0, 50), (10, 2), (12, 50), (22, 2)]),
    ],
)
def test_the_rate_is_drawn_from_when_the_link_began(
    lives: list[float], steps: list[tuple[float, float]]
) -> None:
    records = [
        synthetic.record(
            CUTS[1], sample, started_at=BEGAN.timestamp() + 5 + sample, predicted_ms=10.0
        )
        for sample in range(20)
    ]
    (plot,) = timeline(environment(*lives), records)
    link, cut, _ = plot.figure.axes
    drawn = list(
        zip(*(np.asarray(axis).tolist() for axis in link.lines[0].get_data()), strict=True)
    )
    changes = [one for i, one in enumerate(drawn) if i == 0 or one[1] != drawn[i - 1][1]]
    assert changes == steps
    assert np.asarray(cut.lines[0].get_xdata())[0] == pytest.approx(5)


@pytest.mark.parametrize(
    ("network", "kind"),
    [("small", "answered by the small model"), ("exit", "answered by an exit")],
)
def test_answers_of_a_small_model_or_exit_have_a_colour_of_their_own(
    network: Literal["small", "exit"], kind: str
) -> None:
    begins = BEGAN.timestamp() + 5
    records = [
        synthetic.record(
            CUTS[-1] if sample % 2 else CUTS[0],
            sample,
            started_at=begins + sample,
            predicted_ms=10.0,
            network=network if sample % 2 else "large",
        )
        for sample in range(6)
    ]
    (plot,) = timeline(environment(0.0), records)
    shown = {
        str(line.get_label()): np.asarray(line.get_xdata()) for line in plot.figure.axes[1].lines
    }
    assert shown[kind] == pytest.approx([6, 8, 10])
    assert "the mean over all samples" in plot.caption
    (plot,) = timeline(environment(0.0), records[::2])
    assert "small model" not in plot.caption
