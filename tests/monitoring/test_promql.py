import pytest

from splittracr.experiment.rules import unwrapped
from splittracr.monitoring.build import Query
from splittracr.monitoring.promql import (
    BadQuery,
    about_study,
    edge,
    fleet,
    label_values,
    operator,
    server,
)

STUDY = 'study_namespace="$namespace", study="$study"'


def test_selectors_name_the_exposed_series_and_the_scope() -> None:
    samples = edge("splittracr_samples", outcome="ok").rate()
    assert samples.text == (
        f'rate(splittracr_samples_total{{{STUDY}, role="edge", edge=~"$edge", outcome="ok"}}'
        "[$__rate_interval])"
    )
    tail = server("splittracr_stage_seconds", "sum", stage="~tail|reply")
    assert (
        tail.text == f'splittracr_stage_seconds_sum{{{STUDY}, role="server", stage=~"tail|reply"}}'
    )
    assert fleet("splittracr_studies").text == "splittracr_studies"
    assert 'study=""' in operator("process_resident_memory_bytes").text


def test_quotient_by_a_total_keeps_the_labels() -> None:
    frames = edge("splittracr_frame_latency_seconds", "count").rate()
    share = frames.sum("source").per(frames.sum())
    assert " / on () group_left () (" in share.text
    assert share.labels == {"source"}
    assert share.text.endswith(" > 0))")


def test_names_of_an_info_are_joined() -> None:
    info = edge("splittracr_candidate_info").max("edge", "cut")
    named = edge("splittracr_candidate_switches").gained().sum("edge").named(info, "edge")
    assert named.labels == {"edge", "cut"}
    assert "* on (edge) group_left (cut) topk by (edge) (1, " in named.text


def test_why_it_may_be_absent_comes_from_the_table() -> None:
    regret = edge("splittracr_predicted_regret_seconds").rate().sum()
    assert regret.absent == "In modes other than Adaptive."


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: edge("splittracr_frames"), "no metric splittracr_frames"),
        (lambda: edge("splittracr_server_queue_length"), "no metric"),
        (lambda: server("splittracr_samples"), "no metric splittracr_samples"),
        (lambda: about_study("splittracr_samples"), "no metric splittracr_samples"),
        (lambda: label_values("edge", "splittracr_frames"), "no metric splittracr_frames"),
        (lambda: edge("splittracr_samples", reason="x"), "has no label reason"),
        (lambda: edge("splittracr_samples", outcome="cancelled"), "outcome is never cancelled"),
        (lambda: edge("splittracr_stage_seconds"), "no part does not fit"),
        (lambda: edge("splittracr_samples", "sum"), "sum does not fit"),
        (lambda: edge("splittracr_samples").rate().sum("cut"), "has no label cut"),
        (lambda: edge("splittracr_samples").sum(), "would fall when a worker starts again"),
        (lambda: edge("splittracr_cut_index").rate(), "rate needs a counter"),
        (lambda: edge("splittracr_samples").rate().rate(), "rate needs a counter"),
        (lambda: edge("splittracr_samples").rate().quantile(0.5), "has no label le"),
        (
            lambda: (
                edge("splittracr_samples")
                .rate()
                .sum("edge")
                .per(edge("splittracr_samples").rate().sum("outcome"))
            ),
            "cannot be divided",
        ),
        (
            lambda: (
                server("splittracr_server_queue_length")
                .sum()
                .plus(server("splittracr_server_queue_length").sum("role"))
            ),
            "cannot be added",
        ),
        (lambda: Query(edge("splittracr_cut_index").max(), "{{edge}}"), "edge for the legend"),
    ],
)
def test_what_the_table_does_not_have_fails(make: object, said: str) -> None:
    assert callable(make)
    with pytest.raises(BadQuery, match=said):
        make()


@pytest.mark.parametrize(
    ("text", "inner"),
    [("(a + b)", "a + b"), ("(a) + (b)", "(a) + (b)"), ("a", "a"), ("((a))", "(a)")],
)
def test_outer_parentheses(text: str, inner: str) -> None:
    assert unwrapped(text) == inner
