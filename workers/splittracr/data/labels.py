"""Labels of a data set in terms of the network's classes."""

from collections.abc import Sequence

from splittracr.experiment.errors import InvalidInput


def label_map(folders: Sequence[str] | None, classes: Sequence[str]) -> list[int] | None:
    """The network's class for each label of the data set; None where labels are such classes.

    Class names that the network knows too are matched by name; otherwise there must be as many as
    the network has outputs, and they are matched by position. Raises InvalidInput where neither
    holds, since an accuracy would mean nothing.
    """
    if not folders or not classes:
        return None
    position = {name: i for i, name in enumerate(classes)}
    if all(name in position for name in folders):
        return [position[name] for name in folders]
    if len(folders) == len(classes):
        return None
    unknown = next(name for name in folders if name not in position)
    raise InvalidInput(
        "spec.dataset.path",
        unknown,
        f"class names that the network knows, or as many as it has outputs, {len(classes)} "
        f"(there are {len(folders)})",
    )
