"""All queries and the command against a real Prometheus that scrapes a simulated cluster."""

import asyncio
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from splittracr.cli.main import app
from splittracr.experiment import metrics
from splittracr.monitoring.prometheus import QueryFailed, connect
from tests.monitoring.servers import check_queries, wait_for_samples

ADAPTIVE = {"namespace": "lab", "study": "traffic"}
PLAIN = {"namespace": "field", "study": "night.watch"}


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(
        app, ["dashboard", *arguments], env={"COLUMNS": "200", "NO_COLOR": "1"}
    )
    return done.exit_code, " ".join(done.output.split())


def test_every_panel_of_an_adaptive_study_has_data(url: str) -> None:
    assert check_queries(url, ADAPTIVE) == {"study": {}, "fleet": {}, "operator": {}}


def test_panels_of_a_plain_study_are_empty_for_the_reason_that_they_give(url: str) -> None:
    found = check_queries(url, PLAIN)
    adaptive = "No data: in modes other than Adaptive."
    (agreement,) = [m for m in metrics.EDGE if m.name == "splittracr_agreement_ratio"]
    unmeasured = f"No data: {agreement.absent[0].lower()}{agreement.absent[1:]}"
    assert found == {
        "study": {
            "Predicted and measured latency": adaptive,
            "Predicted regret per decision": adaptive,
            "Decisions by reason": adaptive,
            "Energy per sample": (
                "No data: without an energy sensor or, on an edge, declared power."
            ),
            "Agreement": unmeasured,
            "Machine load": "No data: in the first second; of `gpu` without NVML.",
            "Power": "No data: without an energy sensor, and while it does not answer.",
            "Temperature": "No data: without a thermometer that can be read.",
            "Clock": "No data: if the system does not show it.",
        },
        "fleet": {},
        "operator": {},
    }


def test_one_of_the_edges_can_be_selected(url: str) -> None:
    assert check_queries(url, {**ADAPTIVE, "edge": ["edge-1"]})["study"] == {}


def test_span_is_that_of_the_study(url: str) -> None:
    selector = 'splittracr_samples_expected{study="traffic"}'
    span = wait_for_samples(url, selector, 24)
    assert 5 <= span.end - span.start < 3600
    assert 0.2 <= span.interval <= 0.3

    async def unknown() -> object:
        async with connect(url) as client:
            now = await client.now()
            return await client.sample_range('up{study="unknown"}', now - 7200, now)

    assert asyncio.run(unknown()) is None


def test_a_query_that_prometheus_refuses_says_why(url: str) -> None:
    async def ask() -> object:
        async with connect(url) as client:
            return await client.query("sum(", 0.0)

    with pytest.raises(QueryFailed, match="parse error"):
        asyncio.run(ask())


def test_command_draws_a_page(url: str, tmp_path: Path) -> None:
    code, out = run("night.watch", "--prometheus", url, "-o", str(tmp_path / "study.html"))
    assert code == 0, out
    assert "32 panels, 9 without data (Predicted and measured latency, " in out
    page = (tmp_path / "study.html").read_text()
    assert page.count("<svg") == 1
    assert not re.findall(r"(?:src|href)=\"(?!#)", page), "it needs no other file"
    assert "namespace field · study night.watch · edge edge-0" in page
    assert "<dt>Energy per sample</dt>" in page
    assert "No data: without an energy sensor or, on an edge, declared power." in page
    assert re.search(r"<dt>Progress</dt><dd>[^<]* progress [0-9.]+ %\.</dd>", page)
    assert re.search(r"<dt>Versions</dt><dd>[^<]*server, 0.9.0, yolov5nu, ", page)


@pytest.mark.parametrize("name", ["study", "fleet", "operator"])
def test_command_draws_a_picture_of_each_dashboard(url: str, tmp_path: Path, name: str) -> None:
    file = tmp_path / f"{name}.png"
    code, out = run("traffic", "--prometheus", url, "--dashboard", name, "-o", str(file))
    assert code == 0, out
    assert "without data" not in out
    with Image.open(file) as picture:
        assert picture.width == 1600
        assert picture.height > 1500


def test_time_range_and_step_can_be_chosen(url: str, tmp_path: Path) -> None:
    file = str(tmp_path / "study.html")
    ago = ["--since", "1h", "--step", "10s"]
    assert run("traffic", "--prometheus", url, "-o", file, *ago)[0] == 0
    months_ago = (datetime.now(UTC) - timedelta(days=200)).isoformat()
    code, out = run("traffic", "--prometheus", url, "-o", file, "--from", months_ago)
    assert code == 0, out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trafic"], "STUDY: got 'trafic', expected one of: traffic"),
        (["traffic", "-n", "lob"], "--namespace: got 'lob', expected one of: lab"),
        (
            ["traffic", "--dashboard", "fleets"],
            "--dashboard: got 'fleets', expected study or fleet or oper",
        ),
        (["traffic", "--since", "1x"], "--since: got '1x', expected a time such as 30s, 15m"),
        (["traffic", "--since", "1h", "--to", "2026-01-01"], "--to: got '2026-01-01', expected"),
        (["traffic", "--from", "noon"], "--from: got 'noon', expected a time such as 2026-05"),
        (["traffic", "--from", "2001-02-01", "--to", "2001-01-01"], "--to: got '2001-01-01', "),
        (
            ["traffic", "--from", "2020-01-01T00:00", "--to", "2020-01-01T01:00Z"],
            "STUDY: got 'traffic', expected a study with samples in this time range",
        ),
        (["traffic", "--to", "2001-01-01"], "STUDY: got 'traffic', expected a study with samples"),
        (["traffic", "--since", "9d", "--step", "1s"], "--step: got '1s', expected at least 70.7s"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    url: str, tmp_path: Path, arguments: list[str], said: str
) -> None:
    code, out = run(*arguments, "--prometheus", url, "-o", str(tmp_path / "study.html"))
    assert code == 2, out
    assert said in out
    assert not list(tmp_path.iterdir())
