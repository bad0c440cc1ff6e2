"""Files and modules that a manifest names and this machine needs."""

from collections.abc import Iterator
from pathlib import Path

from splittracr.data import importing
from splittracr.data.home import expanded
from splittracr.experiment.contracts import DECLARED
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.spec import ExperimentSpec


def check(spec: ExperimentSpec, base: Path) -> None:
    """Raise InvalidInput that names everything that is missing on an edge with the folder
    `base`.
    """
    importing.look_in(base)
    lacking = [f"{field} {value} (no such {kind})" for field, value, kind in _lacking(spec, base)]
    if lacking:
        expected = f"the folder with what the manifest names. Missing: {', '.join(lacking)}"
        raise InvalidInput("--base", str(base), expected)


def _lacking(spec: ExperimentSpec, base: Path) -> Iterator[tuple[str, str, str]]:
    """Field, value and kind of each missing item."""
    link, models, cascade = spec.transport.link, spec.edge_models, spec.partition.cascade
    exits = None if cascade is None or cascade.exits == DECLARED else cascade.exits
    adaptive = spec.partition.adaptive
    rate = None if adaptive is None else adaptive.accuracy_file
    files = {
        **{f"{place}.weightsFile": model.weights_file for place, model in models.items()},
        "spec.dataset.annotations": spec.dataset.annotations,
        "spec.dataset.classNames": spec.dataset.class_names,
        "spec.partition.cascade.exits": exits,
        "spec.partition.adaptive.accuracyFile": rate,
        "spec.transport.link.trace": None if link is None else link.trace,
    }
    for field, file in files.items():
        if file is not None and not (base / expanded(file, field)).is_file():
            yield field, file, "file"
    folders = {
        "spec.dataset.path": spec.dataset.path,
        **{f"{place}.name": model.folder for place, model in models.items()},
    }
    for field, folder in folders.items():
        if folder is not None and not (base / expanded(folder, field)).is_dir():
            yield field, folder, "folder"
    modules = {
        **{f"{place}.name": model.name for place, model in models.items()},
        "spec.dataset.class": spec.dataset.class_,
    }
    for field, path in modules.items():
        if path is not None and ":" in path and not importing.is_there(path):
            yield field, path, "module"
