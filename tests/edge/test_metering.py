"""Windows of energy at both ends, over real connections and sensors that are made up."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack

import pytest

from splittracr.edge.metering import Meter, Spent, measured_power
from splittracr.experiment.energy import EnergyWindow, Kind
from splittracr.experiment.spec import PowerSpec
from splittracr.measure.energy.account import Account, Snapshot
from splittracr.measure.energy.sampler import Sampler
from splittracr.measure.energy.sensor import Counter, Power, Reading, Zone
from splittracr.measure.instruments import NO_INSTRUMENTS, Instruments
from splittracr.measure.usage import Sample, Watch
from splittracr.server.worker import Server
from tests.workers.pair import Tensors, edge_worker, opened, proven, run_frames, serving, spec

PACKAGE = Zone("cpu", "package-0", "rapl")
GPU = Zone("gpu", "gpu-0", "nvml", tick=0.1)


class Steady:
    """A zone that draws the same power all the time."""

    interval = 0.01

    def __init__(self, zone: Zone, watts: float) -> None:
        self._zone, self._watts = zone, watts

    def read(self) -> Mapping[Zone, Reading]:
        return {self._zone: Counter(self._watts * time.monotonic())}


def instruments(zone: Zone, watts: float) -> Instruments:
    return Instruments(Sampler([Steady(zone, watts)]), Watch(Sample))


def by_role(windows: tuple[EnergyWindow, ...], of: str) -> dict[tuple[str, str | None], float]:
    """Mean watts of the windows of a kind, by role and cut."""
    found: dict[tuple[str, str | None], float] = {}
    for one in windows:
        if one.of == of:
            assert one.joules is not None, one.note
            found[one.role, one.cut] = one.joules / one.seconds
    return found


def test_each_cut_of_a_sweep_has_a_window_at_both_ends() -> None:
    async def main() -> Meter:
        of = spec()
        mine, theirs = proven(of), proven(of)
        server = Server(theirs, of, None, instruments=instruments(GPU, 200))
        async with AsyncExitStack() as stack:
            url, _ = await stack.enter_async_context(serving(server))
            link = await stack.enter_async_context(opened(url, mine, of))
            worker = edge_worker(mine, of, Tensors(), link)
            stack.callback(worker.close)
            sensors = instruments(PACKAGE, 30)
            meter = Meter("edge-0", sensors, link, Spent(sensors.energy.joules))
            await meter.idle()
            cuts = [mine.proof.cuts[1], mine.proof.cuts[mine.proof.last]]
            await meter.measure(cuts, worker.repeat)
            return meter

    meter = asyncio.run(main())
    windows = meter.windows
    assert by_role(windows, "idle") == pytest.approx(
        {("edge", None): 30, ("server", None): 200}, rel=0.1
    )
    names = {one.cut for one in windows if one.of == "cut"}
    assert len(names) == 2
    watts = by_role(windows, "cut")
    assert watts == pytest.approx(
        {(role, cut): w for role, w in (("edge", 30), ("server", 200)) for cut in names}, rel=0.1
    )
    for one in windows:
        if one.of == "cut":
            assert one.frames > 0
            assert one.joules_per_frame == pytest.approx((one.joules or 0) / one.frames)
            # Ten ticks of the slowest sensor, which is the server's.
            assert one.seconds >= 1
    assert {one.resolution_seconds for one in windows} == {0.001, 0.1}
    assert [usage.role for usage in meter.usage()] == ["edge", "server"]


def test_without_a_sensor_no_time_is_spent() -> None:
    async def repeat(cut: object, seconds: float) -> int:
        raise AssertionError("there is nothing to measure")

    async def main() -> Meter:
        meter = Meter("edge-0", NO_INSTRUMENTS, None, Spent(dict))
        await meter.idle()
        start = await meter.snapshots()
        await meter.close(start, None)
        await meter.measure(proven(spec()).proof.cuts, repeat)
        return meter

    assert asyncio.run(main()).windows == ()


def test_a_short_study_says_that_it_was_too_short() -> None:
    async def main() -> Meter:
        battery = Zone("system", "BAT0", "battery", tick=60.0)
        sensors = instruments(battery, 12)
        meter = Meter("edge-0", sensors, None, Spent(sensors.energy.joules))
        start = await meter.snapshots()
        of = spec()
        own = proven(of)
        (done,) = (await run_frames(None, own, of, [own.proof.last], 1)).frames
        meter.count(done.result)
        await meter.close(start, None)
        return meter

    (window,) = asyncio.run(main()).windows
    assert (window.of, window.joules, window.joules_per_frame) == ("study", None, None)
    assert window.note.startswith("too short to measure")


DECLARED = PowerSpec(
    compute_milliwatts=5000, transmit_milliwatts=None, idle_milliwatts=1000, nanojoules_per_bit=50
)
STAGES = {"load": 2.0, "head": 8.0, "edge_wait": 1.0, "link": 30.0}


def test_declared_power_gives_modelled_joules() -> None:
    spent = Spent(dict, DECLARED)
    assert spent.total() is None  # not 0: nothing is known before the first frame
    spent.frame(STAGES, total_ms=60.0, nbytes=10_000)
    edge = Zone("system", "edge", "declared", Kind.MODELLED)
    link = Zone("link", "link", "declared", Kind.MODELLED)
    assert spent.joules() == pytest.approx(
        {edge: (5 * 10 + 1 * 30 + 1 * 20) / 1e3, link: 10_000 * 8 * 50e-9}
    )
    assert spent.total() == pytest.approx(0.1)


def test_sensors_win_over_declared_power() -> None:
    counted = {PACKAGE: 100.0}
    spent = Spent(lambda: dict(counted), DECLARED)
    counted[PACKAGE] = 130.0
    spent.frame(STAGES, total_ms=60.0, nbytes=10_000)
    assert spent.total() == pytest.approx(30.0)
    assert {zone.component for zone in spent.joules()} == {"cpu", "link"}


def test_without_either_there_is_no_energy() -> None:
    spent = Spent(dict)
    spent.frame(STAGES, total_ms=60.0, nbytes=10_000)
    assert (spent.joules(), spent.total()) == ({}, None)


class Machine:
    """A machine whose clock moves as it works or waits, and that draws 20 W or 5 W meanwhile."""

    def __init__(self) -> None:
        self._now, self._account = 0.0, Account()
        self._joules = 0.0

    def snapshot(self) -> Snapshot:
        self._account.add(self._now, {PACKAGE: Counter(self._joules)})
        return self._account.snapshot(self._now)

    def work(self) -> None:
        self._pass(0.3, 20)

    def wait(self, seconds: float) -> None:
        self._pass(seconds, 5)

    def _pass(self, seconds: float, watts: float) -> None:
        self._now += seconds
        self._joules += seconds * watts


def test_power_is_measured_at_work_and_at_rest() -> None:
    machine = Machine()
    found = measured_power(machine.snapshot, machine.work, machine.wait)
    assert found is not None
    assert [found.compute_watts, found.idle_watts] == pytest.approx([20, 5])
    assert (found.source, found.kind) == ("package-0 by rapl", Kind.MEASURED)


def test_a_machine_without_a_sensor_has_no_power() -> None:
    rail = Zone("gpu", "VDD_GPU_SOC", "ina3221", tick=0.01)  # a part of the board
    kept = Account()
    kept.add(0.0, {rail: Power(3.0)})

    def work() -> None:
        raise AssertionError("there is nothing to measure")

    assert measured_power(lambda: kept.snapshot(0.0), work, time.sleep) is None
