"""Find out which networks ONNX Runtime computes, and how closely.

    python -m splittracr.backends.onnx.verify --only 'resnet*'

One line a network: the largest relative error of the uncut network and of some cuts, or why it is
refused. Networks are those of `make verify-models`, at their own size: ONNX has no adaptive pooling
to more than one pixel of a picture that it does not divide. Needs the memory of the largest network
four times.
"""

import argparse
import fnmatch
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from splittracr.backends.onnx import sessions
from splittracr.backends.onnx.classes import error
from splittracr.backends.onnx.export import export
from splittracr.backends.onnx.halves import Halves
from splittracr.backends.torch.examples import example_batch
from splittracr.backends.torch.verify import everything
from splittracr.experiment.errors import reason
from splittracr.experiment.spec import ModelSpec
from splittracr.models import registry
from splittracr.splitting.capture import capture
from splittracr.wire.identity import TOLERANCE

_CUTS = 6
"""Cuts of a network that are run, evenly spread over its operations."""


def check(name: str) -> str:
    """A sentence about one network."""
    try:
        network = registry.build(ModelSpec(name=name, weights="none"), Path.cwd())
        if network.variable_shape:
            return "refused: it keeps each picture's own size"
        batch = example_batch(network, 1)
        with torch.inference_mode():
            tape = capture(network.module, batch, network.leaves, network.within)
        halves = Halves(export(tape, batch))
        found = _errors(halves, tape.head(len(tape), batch.clone()), batch)
    except Exception as failed:  # noqa: BLE001 - the next networks are still to be checked
        return f"refused: {reason(failed)[:200]}"
    largest = max(found)
    verdict = "computed" if largest <= TOLERANCE else "refused"
    return (
        f"{verdict}: largest relative error {largest:.1e} at {len(found)} of {len(tape) + 1} cuts"
    )


@torch.inference_mode()
def _errors(halves: Halves, expected: list[object], batch: torch.Tensor) -> list[float]:
    cuts = sorted({round(i * halves.last / (_CUTS - 1)) for i in range(_CUTS)})
    return [
        error(expected, halves.run(cut, halves.last, halves.run(0, cut, [batch.clone()])))
        for cut in cuts
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each network that matches."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", nargs="+", default=["*"], metavar="PATTERN", help="such as 'resnet*'"
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    sessions.use_threads(1)
    for name in everything():
        if any(fnmatch.fnmatch(name, pattern) for pattern in options.only):
            print(f"{name:40} {check(name)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
