"""Files of sysfs as real machines have them."""

from pathlib import Path


def write(root: Path, folders: dict[str, dict[str, str]]) -> Path:
    """Write files by folder and name below `root`."""
    for folder, files in folders.items():
        for name, text in files.items():
            path = root / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")
    return root


def rapl_zone(name: str, microjoules: int) -> dict[str, str]:
    """The files of a zone of RAPL."""
    return {
        "name": name,
        "energy_uj": str(microjoules),
        "max_energy_range_uj": "262143328850",
    }
