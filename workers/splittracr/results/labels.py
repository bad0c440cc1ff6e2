"""`labels.txt`: how labels were matched with the network's classes. The edge writes it."""

from pathlib import Path

from splittracr.results.files import write_atomically

FILE = "labels.txt"
"""The file's name in a results folder."""


def write_labels(out: Path, labels: str | None) -> None:
    """Write the sentences into the results folder `out`; nothing if there are none."""
    if labels is not None:
        write_atomically(out / FILE, f"{labels}\n".encode())


def read_labels(out: Path) -> str | None:
    """The sentences in the results folder `out`; None if the data set had no class names."""
    path = out / FILE
    return path.read_text("utf-8", errors="replace").strip() if path.is_file() else None
