"""Find out which models ONNX Runtime computes, and how closely.

    make verify-models RUNTIME=onnx ARGS="--only 'resnet*' --table docs/models.md"

One line a model: the largest relative error of the uncut model and of some cuts, or why it is
refused. Models are those of `make verify-models`, at their own size: ONNX has no adaptive pooling
to more than one pixel of a picture that it does not divide. Each one has a process of its own, and
needs its memory four times. The table is written after each model, and models that it has are not
run again without --again. So several runs, on several machines, can fill one table.
"""

import argparse
import fnmatch
import re
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import onnxruntime
import psutil
import torch

from splittracr.backends.onnx import sessions
from splittracr.backends.onnx.classes import error
from splittracr.backends.onnx.export import export
from splittracr.backends.onnx.halves import Halves
from splittracr.backends.onnx.verdicts import CUTS, Table, Verdict
from splittracr.backends.torch import transformers_folders
from splittracr.backends.torch.examples import example_batch
from splittracr.backends.torch.verify import everything
from splittracr.experiment.errors import reason
from splittracr.experiment.spec import ModelSpec
from splittracr.measure import machine
from splittracr.models import registry
from splittracr.results.files import write_atomically
from splittracr.splitting.capture import capture
from splittracr.wire.identity import TOLERANCE

_REASON = 150  # characters
_WATCH_SECONDS = 0.02


def check(name: str) -> Verdict:
    """The verdict on one model."""
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
    except Exception as failed:  # noqa: BLE001 - the next models are still to be checked
        return Verdict(name, refused=_shortened(reason(failed)))
    largest, cuts = max(found), len(tape) + 1
    far = f"its output differs from that of PyTorch by more than {TOLERANCE:g} of the largest"
    refused = "" if largest <= TOLERANCE else far
    return Verdict(name, cuts, len(found), largest, refused)


def check_apart(name: str, gibibytes: float | None = None) -> Verdict:
    """As `check`, in a process that is killed if it takes more memory than `gibibytes`."""
    context = get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_send, args=(theirs, name), daemon=True)
    child.start()
    theirs.close()
    try:
        while not ours.poll(_WATCH_SECONDS):
            if gibibytes is not None and _gibibytes(child.pid) > gibibytes:
                return Verdict(name, refused=f"does not fit into {gibibytes:g} GiB")
        verdict: Verdict = ours.recv()
    except EOFError:
        child.join()
        return Verdict(name, refused=f"its process ended: {_ending(child.exitcode or 0)}")
    else:
        return verdict
    finally:
        child.kill()
        child.join()


def _send(pipe: Connection, name: str) -> None:
    torch.set_num_threads(1)
    sessions.use_threads(1)
    pipe.send(check(name))


def _gibibytes(pid: int | None) -> float:
    """The memory of a process, 0 if it has ended."""
    with suppress(psutil.NoSuchProcess):
        return float(psutil.Process(pid).memory_info().rss) / 2**30
    return 0.0


def _ending(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit status {code}"


def _shortened(text: str) -> str:
    """The first lines of a library's error, without addresses in memory."""
    plain = re.sub(r"0x[0-9a-f]+", "0x…", " ".join(text.split()))
    return plain[:_REASON]


@torch.inference_mode()
def _errors(halves: Halves, expected: list[object], batch: torch.Tensor) -> list[float]:
    cuts = sorted({round(i * halves.last / (CUTS - 1)) for i in range(CUTS)})
    return [
        error(expected, halves.run(cut, halves.last, halves.run(0, cut, [batch.clone()])))
        for cut in cuts
    ]


def _matching(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The names that match, in the order of the patterns."""
    found = (name for one in patterns for name in names if fnmatch.fnmatch(name, one))
    return list(dict.fromkeys(found))


def _setup() -> str:
    versions = f"ONNX Runtime {onnxruntime.__version__}, PyTorch {torch.__version__}"
    return f"{versions.partition('+')[0]} on {machine.processor()}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each model that matches; exit status 0, a refusal is an answer."""
    parser = argparse.ArgumentParser(
        prog="make verify-models RUNTIME=onnx",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", nargs="*", default=["*"], metavar="PATTERN", help="such as 'resnet*', in order"
    )
    parser.add_argument(
        "--table", type=Path, metavar="PAGE", help="add the verdicts to the table in this page"
    )
    parser.add_argument(
        "--again", action="store_true", help="also run the models that the table has"
    )
    parser.add_argument(
        "--memory-gibibytes", type=float, metavar="N", help="refuse a model that needs more"
    )
    options = parser.parse_args(arguments)
    names, page = everything(), options.table
    table = Table() if page is None else Table.read(page.read_text("utf-8"))
    wanted = _matching(names, options.only)
    if not wanted:
        parser.error(f"no model is called like {' or '.join(map(repr, options.only))}")
    known = [] if options.again else [name for name in wanted if name in table.verdicts]
    if known:
        left_out = f"{len(known)} of {len(wanted)} models: the table has them"
        print(f"left out {left_out}; --again runs them", file=sys.stderr, flush=True)
    for name in wanted:
        if name in known:
            continue
        verdict = check_apart(name, options.memory_gibibytes)
        print(verdict.line(), flush=True)
        table = table.added(verdict, _setup())
        if page is not None:
            write_atomically(page, table.written(page.read_text("utf-8"), names).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
