"""Links and paths in the documentation lead to something, and the site builds."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SOURCES = [ROOT, ROOT / "workers/splittracr", ROOT / "operator/splittracr_operator"]


def anchors(page: Path) -> set[str]:
    """The names under which the headings of a page are linked, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ +(.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("name", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_files_of_the_code_are_there(name: str) -> None:
    text = (ROOT / name).read_text()
    named = set(re.findall(r"`([\w./-]+(?:\.py|/))`", text))
    nested = [path for path in named if "/" in path.rstrip("/")]
    folders = {source / path for path in named if path.endswith("/") for source in SOURCES}
    folders |= {(source / path).parent for path in nested for source in SOURCES}
    missing = {
        path
        for path in named
        if not any((folder / path).exists() for folder in (*SOURCES, *folders))
    }
    assert missing == set()
    assert len(named) > 10


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", "docs/mkdocs.yml"]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        [*build, "-d", str(tmp_path)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    pages = {path.relative_to(tmp_path).with_suffix(".md") for path in tmp_path.rglob("*.html")}
    assert {page.relative_to(ROOT) for page in PAGES if page.name != "README.md"} <= pages
    page = tmp_path / "docs" / "concepts.html"
    needed = re.findall(r'(?:src|href)="([^"]+\.(?:js|css|svg|png))"', page.read_text())
    assert len(needed) > 3
    assert all((page.parent / file).exists() for file in needed)  # nothing from elsewhere


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_in_lists_is_code_on_the_site(page: Path) -> None:
    """Markdown of the site wants it eight columns in; GitHub takes less."""
    in_list, shallow, before = False, [], ""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for line in text.splitlines():
        if re.match(r"(?:-|\d+\.) ", line):
            in_list = True
        elif line and not line.startswith(" "):
            in_list = False
        elif in_list and not before and re.match(r" {5,7}\S", line):
            shallow.append(line)
        before = line
    assert shallow == []
