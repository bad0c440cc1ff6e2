"""The sensors of a worker: which are used, and how a server tells an edge of its own."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import torch

from splittracr.backends.torch.device import TorchDevice
from splittracr.experiment.contracts import SENSOR
from splittracr.experiment.spec import ResultsSpec
from splittracr.measure.energy.sampler import Sampler
from splittracr.measure.energy.sensor import Counter, Found, Kind, Reading, Zone
from splittracr.measure.instruments import Instruments, border_of, find, instruments
from splittracr.measure.usage import Sample, Watch
from splittracr.wire.messages import Metered, decode
from tests.measure.energy.test_service import serving
from tests.measure.energy.trees import rapl_zone, write
from tests.wire.frames import frame

ZONE = Zone("system", "pmic-rails", "pmic", Kind.ESTIMATED, tick=0.1)


def machine(root: Path, package: str) -> Path:
    """Files of a machine with one package."""
    return write(root, {"class/powercap/intel-rapl:0": rapl_zone(package, 1_000_000)})


def zones(found: Found) -> list[str]:
    return [zone.zone for sensor in found.sensors for zone in sensor.read()]


def test_a_service_stands_for_the_machines_own_files(tmp_path: Path) -> None:
    own, served = machine(tmp_path / "own", "package-0"), machine(tmp_path / "node", "package-7")

    async def main() -> list[str]:
        async with serving(served) as url:
            named = tmp_path / "sensor-url"
            named.write_text(url)
            return await asyncio.to_thread(lambda: zones(find(None, {SENSOR: str(named)}, own)))

    assert asyncio.run(main()) == ["package-7"]
    assert zones(find(None, {}, own)) == ["package-0"]


def test_without_an_answer_the_machines_own_files_are_read(tmp_path: Path) -> None:
    named = tmp_path / "sensor-url"
    named.write_text("http://127.0.0.1:9")  # nothing listens there
    found = find(None, {SENSOR: str(named)}, machine(tmp_path, "package-0"))
    assert zones(found) == ["package-0"]
    assert found.problems[0].startswith("sensor service http://127.0.0.1:9: ")


def test_energy_can_be_left_alone(tmp_path: Path) -> None:
    named = tmp_path / "sensor-url"
    named.write_text("http://127.0.0.1:9")
    off, cpu = ResultsSpec(energy="Off"), TorchDevice(torch.device("cpu"))
    with instruments(off, cpu, {SENSOR: str(named)}) as made:
        assert made.problems == ()
        assert made.energy.border().totals == {}


class Rails:
    """Shows the same joules all the time."""

    interval = 1.0

    def read(self) -> Mapping[Zone, Reading]:
        return {ZONE: Counter(7.5)}


def test_the_border_of_a_server_survives_the_wire() -> None:
    made = Instruments(Sampler([Rails()]), Watch(lambda: Sample(cpu_celsius=-3.0)))
    metered = made.metered(4)
    message, _ = decode(frame(metered))
    assert isinstance(message, Metered)
    assert message == metered
    border = border_of(message)
    (zone,) = border.totals
    assert zone == ZONE
    assert zone.tick == 0.1
    assert border.totals[zone].readings == 1
