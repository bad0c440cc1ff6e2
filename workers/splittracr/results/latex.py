"""`summary.tex`: the figures of a study as a table for a paper, for LaTeX with booktabs."""

import re
from collections.abc import Callable
from functools import partial

from splittracr.experiment.contracts import Role
from splittracr.experiment.types import Tier
from splittracr.results import words
from splittracr.results.energy import of_machine
from splittracr.results.summary import CutFigures, Summary
from splittracr.results.visible import visible

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "×": r"\(\times\)",
    "–": "--",
    "—": "---",
    "…": r"\dots{}",
    "µ": r"\(\mu\)",
    "\n": " ",
    "\t": " ",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}
_LATIN = frozenset(map(chr, range(0xC0, 0x100))) - set("ÐðÞþ÷")
"""Letters beyond ASCII that pdflatex has without a package."""
_NOTHING = "--"


def escape(text: str) -> str:
    """Text in which LaTeX interprets no character; one that pdflatex lacks becomes U+XXXX."""
    return "".join(_SPECIAL.get(letter) or _letter(letter) for letter in visible(text))


def _letter(letter: str) -> str:
    return letter if letter.isascii() or letter in _LATIN else f"U+{ord(letter):04X}"


def document(figures: Summary) -> str:
    """The table, with its caption and label. The document has to load booktabs and graphicx.

    A table wider than the text is scaled down.
    """
    columns = _columns(figures)
    rows = [_line([_name(cut, figures), *(cell(cut) for _, cell in columns)])
            for cut in figures.cuts]  # fmt: skip
    return "\n".join(
        [
            r"% \usepackage{booktabs,graphicx}",
            r"\begin{table}",
            r"  \centering",
            f"  \\caption{{{_caption(figures)}}}",
            f"  \\label{{tab:{_label(figures.study.name)}}}",
            r"  \sbox0{%",
            f"  \\begin{{tabular}}{{l{'r' * len(columns)}}}",
            r"    \toprule",
            f"    {_line(['Cut', *(head for head, _ in columns)])}",
            r"    \midrule",
            *(f"    {row}" for row in rows),
            r"    \bottomrule",
            r"  \end{tabular}}%",
            r"  \ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi",
            r"\end{table}",
            "",
        ]
    )


_Column = tuple[str, Callable[[CutFigures], str]]
"""The head of a column, and the cell of a cut."""


def _columns(figures: Summary) -> list[_Column]:
    """The columns behind the name; those of accuracy and energy only if something was measured."""
    digits = words.decimals(max((cut.p95_ms or 0.0 for cut in figures.cuts), default=0.0))

    def number(value: float | None) -> str:
        return _NOTHING if value is None else f"{value:.{digits}f}"

    def interval(cut: CutFigures) -> str:
        ends = cut.total_ms.interval if cut.total_ms else None
        return _NOTHING if ends is None else "--".join(map(number, ends))

    columns: list[_Column] = [
        ("Sent", lambda cut: _text(cut.bytes_up, words.human_bytes)),
        ("Edge", lambda cut: number(cut.tiers_ms.get(Tier.EDGE))),
        ("Link", lambda cut: number(cut.tiers_ms.get(Tier.LINK))),
        ("Server", lambda cut: number(cut.tiers_ms.get(Tier.SERVER))),
        ("Mean", lambda cut: number(cut.total_ms.mean if cut.total_ms else None)),
        (r"95\,\% CI", interval),
        ("Median", lambda cut: number(cut.p50_ms)),
        ("p95", lambda cut: number(cut.p95_ms)),
    ]
    if any(cut.accuracy for cut in figures.cuts):
        columns.append(
            (
                "Top-1",
                lambda cut: _text(cut.accuracy.top1 if cut.accuracy else None, words.percent),
            )
        )
    scores = dict.fromkeys(name for cut in figures.cuts for name in cut.scores)
    columns += [(name, partial(_score, name)) for name in scores]
    columns += [
        (f"{role.capitalize()} energy", _energy(role))
        for role in Role
        if any(of_machine(cut.energy, role) for cut in figures.cuts)
    ]
    return columns


def _score(name: str, cut: CutFigures) -> str:
    found = cut.scores.get(name)
    return _text(found.value if found else None, words.precision)


def _energy(role: Role) -> Callable[[CutFigures], str]:
    def cell(cut: CutFigures) -> str:
        found = of_machine(cut.energy, role)
        return _text(found.joules_per_frame if found else None, words.joules)

    return cell


def _text(value: float | None, words: Callable[[float], str]) -> str:
    return _NOTHING if value is None else escape(words(value)).replace(" ", r"\,")


def _name(cut: CutFigures, figures: Summary) -> str:
    name = escape(cut.cut)
    return rf"\textbf{{{name}}}" if cut.index == figures.winner else name


def _line(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _caption(figures: Summary) -> str:
    study = figures.study
    said = [
        f"{study.model} ({study.weights}) by cut; times in milliseconds",
        f"link: {study.link}",
        *([f"emulated: {study.emulated}"] if study.emulated else []),
        *(["random weights"] if study.random_weights else []),
        *_energy_kinds(figures),
    ]
    return f"{escape('; '.join(said))}."


def _energy_kinds(figures: Summary) -> list[str]:
    """`edge energy of a frame, measured`, for each end that has energy."""
    said = []
    for role in Role:
        found = (of_machine(cut.energy, role) for cut in figures.cuts)
        kinds = dict.fromkeys(str(one.kind) for one in found if one)
        if kinds:
            said.append(f"{role} energy of a frame, {' and '.join(kinds)}")
    return said


def _label(name: str) -> str:
    return re.sub("[^A-Za-z0-9-]", "-", name)
