"""The fuzzer guided by coverage: `make fuzz`.

It runs until something breaks, or `-runs=N` inputs long; an input that breaks something is written
to a file whose name is printed, and `make fuzz ARGS=FILE` runs it again.
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["splittracr"], enable_loader_override=False):
    from tests.fuzz.target import both, seeds

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(seeds()):
            (Path(corpus) / f"{number:02}").write_bytes(seed)
        settings = ["-max_len=4096", "-timeout=10", "-rss_limit_mb=2048"]
        again = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
        atheris.Setup([*sys.argv, *settings, *([] if again else [corpus])], both)
        atheris.Fuzz()
