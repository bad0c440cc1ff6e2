"""Helpers of the API: names of arguments in errors, data frames."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from splittracr.experiment.errors import InvalidInput, SplittracrError

if TYPE_CHECKING:
    import pandas as pd

_OPTION = re.compile(r"--([a-z][a-z-]*)")


@contextmanager
def arguments(names: Mapping[str, str] = MappingProxyType({})) -> Iterator[None]:
    """Name the arguments of a function in errors that name options such as `--edge-slowdown`.

    `names` maps an option to its argument if the two differ.
    """

    def argument(text: str) -> str:
        option = _OPTION.sub(lambda f: names.get(f[0], f[1].replace("-", "_")), text)
        return names.get(text, option)

    try:
        yield
    except InvalidInput as error:
        raise InvalidInput(argument(error.field), error.value, argument(error.expected)) from error


def frame(rows: Sequence[Mapping[str, Any]]) -> "pd.DataFrame":
    """Rows as a data frame; a mapping in a row becomes columns such as `total_ms.mean`.

    Raises SplittracrError if pandas is not installed.
    """
    try:
        import pandas as pd
    except ModuleNotFoundError as error:
        raise SplittracrError(
            "Data frames need pandas: pip install 'splittracr[workers,notebook]'."
        ) from error
    return pd.json_normalize([dict(row) for row in rows])
