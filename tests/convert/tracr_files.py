"""tracr's nine configurations and its devices file, written from its documented keys."""

from pathlib import Path
from typing import Any

from splittracr.convert.study import Converted, Places, convert
from splittracr.experiment import manifest

FOLDER = Path(__file__).parent / "tracr" / "config"
DEVICES = FOLDER / "devices_config.yaml"
CONFIGURATIONS = sorted(file for file in FOLDER.glob("*.yaml") if file != DEVICES)
NAMES = [file.stem for file in CONFIGURATIONS]


def data(name: str) -> Any:
    """The content of `tracr/config/NAME.yaml`."""
    return manifest.load((FOLDER / f"{name}.yaml").read_text("utf-8"), name)


def converted(config: Any, devices: Any = None, name: str = "study") -> Converted:
    """`config` converted, with paths as they are."""
    places = Places(lambda path: path, f"{name}-classes.txt")
    ends = None if devices is None else (devices, "devices.yaml")
    return convert(config, f"{name}.yaml", name, places, ends)


def spec(config: Any) -> dict[str, Any]:
    """The `spec` that `config` becomes."""
    made: dict[str, Any] = converted(config).manifest["spec"]
    return made


def fates(config: Any) -> dict[str, str]:
    """The fate of every key of `config`, by its name."""
    return {note.key: note.outcome.fate.name for note in converted(config).notes}
