"""Lists the pictures in a folder, at any depth, and counts the other files.

Links are followed. A folder that is reached twice is read once, so that a cycle of links ends. A
folder below the root keeps its own path.
"""

import os
import stat
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_APPLE_PHOTOS = (".heic", ".heif")
_MAX_KINDS = 5
_NO_EXTENSION = "without extension"


@dataclass(frozen=True)
class Listing:
    """`pictures` are sorted paths below the root; `skipped` counts other files by extension."""

    pictures: tuple[str, ...] = ()
    skipped: Mapping[str, int] = field(default_factory=Counter)


def pictures_below(root: Path, is_picture: Callable[[str], bool]) -> Listing:
    """List the pictures below `root`, those whose name `is_picture` accepts, without hidden files.

    A broken link with a picture's name is listed, so that its sample fails by name. Pipes, devices
    and sockets are skipped. Raises OSError if a folder cannot be read.
    """
    found: list[str] = []
    skipped: Counter[str] = Counter()
    folders, links, seen = deque([""]), deque[str](), set[tuple[int, int]]()
    while folders or links:
        below = (folders or links).popleft()
        status = (root / below).stat()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        for entry in sorted(filter(_is_visible, os.scandir(root / below)), key=lambda e: e.name):
            path = f"{below}{entry.name}"
            if Path(entry.path).is_dir():  # False for a link to itself too
                (links if entry.is_symlink() else folders).append(f"{path}/")
            elif (kind := _skipped_as(entry, is_picture)) is None:
                found.append(path)
            else:
                skipped[kind] += 1
    return Listing(tuple(sorted(found)), skipped)


def in_words(skipped: Mapping[str, int]) -> str | None:
    """Describe skipped files: `Skipped 12 files: 10 .heic, 2 .mp4.` and advice; None for none."""
    total = sum(skipped.values())
    if not total:
        return None
    kinds = sorted(skipped.items(), key=lambda item: (-item[1], item[0]))
    parts = [f"{count} {kind}" for kind, count in kinds[:_MAX_KINDS]]
    others = sum(count for _, count in kinds[_MAX_KINDS:])
    parts += [f"{others} others"] if others else []
    return f"Skipped {total} file{'s' * (total > 1)}: {', '.join(parts)}.{_advice(skipped)}"


def _advice(skipped: Mapping[str, int]) -> str:
    if any(kind in skipped for kind in _APPLE_PHOTOS):
        return (
            " Pillow does not read HEIC: convert these to JPEG or PNG, or read them with the "
            "package pillow-heif in a data set of your own (source: Class)."
        )
    if ".avif" in skipped:
        return " This Pillow was built without AVIF: a newer one reads it."
    return ""


def is_visible(name: str) -> bool:
    """Whether a name is not hidden, nor a folder that macOS adds to archives."""
    return not name.startswith(".") and name != "__MACOSX"


def _is_visible(entry: "os.DirEntry[str]") -> bool:
    return is_visible(entry.name)


def _skipped_as(entry: "os.DirEntry[str]", is_picture: Callable[[str], bool]) -> str | None:
    """Return the kind of a skipped file; None for a picture."""
    try:
        regular = stat.S_ISREG(entry.stat().st_mode)
    except OSError:
        return None if is_picture(entry.name) else "behind a broken link"
    if not regular:
        return "not regular (pipe or device)"
    return None if is_picture(entry.name) else Path(entry.name).suffix.lower() or _NO_EXTENSION
