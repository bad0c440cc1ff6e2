"""Studies and their results, as data frames and figures."""

import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splittracr.api.arguments import arguments, frame
from splittracr.cli import inputs, workers
from splittracr.experiment import manifest
from splittracr.experiment.errors import InvalidInput, SplittracrError
from splittracr.experiment.explain import short
from splittracr.experiment.spec import SplitExperiment
from splittracr.results import report, words
from splittracr.results.environment import Environment
from splittracr.results.plots import Plot
from splittracr.results.summary import Summary

if TYPE_CHECKING:
    import pandas as pd

_NOT_IN_TABLE = {"energy", "codecs", "finished_on"}


def run(
    study: str | Path | Mapping[str, Any] | SplitExperiment,
    *,
    out: str | Path | None = None,
    weights: str | None = None,
    overrides: Mapping[str, object] | None = None,
    quiet: bool = False,
) -> "Results":
    """Run a study on this machine as `splittracr run` does, and return its results.

    `study` is the path of a manifest, or a manifest as a mapping. Relative paths in it start at its
    folder, or at the current one. `weights` replaces `spec.model.weights`, and `overrides` other
    fields by path, such as `{"spec.workload.samples": 20}`. `out` is a new folder, by default
    `runs/NAME-TIME`. The output of the command is printed here unless `quiet`. The study has its
    own processes, which do not see classes that only this process has.

    Raises InvalidInput that names the field, and SplittracrError with the reason if the study
    fails; its records stay in the folder.
    """
    changes = [f"{path}={_json(path, value)}" for path, value in (overrides or {}).items()]
    with arguments({"FILE": "study"}):
        if isinstance(study, str | Path):
            experiment = inputs.load(Path(study), changes, weights)
            base = Path(study).resolve().parent
        else:
            written = study if isinstance(study, Mapping) else _object(study)
            changes += inputs.of_weights(weights)
            experiment = manifest.parse(_json("study", dict(written)), changes, "study")
            base = Path.cwd()
        folder = inputs.results_folder(None if out is None else Path(out), experiment.metadata.name)
    _run(experiment, base, folder.resolve(), quiet=quiet)
    return results(folder)


def _object(study: SplitExperiment) -> dict[str, Any]:
    if not isinstance(study, SplitExperiment):
        raise InvalidInput("study", short(study), "a path, a mapping or a SplitExperiment")
    return study.model_dump(mode="json", by_alias=True, exclude_none=True)


def _json(field: str, value: object) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError) as error:
        expected = f"text, numbers, true, false, lists and mappings ({error})"
        raise InvalidInput(field, short(value), expected) from error


def _run(experiment: SplitExperiment, base: Path, folder: Path, *, quiet: bool) -> None:
    """Run the command in its own process: a notebook's process already has an event loop."""
    command = [sys.executable, "-P", "-m", "splittracr", "run", "-", "--out", str(folder)]
    said = []
    with subprocess.Popen(
        command,
        cwd=base,
        env=workers.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(manifest.dump(experiment))
            process.stdin.close()
            for line in process.stdout:
                said.append(line)
                if not quiet:
                    print(line, end="")
            code = process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            process.wait()
            raise
    if code != 0:
        last = "".join(said).rpartition("Error ")[2].strip()
        raise SplittracrError(last or f"the study ended with status {code}")


def results(path: str | Path) -> "Results":
    """The results in a folder that `run`, `splittracr run` or `splittracr results` has written.

    Tables and figures are derived from its `records.jsonl` and `environment.json`, so that an
    interrupted study can be read, too. Raises InvalidInput if one of the two is missing or damaged.
    """
    folder = Path(path)
    return Results(folder, report.read_study(folder))


class Results:
    """The results of a study. A notebook displays headline and summary.

    Times are milliseconds, sizes are bytes, shares are from 0 to 1; a value that was not measured
    is missing. `docs/results.md` describes every column.
    """

    def __init__(self, folder: Path, study: report.Study) -> None:
        self.folder, self._study = folder, study

    @property
    def headline(self) -> str:
        """The result in a sentence."""
        return words.headline(self._study.figures)

    @property
    def records(self) -> "pd.DataFrame":
        """One row a sample, with the columns of `records.csv`."""
        return frame(self._study.every.to_dicts())

    @property
    def summary(self) -> "pd.DataFrame":
        """One row a cut, in the order of the model: the figures of `summary.json`."""
        return frame(self._cuts(exclude=_NOT_IN_TABLE))

    @property
    def energy(self) -> "pd.DataFrame":
        """One row a cut and zone: the energy of a frame; empty without sensor or declared power."""
        return frame(
            [
                {"cut": cut["cut"], "index": cut["index"], **zone}
                for cut in self._cuts()
                for zone in cut["energy"]
            ]
        )

    @property
    def figures(self) -> dict[str, Plot]:
        """The report's figures by name. Each has `figure`, a matplotlib figure, and `caption`."""
        return {plot.name: plot for plot in self._study.plots}

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.folder / report.FILE

    @property
    def details(self) -> Summary:
        """The content of `summary.json`."""
        return self._study.figures

    @property
    def environment(self) -> Environment:
        """Manifest, machines, versions and runs of the study."""
        return self._study.environment

    def _cuts(self, exclude: set[str] | None = None) -> Sequence[dict[str, Any]]:
        return [cut.model_dump(mode="json", exclude=exclude) for cut in self._study.figures.cuts]

    def __repr__(self) -> str:
        return f"{self.headline} ({self.folder})"

    def _repr_html_(self) -> str:
        from markupsafe import escape

        table = self.summary
        shown = [
            "cut",
            "n",
            "p50_ms",
            "p95_ms",
            "tiers_ms.edge",
            "tiers_ms.link",
            "tiers_ms.server",
        ]
        columns = [name for name in (*shown, "bytes_up", "accuracy.top1") if name in table]
        html = table[columns].to_html(
            index=False, float_format="{:,.2f}".format, na_rep=words.NOTHING
        )
        return f"<p><b>{escape(self.headline)}</b></p>{html}<p>{escape(self.folder)}</p>"
