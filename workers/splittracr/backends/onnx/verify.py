"""Find out which networks ONNX Runtime computes, and how closely.

    make verify-models RUNTIME=onnx ARGS="--only 'resnet*' --json FILE --table docs/models.md"

One line a network: the largest relative error of the uncut network and of some cuts, or why it is
refused. Networks are those of `make verify-models`, at their own size: ONNX has no adaptive pooling
to more than one pixel of a picture that it does not divide. Needs the memory of the largest network
four times.
"""

import argparse
import fnmatch
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import onnxruntime
import torch

from splittracr.backends.onnx import sessions
from splittracr.backends.onnx.classes import error
from splittracr.backends.onnx.export import export
from splittracr.backends.onnx.halves import Halves
from splittracr.backends.torch import transformers_folders
from splittracr.backends.torch.examples import example_batch
from splittracr.backends.torch.verify import everything, free_memory
from splittracr.experiment.errors import reason
from splittracr.experiment.spec import ModelSpec
from splittracr.measure import machine
from splittracr.models import registry
from splittracr.splitting.capture import capture
from splittracr.wire.identity import TOLERANCE

_CUTS = 6
"""Cuts of a network that are run, evenly spread over its operations."""

_BEGIN = '<!-- Written by `make verify-models RUNTIME=onnx ARGS="--table …"`; do not edit. -->'
_END = "<!-- End of what is written. -->"
_REASON = 300  # characters


@dataclass(frozen=True)
class Verdict:
    """The result for one network. `refused` is the reason; empty if it is computed."""

    name: str
    cuts: int = 0
    tried: int = 0
    largest_error: float = 0.0
    refused: str = ""

    def line(self) -> str:
        """The verdict in one line of text."""
        if self.refused:
            return f"{self.name:40} refused: {self.refused}"
        found = f"largest relative error {self.largest_error:.1e}"
        return f"{self.name:40} computed: {found} at {self.tried} of {self.cuts} cuts"


def check(name: str) -> Verdict:
    """The verdict on one network."""
    try:
        with transformers_folders.base_of(name) as base:
            network = registry.build(ModelSpec(name=name, weights="none"), base)
        if network.variable_shape:
            return Verdict(name, refused="each picture keeps its own size, a session takes one")
        batch = example_batch(network, 1)
        with torch.inference_mode():
            tape = capture(network.module, batch, network.leaves, network.within)
        halves = Halves(export(tape, batch))
        found = _errors(halves, tape.head(len(tape), batch.clone()), batch)
    except Exception as failed:  # noqa: BLE001 - the next networks are still to be checked
        return Verdict(name, refused=_shortened(reason(failed)))
    largest, cuts = max(found), len(tape) + 1
    far = f"its output differs from that of PyTorch by more than {TOLERANCE:g} of the largest"
    refused = "" if largest <= TOLERANCE else far
    return Verdict(name, cuts, len(found), largest, refused)


def table(verdicts: Mapping[str, Verdict], names: Sequence[str]) -> str:
    """The results of the networks `names`, in Markdown. Those without a verdict were not run."""
    groups: dict[str, list[str]] = {}
    for name in names:
        verdict = verdicts.get(name)
        groups.setdefault(_group(verdict), []).append(name)
    computed = [v for name in names if (v := verdicts.get(name)) is not None and not v.refused]
    largest = max((v.largest_error for v in computed), default=0.0)
    rows = [
        f"Of {len(names)} models {sum(name in verdicts for name in names)} were run, at "
        f"{_CUTS} cuts each, with random weights and ONNX Runtime {onnxruntime.__version__}, "
        f"PyTorch {torch.__version__.partition('+')[0]} on {machine.processor()}. The largest "
        f"relative error of those computed is {largest:.1e}.",
        "",
        "| ONNX Runtime | Number | Models |",
        "|---|---|---|",
    ]
    order = sorted(groups, key=lambda group: (group != "computed", group == "not run", group))
    rows += [f"| {_cell(g)} | {len(groups[g])} | {', '.join(groups[g])} |" for g in order]
    return "\n".join(rows)


def replaced(page: str, made: str) -> str:
    """A page with another table. Raises ValueError if the page has no place for it."""
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"the page has no lines {_BEGIN} and {_END}")
    return f"{before}{begin}\n\n{made}\n\n{end}{after}"


def _group(verdict: Verdict | None) -> str:
    if verdict is None:
        return "not run"
    return f"refused: {verdict.refused}" if verdict.refused else "computed"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _shortened(text: str) -> str:
    """The first lines of a library's error, without addresses in memory."""
    plain = re.sub(r"0x[0-9a-f]+", "0x…", " ".join(text.split()))
    return plain[:_REASON]


@torch.inference_mode()
def _errors(halves: Halves, expected: list[object], batch: torch.Tensor) -> list[float]:
    cuts = sorted({round(i * halves.last / (_CUTS - 1)) for i in range(_CUTS)})
    return [
        error(expected, halves.run(cut, halves.last, halves.run(0, cut, [batch.clone()])))
        for cut in cuts
    ]


def _matching(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The names that match, in the order of the patterns."""
    found = (name for one in patterns for name in names if fnmatch.fnmatch(name, one))
    return list(dict.fromkeys(found))


def _read(path: Path | None) -> Iterator[Verdict]:
    if path is not None and path.exists():
        yield from (Verdict(**one) for one in json.loads(path.read_text("utf-8"))["networks"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each network that matches; exit status 0, a refusal is an answer."""
    parser = argparse.ArgumentParser(prog="make verify-models RUNTIME=onnx", description=__doc__)
    parser.add_argument(
        "--only", nargs="*", default=["*"], metavar="PATTERN", help="such as 'resnet*', in order"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="add the verdicts to those in this file"
    )
    parser.add_argument(
        "--table", type=Path, metavar="PAGE", help="write the table of all verdicts into a page"
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    sessions.use_threads(1)
    names, verdicts = everything(), {one.name: one for one in _read(options.json)}
    for name in _matching(names, options.only):
        verdicts[name] = check(name)
        print(verdicts[name].line(), flush=True)
        if options.json is not None:
            content = {"networks": [asdict(one) for one in verdicts.values()]}
            options.json.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
        free_memory()
    if options.table is not None:
        page = options.table.read_text("utf-8")
        options.table.write_text(replaced(page, table(verdicts, names)), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
