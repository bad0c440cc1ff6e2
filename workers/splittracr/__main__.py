"""`python -m splittracr`."""

import os
import sys

if sys.path[0] in ("", os.getcwd()):  # noqa: PTH109 - pathlib would bring libraries
    del sys.path[0]  # the current folder, where a queue.py would take the library's place

from splittracr.cli.main import app

if __name__ == "__main__":
    app()
