"""Readers on trees of files as real machines have them, a fake NVML and a fake vcgencmd."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from splittracr.experiment.energy import Kind
from splittracr.measure.energy import battery, ina3221, nvml, pmic, rapl
from splittracr.measure.energy.sensor import Counter, Found, Power, Reading, Zone
from tests.measure.energy.fake_nvml import FakeNvml
from tests.measure.energy.trees import rapl_zone, write


def readings(found: Found) -> dict[str, Reading]:
    """All readings by component and zone."""
    return {
        f"{zone.component}/{zone.zone}": reading
        for sensor in found.sensors
        for zone, reading in sensor.read().items()
    }


def watts(found: Found) -> dict[str, float]:
    """All readings of power in watts."""
    read = readings(found)
    return {name: power.watts for name, power in read.items() if isinstance(power, Power)}


# ------------------------------------------------------------------------------------------- RAPL


def laptop(root: Path) -> Path:
    powercap = "class/powercap/"
    return write(
        root,
        {
            powercap + "intel-rapl:0": rapl_zone("package-0", 5_000_000),
            powercap + "intel-rapl:0:0": rapl_zone("core", 4_000_000),
            powercap + "intel-rapl:0:1": rapl_zone("uncore", 500_000),
            powercap + "intel-rapl:0:2": rapl_zone("dram", 700_000),
            powercap + "intel-rapl:1": rapl_zone("psys", 9_000_000),
            powercap + "intel-rapl-mmio:0": rapl_zone("package-0", 5_100_000),
        },
    )


def test_rapl_leaves_out_nested_zones_and_duplicates(tmp_path: Path) -> None:
    assert readings(rapl.find(laptop(tmp_path))) == {
        "cpu/package-0": Counter(5.0, 262_143.32885),
        "memory/dram of package-0": Counter(0.7, 262_143.32885),
        "system/psys": Counter(9.0, 262_143.32885),
    }


def test_rapl_by_memory_mapped_registers_alone_is_used(tmp_path: Path) -> None:
    zone = {"class/powercap/intel-rapl-mmio:0": rapl_zone("package-0", 1_000_000)}
    assert readings(rapl.find(write(tmp_path, zone))) == {
        "cpu/package-0": Counter(1.0, 262_143.32885)
    }


def test_two_sockets_are_two_zones(tmp_path: Path) -> None:
    powercap = "class/powercap/intel-rapl:"
    folders = {
        f"{powercap}{i}": rapl_zone(f"package-{i}", (i + 1) * 1_000_000) for i in range(2)
    } | {f"{powercap}{i}:0": rapl_zone("dram", 100_000) for i in range(2)}
    assert list(readings(rapl.find(write(tmp_path, folders)))) == [
        "cpu/package-0",
        "memory/dram of package-0",
        "cpu/package-1",
        "memory/dram of package-1",
    ]


def test_rapl_that_may_not_be_read_is_a_problem_not_a_zero(tmp_path: Path) -> None:
    root = laptop(tmp_path)
    file = root / "class/powercap/intel-rapl:0/energy_uj"
    file.unlink()
    file.mkdir()  # unreadable for root, too
    found = rapl.find(root)
    assert found.problems == (f"{file}: Is a directory",)
    # The other registers of the package are still there.
    assert readings(found)["cpu/package-0"] == Counter(5.1, 262_143.32885)


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """As another user than root, who reads every file."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_rapl_of_another_user_is_a_problem() -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to other users
        root = laptop(Path(folder))
        root.chmod(0o755)
        files = [root / f"class/powercap/intel-rapl{name}/energy_uj" for name in (":0", ":1")]
        files[0].chmod(0o000)
        files[1].chmod(0o000)
        with unprivileged():
            found = rapl.find(root)
            assert found.problems == tuple(f"{file}: Permission denied" for file in files)
            assert list(readings(found)) == ["memory/dram of package-0", "cpu/package-0"]


def test_a_zone_that_vanishes_is_absent(tmp_path: Path) -> None:
    root = laptop(tmp_path)
    found = rapl.find(root)
    (root / "class/powercap/intel-rapl:1/energy_uj").unlink()
    assert "system/psys" not in readings(found)


@pytest.mark.parametrize("find", [rapl.find, ina3221.find, battery.find])
def test_a_machine_without_sensors_has_none(tmp_path: Path, find: Any) -> None:
    assert find(tmp_path) == Found()


# ----------------------------------------------------------------------------------------- Jetson

OLD = "bus/i2c/drivers/ina3221x/1-0040/iio:device0"
NEW = "bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"


def test_the_old_jetson_driver(tmp_path: Path) -> None:
    nano = {
        "rail_name_1": "POM_5V_IN",
        "in_power1_input": "2345",
        "rail_name_2": "POM_5V_GPU",
        "in_voltage2_input": "5000",
        "in_current2_input": "40",
        "rail_name_3": "POM_5V_CPU",
        "in_power3_input": "512",
    }
    found = ina3221.find(write(tmp_path, {OLD: nano}))
    assert watts(found) == pytest.approx(
        {"system/POM_5V_IN": 2.345, "gpu/POM_5V_GPU": 0.2, "cpu/POM_5V_CPU": 0.512}
    )


def test_the_jetson_driver_of_linux(tmp_path: Path) -> None:
    orin = {
        "in1_label": "VDD_IN",
        "in1_input": "5032",
        "curr1_input": "1184",
        "in2_label": "VDD_CPU_GPU_CV",
        "in2_input": "5024",
        "curr2_input": "208",
        "in3_label": "NC",
        "in3_input": "0",
        "curr3_input": "0",
        "in7_label": "sum of shunt voltages",
    }
    found = ina3221.find(write(tmp_path, {NEW: orin}))
    assert watts(found) == pytest.approx(
        {"system/VDD_IN": 5.032 * 1.184, "soc/VDD_CPU_GPU_CV": 5.024 * 0.208}
    )


def test_the_power_of_the_driver_is_preferred(tmp_path: Path) -> None:
    files = {"in1_label": "VDD_IN", "in1_input": "5000", "curr1_input": "1", "power1_input": "7e6"}
    found = ina3221.find(write(tmp_path, {NEW: files}))
    assert watts(found) == pytest.approx({"system/VDD_IN": 7.0})


def test_a_rail_without_a_current_is_absent(tmp_path: Path) -> None:
    files = {"in1_label": "VDD_IN", "in1_input": "5032"}
    assert ina3221.find(write(tmp_path, {NEW: files})) == Found()


@pytest.mark.parametrize(
    ("rail", "component"),
    [
        ("VDD_IN", "system"),
        ("VIN_SYS_5V0", "other"),
        ("VDD_SYS_GPU", "gpu"),
        ("POM_5V_CPU", "cpu"),
        ("VDD_CPU_CV", "cpu"),
        ("VDD_GPU_SOC", "soc"),
        ("VDDQ_VDD2_1V8AO", "other"),
        ("VDDRQ", "memory"),
        ("SYSTEM", "system"),
    ],
)
def test_rails_by_name(rail: str, component: str) -> None:
    assert ina3221.component(rail) == component


# ------------------------------------------------------------------------------------------- NVML


GPUS: list[tuple[int | None, int | None]] = [(12_500, 70_000), (None, 31_500), (None, None)]


@pytest.mark.parametrize(
    ("uuid", "expected"),
    [
        ("000", {"gpu/gpu-0": Counter(12.5)}),
        ("GPU-000", {"gpu/gpu-0": Counter(12.5)}),
        ("001", {"gpu/gpu-1": Power(31.5)}),
    ],
)
def test_the_energy_counter_is_preferred_to_power(uuid: str, expected: dict[str, Reading]) -> None:
    assert readings(nvml.find(uuid, FakeNvml(GPUS))) == expected


@pytest.mark.parametrize(
    ("uuid", "driver", "problem"),
    [
        ("002", True, "GPU 2 reports neither energy nor power"),
        ("003", True, "NVML lists no such GPU"),
        ("000", False, "Driver Not Loaded"),
    ],
)
def test_a_gpu_without_energy_is_a_problem(uuid: str, driver: bool, problem: str) -> None:
    found = nvml.find(uuid, FakeNvml(GPUS, driver=driver))
    assert found.sensors == ()
    assert problem in found.problems[0]


def test_a_gpu_that_falls_off_the_bus_is_absent() -> None:
    api = FakeNvml([(12_500, 70_000)])
    found = nvml.find("000", api)
    api.gpus = [(None, None)]
    assert readings(found) == {}


# ------------------------------------------------------------------------------- Pi and batteries

PI5 = """
 3V7_WL_SW_A current(0)=0.10000000A
   3V3_SYS_A current(1)=0.20000000A
  VDD_CORE_A current(7)=2.00000000A
 3V7_WL_SW_V volt(8)=3.70000000V
   3V3_SYS_V volt(9)=3.30000000V
  VDD_CORE_V volt(15)=0.80000000V
     EXT5V_V volt(24)=5.10000000V
"""


def test_the_rails_of_a_pi_5_are_an_estimate() -> None:
    found = pmic.find(lambda: PI5)
    assert watts(found) == pytest.approx({"system/pmic-rails": 0.37 + 0.66 + 1.6})
    (zone,) = found.sensors[0].read()
    assert zone == Zone("system", "pmic-rails", "pmic", Kind.ESTIMATED, tick=0.1)


def test_rails_without_numbers_are_read_too() -> None:
    assert pmic.parse("VDD_CORE_V=0.8750V\nVDD_CORE_A=2.0000A\n") == pytest.approx(1.75)


@pytest.mark.parametrize("text", [None, "", 'error=1 error_msg="Command not registered"'])
def test_a_pi_4_has_no_rails(text: str | None) -> None:
    assert pmic.find(lambda: text) == Found()


@pytest.mark.parametrize(
    "files",
    [
        {"power_now": "7500000"},
        {"current_now": "-1500000", "voltage_now": "5000000"},
    ],
)
def test_a_battery_in_use_gives_the_power_of_the_machine(
    tmp_path: Path, files: dict[str, str]
) -> None:
    folder = "class/power_supply/BAT0"
    root = write(tmp_path, {folder: {"type": "Battery", "status": "Discharging", **files}})
    found = battery.find(root)
    assert readings(found) == {"system/BAT0": Power(7.5)}
    write(root, {folder: {"status": "Charging"}})
    assert readings(found) == {}


def test_the_battery_of_a_mouse_does_not_count(tmp_path: Path) -> None:
    files = {"type": "Battery", "scope": "Device", "status": "Discharging", "power_now": "1"}
    assert battery.find(write(tmp_path, {"class/power_supply/hid-1": files})) == Found()
