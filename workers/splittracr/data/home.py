"""The user's home folder, which may be missing in a container."""

import os
import tempfile
from pathlib import Path

from splittracr.experiment.errors import InvalidInput


def expanded(path: str, field: str) -> Path:
    """Replace a leading `~` or `~user` of `path`. InvalidInput names `field` if it cannot be."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        user = path.split("/", 1)[0]
        missing = "home folder here" if user == "~" else f"user {user[1:]} here"
        raise InvalidInput(field, path, f"a path that exists (there is no {missing})") from error


def cache() -> Path:
    """The folder for files that can be made again, beside downloaded weights."""
    ensure()
    weights = os.environ.get("TORCH_HOME")
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(weights) if weights else Path(root) / "splittracr"


def ensure() -> None:
    """Set HOME to a temporary folder of this user if there is no home folder.

    Without one, libraries such as ultralytics cannot be imported, and others make a folder `~`.
    """
    try:
        Path.home()
    except RuntimeError:
        folder = Path(tempfile.gettempdir()) / f"splittracr-home-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():  # another user's
            folder = Path(tempfile.mkdtemp(prefix="splittracr-home-"))
        os.environ["HOME"] = str(folder)
