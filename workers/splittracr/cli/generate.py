"""Write the files that are made from the models, or check that they are up to date.

`make generate` runs it; `make check` runs it with `--check`. It starts at the current folder.
"""

import argparse
import difflib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from splittracr.experiment import crd, metrics_page, reference
from splittracr.experiment.spec import GROUP

COMMAND = "make generate"


def _custom_resource() -> str:
    return (
        f"# Written by `{COMMAND}` from workers/splittracr/experiment/; do not edit.\n" + crd.text()
    )


def _page(source: str, text: str) -> str:
    file = f"workers/splittracr/experiment/{source}"
    return f"<!-- Written by `{COMMAND}` from {file}; do not edit. -->\n\n{text}"


FILES: Mapping[str, Callable[[], str]] = {
    f"crds/{crd.PLURAL}.{GROUP}.yaml": _custom_resource,
    "docs/manifest.md": lambda: _page("spec.py", reference.markdown()),
    "docs/metrics.md": lambda: _page("metrics.py", metrics_page.markdown()),
}
"""Every generated file, by its path in the repository."""


def write(root: Path) -> list[str]:
    """Bring every file up to date; returns the paths of those that changed."""
    changed = []
    for path, make in FILES.items():
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
    """Exit status 1 where `--check` found a difference."""
    parser = argparse.ArgumentParser(prog="python -m splittracr.cli.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, fail on a difference")
    parser.add_argument("--root", type=Path, default=Path(), help="the checkout")
    options = parser.parse_args(arguments)
    if not options.check:
        for path in write(options.root):
            print(f"wrote {path}")
        return 0
    lines = drift(options.root)
    if lines:
        print(*lines, "", f"Generated files are out of date: run `{COMMAND}`.", sep="\n")
    return 1 if lines else 0


def _present(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


if __name__ == "__main__":
    sys.exit(main())
