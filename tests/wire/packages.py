"""Packages of codecs, as a user would install them."""

from pathlib import Path

MODULE = """
import zlib


class Deflate:
    def encode(self, data, tensors):
        return zlib.compress(data, 1)

    def decode(self, data, size, tensors):
        return zlib.decompress(data)


class Broken:
    def encode(self, data, tensors):
        raise LookupError("no table")

    def decode(self, data, size, tensors):
        return b"short"


def missing():
    raise OSError("no accelerator")
"""


def package(folder: Path, name: str = "acme", version: str = "1.2") -> Path:
    """A distribution `name` of that version in `folder`, whose codecs begin with its name."""
    info = folder / f"{name}_codecs-{version}.dist-info"
    info.mkdir(parents=True)
    (folder / f"{name}_codecs.py").write_text(MODULE)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}-codecs\nVersion: {version}\n"
    )
    (info / "entry_points.txt").write_text(
        "[splittracr.codecs]\n"
        f"{name}.deflate = {name}_codecs:Deflate\n"
        f"{name}.broken = {name}_codecs:Broken\n"
        f"{name}.missing = {name}_codecs:missing\n"
        f"{name}.gone = no_such_module:Codec\n"
    )
    return folder
