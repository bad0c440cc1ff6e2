"""`splittracr sensor` as a process, over a recorded tree of files."""

import subprocess
import sys
from pathlib import Path

from splittracr.experiment.contracts import ENERGY_PATH
from splittracr.measure.energy import service
from splittracr.measure.energy.sensor import Zone
from tests.measure.energy.trees import rapl_zone, write


def test_it_serves_the_joules_of_its_files_until_it_is_stopped(tmp_path: Path) -> None:
    write(tmp_path, {"class/powercap/intel-rapl:0": rapl_zone("package-0", 5_000_000)})
    command = ["sensor", "--host", "127.0.0.1", "--port", "0", "--sys", str(tmp_path)]
    with subprocess.Popen(
        [sys.executable, "-m", "splittracr", *command], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        url, _, zones = line.strip().partition(": ")
        assert zones == "cpu package-0 (rapl)"
        (zone,) = service.Remote(url.removesuffix(ENERGY_PATH)).read()
        assert zone == Zone("cpu", "package-0", "rapl")
        process.terminate()
        assert process.wait(30) == 0
