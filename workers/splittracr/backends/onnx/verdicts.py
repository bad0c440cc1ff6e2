"""Which models ONNX Runtime computes, as a table in a page, which a later run continues.

The page is the only store: a run reads the verdicts that are there and adds its own.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

CUTS = 6
"""Cuts of a model that are run, evenly spread over its operations."""

_BEGIN = '<!-- Written by `make verify-models RUNTIME=onnx ARGS="--table …"`; do not edit. -->'
_END = "<!-- End of what is written. -->"
_COMPUTED, _NOT_RUN, _REFUSED = "computed", "not run", "refused: "
_HEADER = re.compile(
    r"with random weights and (.+)\. The largest relative error .* is (\S+)\.$", re.M
)
_ROW = re.compile(r"^\| (.+) \| \d+ \| (.+) \|$", re.M)


@dataclass(frozen=True)
class Verdict:
    """The result for one model. `refused` is the reason; empty if it is computed."""

    name: str
    cuts: int = 0
    tried: int = 0
    largest_error: float = 0.0
    refused: str = ""

    def line(self) -> str:
        """The verdict in one line of text."""
        if self.refused:
            return f"{self.name:40} {_REFUSED}{self.refused}"
        found = f"largest relative error {self.largest_error:.1e}"
        return f"{self.name:40} computed: {found} at {self.tried} of {self.cuts} cuts"


@dataclass(frozen=True)
class Table:
    """The verdicts by model, and the set-ups that they are from: libraries and processors."""

    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    setups: tuple[str, ...] = ()

    @classmethod
    def read(cls, page: str) -> Self:
        """The table of a page.

        Its verdicts have no cuts, and all that are computed have the largest error of the page.
        Raises ValueError if the page has no place for a table, or another table than `written`.
        """
        text = _parts(page)[1]
        rows = [(_text(group), names) for group, names in _ROW.findall(text)]
        groups = {group: names.split(", ") for group, names in rows if group != _NOT_RUN}
        header = _HEADER.search(text)
        if not groups and not header:
            return cls()
        if header is None:
            raise ValueError("the table of the page has no line with the largest relative error")
        found: dict[str, Verdict] = {}
        for group, names in groups.items():
            refused = group.removeprefix(_REFUSED) if group != _COMPUTED else ""
            largest = 0.0 if refused else float(header[2])
            found |= {name: Verdict(name, 0, 0, largest, refused) for name in names}
        return cls(found, tuple(header[1].split("; ")))

    def added(self, verdict: Verdict, setup: str) -> "Table":
        """The table with one more verdict, or another one on the same model."""
        setups = dict.fromkeys([*self.setups, setup])
        return Table({**self.verdicts, verdict.name: verdict}, tuple(setups))

    def written(self, page: str, names: Sequence[str]) -> str:
        """A page with this table in place of its own. Models of `names` without a verdict were
        not run.
        """
        before, _, after = _parts(page)
        return f"{before}{_BEGIN}\n\n{self.markdown(names)}\n\n{_END}{after}"

    def markdown(self, names: Sequence[str]) -> str:
        """The table in Markdown, with the models in the order of `names`."""
        names = list(dict.fromkeys([*names, *self.verdicts]))
        groups: dict[str, list[str]] = {}
        for name in names:
            groups.setdefault(_group(self.verdicts.get(name)), []).append(name)
        computed = [one.largest_error for one in self.verdicts.values() if not one.refused]
        rows = [
            f"Of {len(names)} models {len(self.verdicts)} were run, at {CUTS} cuts each, with "
            f"random weights and {'; '.join(self.setups)}. The largest relative error of those "
            f"computed is {max(computed, default=0.0):.1e}.",
            "",
            "| ONNX Runtime | Number | Models |",
            "|---|---|---|",
        ]
        order = sorted(groups, key=lambda group: (group != _COMPUTED, group == _NOT_RUN, group))
        rows += [f"| {_cell(g)} | {len(groups[g])} | {', '.join(groups[g])} |" for g in order]
        return "\n".join(rows)


def _parts(page: str) -> tuple[str, str, str]:
    """A page before, in and after the place of the table."""
    before, begin, rest = page.partition(_BEGIN)
    text, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"the page has no lines {_BEGIN} and {_END}")
    return before, text, after


def _group(verdict: Verdict | None) -> str:
    if verdict is None:
        return _NOT_RUN
    return _REFUSED + verdict.refused if verdict.refused else _COMPUTED


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _text(cell: str) -> str:
    return cell.replace("&lt;", "<").replace("\\|", "|")
