"""Joins the results of several edges in one results folder."""

import shutil
from pathlib import Path

from splittracr.results import environment, journal, labels

FOLDER = "edges"
"""Below the results folder: one folder an edge."""


def join(out: Path) -> None:
    """Join the records of all edges in `out`, with the first edge's environment, labels and
    pictures.

    The environment gets the runs of all edges, and their energy, operations and machines. Does
    nothing if no edge has a journal. Raises InvalidInput for a damaged one.
    """
    folders = [file.parent for file in sorted((out / FOLDER).glob(f"*/{journal.FILE}"))]
    if not folders:
        return
    with journal.Journal(out / journal.FILE) as joined:
        for folder in folders:
            for record in journal.read(folder / journal.FILE):
                joined.append(record)
    described = [environment.read_environment(folder) for folder in folders]
    together = {
        "runs": tuple(run for one in described for run in one.runs),
        "energy": tuple(window for one in described for window in one.energy),
        "operation_times": tuple(times for one in described for times in one.operation_times),
        "usage": tuple(usage for one in described for usage in one.usage),
    }
    environment.write_environment(out, described[0].model_copy(update=together))
    if (folders[0] / labels.FILE).is_file():
        shutil.copy(folders[0] / labels.FILE, out / labels.FILE)
    if (folders[0] / "pictures").is_dir():
        shutil.copytree(folders[0] / "pictures", out / "pictures", dirs_exist_ok=True)
