"""Write the files that are made from the models and the chart, or check that they are up to date.

`make generate` runs it; `make check` runs it with `--check`. It writes below the current folder.
`deploy/operator.yaml` needs helm: without helm it is left out, and a test compares it.
"""

import argparse
import difflib
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import typer.cli
import typer.main

from splittracr.cli import chart
from splittracr.cli import main as commands
from splittracr.experiment import crd, metrics_page, reference
from splittracr.experiment.spec import GROUP
from splittracr.monitoring import alerts, panels
from splittracr.results import page as results_page

COMMAND = "make generate"


def _custom_resource() -> str:
    return (
        f"# Written by `{COMMAND}` from workers/splittracr/experiment/; do not edit.\n" + crd.text()
    )


_SPEC = "workers/splittracr/experiment/spec.py"
_METRICS = "workers/splittracr/experiment/metrics.py"
_RESULTS = "workers/splittracr/results/ and the models of its files"
_ALERTS = "workers/splittracr/monitoring/alerts.py"
_COMMANDS = "workers/splittracr/cli/commands"


def _page(source: str, text: str) -> str:
    return f"<!-- Written by `{COMMAND}` from {source}; do not edit. -->\n\n{text}"


def _alerts() -> str:
    return f"# Written by `{COMMAND}` from {_ALERTS}; do not edit.\n{alerts.text()}"


def _command_line() -> str:
    app = typer.main.get_command(commands.app)
    context = typer.Context(app)
    text = typer.cli.get_docs_for_click(
        obj=app, ctx=context, name="splittracr", title="Command line"
    )
    # Its lists of commands have their first words only; the sections below have all of them.
    return re.sub(r"\*\*Commands\*\*:\n.*?(?=^##+ )", "", text, flags=re.DOTALL | re.MULTILINE)


def _dashboard(name: str) -> str:
    from splittracr.monitoring import dashboards  # needs the extra `dev`

    return dashboards.document(name)


FILES: Mapping[str, Callable[[], str]] = {
    "charts/splittracr/files/alerts.yaml": _alerts,
    **chart.FILES,
    f"crds/{crd.PLURAL}.{GROUP}.yaml": _custom_resource,
    "docs/runbooks/README.md": lambda: _page(_ALERTS, alerts.index()),
    **{
        f"{folder}/{name}.json": partial(_dashboard, name)
        for folder in ("workers/splittracr/monitoring/dashboards", "charts/splittracr/dashboards")
        for name in panels.NAMES
    },
    "docs/results.md": lambda: _page(_RESULTS, results_page.markdown()),
    "docs/cli.md": lambda: _page(_COMMANDS, _command_line()),
    "docs/metrics.md": lambda: _page(_METRICS, metrics_page.markdown()),
    "docs/manifest.md": lambda: _page(_SPEC, reference.markdown()),
}
"""Every generated file, by its path in the repository; those that need helm apart."""


def write(root: Path, helm: str | None = None) -> list[str]:
    """Bring every file up to date; returns the paths of those that changed.

    With the path of `helm`, `deploy/operator.yaml` too.
    """
    files = {**FILES}
    if helm is not None:
        files[chart.DEPLOY] = lambda: chart.manifests(helm)
    changed = []
    for path, make in files.items():
        text = make()
        if _present(root / path) != text:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text, encoding="utf-8", newline="\n")
            changed.append(path)
    return changed


def drift(root: Path) -> list[str]:
    """How the files differ from what they should be, as lines of a diff; nothing if they agree."""
    lines: list[str] = []
    for path, make in FILES.items():
        present, wanted = _present(root / path).splitlines(), make().splitlines()
        lines += difflib.unified_diff(present, wanted, path, f"{path} (generated)", lineterm="")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 if `--check` found a difference."""
    parser = argparse.ArgumentParser(prog="python -m splittracr.cli.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, fail on a difference")
    parser.add_argument("--root", type=Path, default=Path(), help="the checkout")
    options = parser.parse_args(arguments)
    if not options.check:
        helm = shutil.which("helm")
        for path in write(options.root, helm):
            print(f"wrote {path}")
        if helm is None:
            print(f"left out {chart.DEPLOY}: helm is not on the PATH")
        return 0
    lines = drift(options.root)
    if lines:
        print(*lines, "", f"Generated files are out of date: run `{COMMAND}`.", sep="\n")
    return 1 if lines else 0


def _present(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


if __name__ == "__main__":
    sys.exit(main())
