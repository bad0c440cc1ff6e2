"""The table of operations, against times, sizes and joules that are known."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from splittracr.experiment.contracts import Role
from splittracr.experiment.energy import EnergyWindow, Kind
from splittracr.experiment.types import Operation, OperationTime
from splittracr.results import edges, environment
from splittracr.results.columns import table
from splittracr.results.environment import EndTimes, Environment
from splittracr.results.layer_plot import layer_plot
from splittracr.results.layers import Layer, layers, shape, slowest
from splittracr.results.report import write_results
from splittracr.results.tables import frame, summarise
from tests.results import synthetic

CUTS = synthetic.cuts(3)
RECORDS = synthetic.records(CUTS, samples=6)
CONV = Operation(
    name="stem.conv",
    module="stem.conv",
    type="Conv2d",
    shapes=((1, 4, 8, 8),),
    bytes=1024,
    parameters=108,
    flops=13_824,
)
SPLIT = Operation(
    name="chunk",
    module="",
    type="chunk",
    shapes=((1, 2, 8, 8), (1, 2, 8, 8)),
    bytes=1024,
    parameters=0,
    flops=None,
)


def times(role: Role, *means: float, edge: str = "edge-0", readings: int = 4) -> EndTimes:
    made = (OperationTime(mean_ms=m, p95_ms=2 * m, readings=readings) for m in means)
    return EndTimes(role=role, edge=edge, operations=tuple(made))


def described(*ends: EndTimes, slowdown: int = 100, **changes: Any) -> Environment:
    made = synthetic.environment(CUTS, operations=(CONV, SPLIT), operation_times=ends, **changes)
    spec = made.manifest.spec
    edge = spec.edge.model_copy(update={"slowdown_percent": slowdown})
    manifest = made.manifest.model_copy(update={"spec": spec.model_copy(update={"edge": edge})})
    return made.model_copy(update={"manifest": manifest})


def rows(of: Environment) -> list[Layer]:
    return layers(of, summarise(frame(RECORDS), of))


BOTH = (times(Role.EDGE, 3.0, 1.0), times(Role.SERVER, 0.5, 0.0, readings=9))


def test_each_end_has_a_row_an_operation_with_its_own_times() -> None:
    made = rows(described(*BOTH))
    found = [(r.role, r.operation, r.mean_ms, r.p95_ms, r.readings, r.share) for r in made]
    assert found == [
        ("edge", "stem.conv", 3.0, 6.0, 4, 0.75),
        ("edge", "chunk", 1.0, 2.0, 4, 0.25),
        ("server", "stem.conv", 0.5, 1.0, 9, 1.0),
        ("server", "chunk", 0.0, 0.0, 9, 0.0),
    ]
    assert (made[0].energy_joules, made[0].energy_kind) == (None, None)
    assert not made[0].emulated


def test_an_emulated_edge_is_slower_and_the_server_is_not() -> None:
    made = rows(described(*BOTH, slowdown=400))
    assert [(r.mean_ms, r.p95_ms, r.emulated) for r in made if r.operation == "stem.conv"] == [
        (12.0, 24.0, True),
        (0.5, 1.0, False),
    ]


def test_energy_is_that_of_a_frame_by_the_share_of_its_latency_and_called_modelled() -> None:
    window = EnergyWindow(
        of="cut",
        role=Role.EDGE,
        edge="edge-0",
        cut=CUTS[2].name,
        cut_index=CUTS[2].index,
        component="cpu",
        zone="package-0",
        source="rapl",
        kind=Kind.MEASURED,
        frames=10,
        seconds=2.0,
        joules=30.0,
        resolution_seconds=0.001,
        readings_per_second=4.0,
    )
    of = described(*BOTH, energy=(window,))
    latency = summarise(frame(RECORDS), of).cuts[2].total_ms
    assert latency is not None
    edge, _, server, _ = rows(of)
    assert edge.energy_kind == "modelled"
    assert edge.energy_joules == pytest.approx(3.0 * 3.0 / latency.mean)
    assert (server.energy_joules, server.energy_kind) == (None, None)


def test_sending_is_by_the_declared_energy_of_a_bit() -> None:
    of = described(*BOTH)
    power = {"power": {"computeMilliwatts": 2000, "nanojoulesPerBit": 50}}
    spec = of.manifest.spec
    edge = spec.edge.model_validate(power, by_alias=True)
    manifest = of.manifest.model_copy(update={"spec": spec.model_copy(update={"edge": edge})})
    first, _, server, _ = rows(of.model_copy(update={"manifest": manifest}))
    assert first.link_joules == pytest.approx(CUTS[1].bytes * 8 * 50e-9)
    assert first.energy_kind == "modelled"
    assert server.link_joules is None


def test_a_server_that_several_edges_asked_is_there_once_with_the_most_readings() -> None:
    made = rows(
        described(
            times(Role.EDGE, 3.0, 1.0),
            times(Role.SERVER, 0.5, 0.5),
            times(Role.EDGE, 4.0, 1.0, edge="edge-1"),
            times(Role.SERVER, 0.4, 0.4, edge="edge-1", readings=7),
        )
    )
    ends = {(r.role, r.edge): r.mean_ms for r in made if r.index == 0}
    assert ends == {("edge", "edge-0"): 3.0, ("edge", "edge-1"): 4.0, ("server", "edge-1"): 0.4}


def test_shapes_are_written_as_papers_do() -> None:
    assert shape(CONV) == "1x4x8x8"
    assert shape(SPLIT) == "1x2x8x8, 1x2x8x8"
    assert shape(CONV.model_copy(update={"shapes": ()})) == ""


def test_the_table_has_every_column_and_null_for_what_is_not_known() -> None:
    made = table(Layer, rows(described(*BOTH)))
    assert made.columns[:6] == ["schemaVersion", "uid", "role", "edge", "index", "operation"]
    assert made["flops"].to_list() == [13_824, None, 13_824, None]
    assert made.schema["energy_joules"] == pl.Float64
    assert made["energy_kind"].null_count() == 4
    assert table(Layer, []).columns == made.columns


def test_the_slowest_come_first() -> None:
    assert [r.operation for r in slowest(rows(described(times(Role.EDGE, 1.0, 3.0))), 1)] == [
        "chunk"
    ]


def test_a_results_folder_gets_the_table_and_the_figure_and_loses_them(tmp_path: Path) -> None:
    synthetic.write_study(tmp_path, RECORDS, described(*BOTH))
    write_results(tmp_path)
    files = [tmp_path / f"layers.{ending}" for ending in ("parquet", "csv")]
    files += [tmp_path / "figures" / f"layers.{ending}" for ending in ("svg", "png")]
    assert pl.read_parquet(files[0])["mean_ms"].to_list() == [3.0, 1.0, 0.5, 0.0]
    assert "stem.conv,stem.conv,Conv2d,3.0,6.0" in files[1].read_text("utf-8")
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "What each operation takes" in page
    assert "1×4×8×8" in page
    assert "energy, modelled" not in page
    environment.write_environment(tmp_path, described())
    write_results(tmp_path)
    assert not any(file.exists() for file in files)
    assert "What each operation takes" not in (tmp_path / "report.html").read_text("utf-8")


def test_the_figure_says_what_is_slowest() -> None:
    (plot,) = layer_plot(rows(described(*BOTH)))
    assert plot.alt == (
        "Bars, one an operation. edge: 2 operations take 4.00 ms, the slowest is stem.conv with "
        "3.00 ms (75 %); server: 2 operations take 0.50 ms, the slowest is stem.conv with 0.50 ms "
        "(100 %)."
    )
    assert layer_plot([]) == []


def test_joined_edges_keep_the_times_of_all(tmp_path: Path) -> None:
    for number in (0, 1):
        folder = tmp_path / edges.FOLDER / f"edge-{number}"
        folder.mkdir(parents=True)
        own = [r.model_copy(update={"edge": f"edge-{number}"}) for r in RECORDS]
        ends = times(Role.EDGE, 1.0, 1.0, edge=f"edge-{number}")
        synthetic.write_study(folder, own, described(ends))
    edges.join(tmp_path)
    joined = environment.read_environment(tmp_path).operation_times
    assert [one.edge for one in joined] == ["edge-0", "edge-1"]
