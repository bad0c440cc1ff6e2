"""The sensor service and its reader, over recorded trees of files."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from splittracr.experiment.energy import Kind
from splittracr.measure.energy import rapl, service
from splittracr.measure.energy.account import Account
from splittracr.measure.energy.sampler import Sampler
from splittracr.measure.energy.sensor import Counter, Found, Zone
from splittracr.measure.health import serve
from tests.measure.energy.trees import rapl_zone, write

PACKAGE = "class/powercap/intel-rapl:0"
ZONE = Zone("cpu", "package-0", "rapl", Kind.MEASURED, tick=0.001)


@asynccontextmanager
async def serving(root: Path) -> AsyncIterator[str]:
    """The URL of a service that reads the files below `root`."""
    found = rapl.find(root)
    app = service.app(Sampler(found.sensors), found.problems)
    runner, url = await serve(app, "127.0.0.1", 0, "port")
    try:
        yield url
    finally:
        await runner.cleanup()


def test_joules_of_a_node_arrive_as_its_files_have_them(tmp_path: Path) -> None:
    async def main() -> list[float]:
        write(tmp_path, {PACKAGE: rapl_zone("package-0", 5_000_000)})
        async with serving(tmp_path) as url:
            (remote,) = (await asyncio.to_thread(service.find, url)).sensors
            joules = []
            for microjoules in (6_000_000, 9_500_000):
                write(tmp_path, {PACKAGE: rapl_zone("package-0", microjoules)})
                ((zone, reading),) = (await asyncio.to_thread(remote.read)).items()
                assert zone == ZONE
                assert isinstance(reading, Counter)
                joules.append(reading.joules)
            return joules

    assert asyncio.run(main()) == pytest.approx([1.0, 4.5])


def test_a_counter_that_was_reset_behind_the_service_is_a_gap(tmp_path: Path) -> None:
    async def main() -> int:
        write(tmp_path, {PACKAGE: rapl_zone("package-0", 5_000_000)})
        kept = Account()
        async with serving(tmp_path) as url:
            remote = service.Remote(url)
            for now, microjoules in enumerate([5_000_000, 7_000_000, 1_000_000, 2_000_000]):
                write(tmp_path, {PACKAGE: rapl_zone("package-0", microjoules)})
                kept.add(now, await asyncio.to_thread(remote.read))
        return kept.snapshot(4.0).totals[ZONE].gaps

    assert asyncio.run(main()) == 1


def test_a_node_tells_why_it_has_no_joules(tmp_path: Path) -> None:
    async def main() -> Found:
        (tmp_path / PACKAGE / "energy_uj").mkdir(parents=True)  # unreadable, also for root
        write(tmp_path, {PACKAGE: {"name": "package-0"}})
        async with serving(tmp_path) as url:
            return await asyncio.to_thread(service.find, url)

    found = asyncio.run(main())
    assert found.sensors == ()
    assert "Is a directory" in found.problems[0]


def test_a_service_that_is_away_is_a_problem_and_no_reading(tmp_path: Path) -> None:
    async def address() -> str:
        async with serving(tmp_path) as url:
            return url

    url = asyncio.run(address())
    assert service.Remote(url).read() == {}
    assert service.find(url).problems[0].startswith(f"sensor service {url}: ")
    file = tmp_path / "sensor-url"
    assert service.find_named(file) == Found()
    file.write_text(url + "\n")
    assert service.find_named(file).problems == service.find(url).problems


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"zones": [{"zone": "x"}]}'])
def test_a_page_of_something_else_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"Expecting value|no page of a sensor service"):
        service.parse(body)
