"""Cascades as candidates, from the files of `splittracr calibrate`."""

from pathlib import Path

from splittracr.experiment.calibration import Calibration
from splittracr.experiment.errors import InvalidInput, why
from splittracr.experiment.versions import parse
from splittracr.planning.cascade import Cascade

_WHAT = "a file made by `splittracr calibrate --out`"


def read(file: Path, option: str) -> Calibration:
    """The calibration in a file, with the time of the small model.

    Raises InvalidInput that names the option.
    """
    try:
        text = file.read_bytes()
    except OSError as error:
        raise InvalidInput(option, str(file), f"{_WHAT} ({why(error)})") from error
    made = parse(Calibration, text, str(file), _WHAT)
    if made.exits is not None:
        expected = f"{_WHAT} for a small model; exits are no candidates here"
        raise InvalidInput(option, str(file), expected)
    if not made.small_ms:
        raise InvalidInput(option, str(file), f"{_WHAT} with the time of the small model, small_ms")
    return made


def of_model(file: Path, model: str, slowdown: float, option: str) -> Cascade:
    """The cascade for `model` on an edge that is slowed down.

    Raises InvalidInput that names the option if the file is of another model.
    """
    made = read(file, option)
    if made.large != model:
        raise InvalidInput(option, str(file), f"a file of {model}, not of {made.large}")
    return slowed(made, slowdown)


def slowed(made: Calibration, slowdown: float) -> Cascade:
    """The cascade on an edge that is slower than the machine of the calibration."""
    return Cascade(
        small=made.small,
        small_ms=(made.small_ms or 0.0) * slowdown,
        sure=made.sure / made.pictures,
        wrong=made.disagreeing / made.pictures,
    )
