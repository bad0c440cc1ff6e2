"""Rules between the fields of a manifest, in words that the models and the API server share.

The rule itself stands twice, as a validator of the model and in CEL (`crd.py`).
"""

import json
from dataclasses import dataclass

from pydantic import BaseModel

_MISSING = "missing"


@dataclass(frozen=True)
class Rule:
    """What has to hold, as a clause, and the keys whose values show how it is broken."""

    text: str
    shown: tuple[str, ...] = ()

    def broken(self, model: BaseModel) -> ValueError:
        """The error of a validator of `model`."""
        given = model.model_dump(mode="json", by_alias=True, exclude_none=True)
        return ValueError(self._words() % tuple(given.get(key, _MISSING) for key in self.shown))

    @property
    def expression(self) -> str | None:
        """The same words in CEL; None where no values are shown.

        `format` and not `+`: the API server knows no bound of a number's text, and so none of
        what a sum with it would cost.
        """
        missing = json.dumps(_MISSING)
        values = (f"has(self.{key}) ? string(self.{key}) : {missing}" for key in self.shown)
        return f"{json.dumps(self._words())}.format([{', '.join(values)}])" if self.shown else None

    def _words(self) -> str:
        values = ", ".join(f"{key} is %s" for key in self.shown)
        return f"{self.text} ({values})" if values else self.text
