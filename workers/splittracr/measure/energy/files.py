"""Small files of sysfs."""

from pathlib import Path

from splittracr.experiment.errors import why


def number(path: Path) -> float | None:
    """The number in a file; None if it is missing, unreadable or holds something else."""
    try:
        return float(path.read_text("ascii"))
    except (OSError, ValueError):
        return None


def word(path: Path) -> str | None:
    """The text of a file without its last newline; None if it cannot be read."""
    try:
        return path.read_text("utf-8", errors="replace").strip()
    except OSError:
        return None


def denied(path: Path) -> str | None:
    """Why an existing file cannot be read; None if it can, or if there is none."""
    try:
        path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"{path}: {why(error)}"
    return None
