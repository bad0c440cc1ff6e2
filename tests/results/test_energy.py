"""Energy of a frame at each cut, from windows with known joules."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from splittracr.experiment.energy import EnergyWindow, Kind
from splittracr.experiment.types import Tier
from splittracr.results import edges, energy, environment, journal, report, terminal
from splittracr.results.summary import CutFigures, Summary
from splittracr.results.tables import frame, summarise
from tests.results import synthetic

CUTS = synthetic.cuts(3)
RECORDS = synthetic.records(CUTS, samples=6)


def window(cut: int, joules: float | None, **changes: Any) -> EnergyWindow:
    """Ten frames in two seconds on the edge's processor."""
    fields: dict[str, Any] = {
        "of": "cut",
        "role": "edge",
        "edge": "edge-0",
        "cut": CUTS[cut].name,
        "cut_index": CUTS[cut].index,
        "component": "cpu",
        "zone": "package-0",
        "source": "rapl",
        "kind": "measured",
        "frames": 10,
        "seconds": 2.0,
        "joules": joules,
        "resolution_seconds": 0.001,
        "readings_per_second": 4.0,
    }
    return EnergyWindow.model_validate(fields | changes)


GPU = {"role": "server", "component": "gpu", "zone": "gpu-0", "source": "nvml"}
DRAM = {"component": "memory", "zone": "dram of package-0"}
RAIL = {"component": "gpu", "zone": "VDD_GPU_SOC", "source": "ina3221"}


def summary(*windows: EnergyWindow, power: dict[str, int] | None = None) -> Summary:
    made = synthetic.environment(CUTS, energy=windows)
    spec = made.manifest.spec
    edge = spec.edge.model_validate({"power": power} if power else {}, by_alias=True)
    manifest = made.manifest.model_copy(update={"spec": spec.model_copy(update={"edge": edge})})
    return summarise(frame(RECORDS), made.model_copy(update={"manifest": manifest}))


def of_zone(cut: CutFigures, zone: str) -> float | None:
    (found,) = [one.joules_per_frame for one in cut.energy if one.zone == zone]
    return found


def test_joules_of_a_frame_are_those_of_the_window_over_its_frames() -> None:
    first, second, _ = summary(
        window(0, 30.0), window(0, 5.0, **DRAM), window(1, 400.0, **GPU), window(0, 7.0, **RAIL)
    ).cuts
    assert of_zone(first, "package-0") == pytest.approx(3.0)
    assert first.energy[0].watts == pytest.approx(15.0)
    assert of_zone(second, "gpu-0") == pytest.approx(40.0)
    # The rail is part of no sum: it may contain others.
    whole = energy.of_machine(first.energy, "edge")
    assert whole is not None
    assert whole.joules_per_frame == pytest.approx(3.5)
    assert (whole.zone, whole.source) == ("package-0, dram of package-0", "rapl")
    assert energy.of_machine(first.energy, "server") is None


def test_windows_of_several_edges_are_one_mean() -> None:
    found = summary(window(0, 30.0), window(0, 10.0, edge="edge-1", frames=30, seconds=8.0))
    (one,) = found.cuts[0].energy
    assert (one.frames, one.seconds) == (40, 10.0)
    assert one.joules_per_frame == pytest.approx(1.0)
    assert one.watts == pytest.approx(4.0)


def test_a_window_that_was_too_short_has_no_joules_and_says_so() -> None:
    note = "too short to measure: 0.2 s, the sensor changes every 0.1 s"
    found = summary(window(0, None, note=note, **GPU))
    (one,) = found.cuts[0].energy
    assert (one.joules_per_frame, one.note) == (None, note)
    assert energy.of_machine(found.cuts[0].energy, "server") is None


def test_without_sensor_and_power_there_is_no_energy() -> None:
    assert [cut.energy for cut in summary().cuts] == [(), (), ()]
    # Neither from what is no window of the cut.
    idle = window(0, 9.0).model_copy(update={"of": "idle", "cut": None, "cut_index": None})
    assert summary(idle).cuts[0].energy == ()


def test_declared_power_is_modelled_from_mean_times() -> None:
    power = {"computeMilliwatts": 5000, "idleMilliwatts": 1000, "nanojoulesPerBit": 50}
    first, *_ = summary(power=power).cuts
    assert first.bytes_up is not None
    assert first.bytes_down is not None
    waits = first.stages_ms["edge_wait"]
    edge, link, server = (first.tiers_ms[tier] for tier in Tier)
    expected = 5 * (edge - waits) + link + server + waits
    assert of_zone(first, "edge") == pytest.approx(expected / 1e3)
    bits = (first.bytes_up + first.bytes_down) * 8
    assert of_zone(first, "link") == pytest.approx(bits * 50e-9)
    assert {one.kind for one in first.energy} == {Kind.MODELLED}


def test_a_sensor_leaves_only_the_link_to_be_modelled() -> None:
    power = {"computeMilliwatts": 5000, "nanojoulesPerBit": 50}
    first, *_ = summary(window(0, 30.0), power=power).cuts
    assert [(one.zone, one.kind) for one in first.energy] == [
        ("package-0", Kind.MEASURED),
        ("link", Kind.MODELLED),
    ]


def test_the_terminal_names_source_and_kind() -> None:
    console = Console(file=io.StringIO(), width=80)
    console.print(terminal.energy_table(summary(window(0, 0.412))))
    assert isinstance(console.file, io.StringIO)
    line = next(text for text in console.file.getvalue().splitlines() if CUTS[0].name in text)
    assert line.split() == [CUTS[0].name, "41.2", "mJ", "rapl,", "measured", "–", "–"]


def test_the_report_shows_windows_and_why_there_are_none(tmp_path: Path) -> None:
    note = "too short to measure: 0.2 s, the sensor changes every 0.1 s"
    synthetic.write_study(tmp_path, RECORDS, synthetic.environment(CUTS))
    made = environment.read_environment(tmp_path)
    changes = {
        "energy": (window(0, 30.0), window(0, None, note=note, **GPU)),
        "energy_problems": ("/sys/class/powercap/intel-rapl:1/energy_uj: Permission denied",),
        "server": made.edge,
    }
    environment.write_environment(tmp_path, made.model_copy(update=changes))
    report.write_results(tmp_path)
    text = (tmp_path / report.FILE).read_text()
    for said in (
        "rapl, measured",
        "3 J",
        note,
        "Permission denied",
        "Both ends ran on one machine",
    ):
        assert said in text


def test_what_several_edges_measured_is_joined(tmp_path: Path) -> None:
    for edge, joules in (("edge-0", 30.0), ("edge-1", 50.0)):
        folder = tmp_path / edges.FOLDER / edge
        mine = [one.model_copy(update={"edge": edge}) for one in RECORDS]
        synthetic.write_study(folder, mine, synthetic.environment(CUTS))
        made = environment.read_environment(folder)
        found = (window(0, joules, edge=edge),)
        environment.write_environment(folder, made.model_copy(update={"energy": found}))
    edges.join(tmp_path)
    joined = environment.read_environment(tmp_path).energy
    assert [(one.edge, one.joules) for one in joined] == [("edge-0", 30.0), ("edge-1", 50.0)]
    assert len(journal.read(tmp_path / journal.FILE)) == 2 * len(RECORDS)
