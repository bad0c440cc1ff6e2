"""The command `splittracr`, also as `python -m splittracr`."""

import os
import sys

if sys.path[0] in ("", os.getcwd()):  # noqa: PTH109 - pathlib would bring libraries
    del sys.path[0]  # the current folder, where a queue.py would take the library's place


def main() -> None:
    """Run the command of this process."""
    try:
        from splittracr.cli.main import app
    except KeyboardInterrupt:  # later ones end in `cli.guard`
        sys.exit(128 + 2)  # as of a process that SIGINT killed
    app()


if __name__ == "__main__":
    main()
