"""Take CUDA out of an installed PyTorch, so that it runs on a CPU without NVIDIA's libraries.

The package index has PyTorch for Linux with CUDA only. Its libraries need NVIDIA's to be loaded at
all: ``import torch`` fails without them. Two changes make them superfluous:

- GPU code is cut out of the libraries (the section ``.nv_fatbin``), and with it all else that the
  loader does not read, such as the symbol tables for debuggers. Code for the CPU is not touched.
- One small library takes the place of NVIDIA's missing ones. It defines their functions; each
  returns an error. None is called while CUDA finds no device, so the image must hide them:
  ``CUDA_VISIBLE_DEVICES=-1``.

Needs gcc, nm and ldd. Usage: ``without_cuda.py PREFIX ORIGINALS`` changes the installation below
PREFIX and puts the changed libraries' originals below ORIGINALS, at the same relative paths.
"""

import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

STUB = "libno_cuda.so"
GPU_CODE = b".nv_fatbin"
# Nothing is linked against these two; PyTorch loads them when a GPU first needs them.
GPU_ONLY = ("libtorch_cuda_linalg.so", "libcaffe2_nvrtc.so")

_HEADER = struct.Struct("<16xHHIQQQIHHHHHH")
_PROGRAM = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_LOAD, _NOTE = 1, 4


@dataclass(frozen=True)
class Segment:
    """A program header of a 64-bit ELF file: where a part of the file lies in memory, in bytes."""

    kind: int
    flags: int
    offset: int
    address: int
    physical: int
    file_size: int
    memory_size: int
    alignment: int

    def after(self, start: int) -> "Segment":
        """The part of the segment from the address `start` on."""
        skipped = start - self.address
        return replace(
            self,
            offset=self.offset + skipped,
            address=start,
            physical=self.physical + skipped,
            file_size=self.file_size - skipped,
            memory_size=self.memory_size - skipped,
        )


def slim(library: bytes) -> bytes:
    """Return a 64-bit little-endian ELF library with only what the loader reads, less GPU code.

    Every address stays as it is. Raises ValueError if the library is something else.
    """
    if library[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a 64-bit little-endian ELF file")
    _, _, _, _, table, sections_at, _, _, _, count, _, sections, names = _HEADER.unpack_from(
        library
    )
    segments = [
        Segment(*_PROGRAM.unpack_from(library, table + i * _PROGRAM.size)) for i in range(count)
    ]
    headers = [
        _SECTION.unpack_from(library, sections_at + i * _SECTION.size) for i in range(sections)
    ]
    name_table = headers[names][4]
    for name, _, _, address, _, size, *_ in headers:
        start = name_table + name
        if library[start : library.index(b"\0", start)] == GPU_CODE:
            segments = _without(segments, address, address + size)
    if len(segments) > count:
        raise ValueError("no program header is free for what follows the GPU code")

    out = bytearray()
    loads = [segment for segment in segments if segment.kind == _LOAD]
    new_offsets = []
    for load in loads:
        out += bytes((load.address - len(out)) % load.alignment)
        new_offsets.append(len(out))
        out += library[load.offset : load.offset + load.file_size]
    for i, segment in enumerate(segments):
        for load, offset in zip(loads, new_offsets, strict=True):
            if load.address <= segment.address < load.address + load.memory_size:
                segment = replace(segment, offset=offset + segment.address - load.address)
                break
        _PROGRAM.pack_into(out, table + i * _PROGRAM.size, *vars(segment).values())
    unused = bytes((count - len(segments)) * _PROGRAM.size)
    out[table + len(segments) * _PROGRAM.size : table + count * _PROGRAM.size] = unused
    struct.pack_into("<Q", out, 40, 0)  # no section table
    struct.pack_into("<HH", out, 60, 0, 0)
    return bytes(out)


def _without(segments: list[Segment], start: int, end: int) -> list[Segment]:
    """Cut the addresses from `start` to `end` out of the segment that holds them.

    The note (a build id) gives its program header to the second half.
    """
    kept: list[Segment] = []
    for segment in segments:
        if segment.kind == _LOAD and segment.address <= start < segment.address + segment.file_size:
            kept.append(
                replace(
                    segment, file_size=start - segment.address, memory_size=start - segment.address
                )
            )
            kept.append(segment.after(end // segment.alignment * segment.alignment))
        elif segment.kind != _NOTE:
            kept.append(segment)
    return kept


def missing(report: str) -> tuple[set[str], set[str]]:
    """The names of the libraries and of the C functions that `ldd -r` did not find.

    Python's own functions come from the interpreter. C++ names are PyTorch's own.
    """
    names = set(re.findall(r"undefined symbol: ([^\s,]+)", report))
    functions = {name for name in names if not name.startswith(("Py", "_Py", "_Z"))}
    return set(re.findall(r"(\S+) => not found", report)), functions


def versions(report: str) -> dict[str, str]:
    """The version in which each function is asked for, from `nm -D`."""
    return dict(re.findall(r" U ([^\s@]+)@+(\S+)", report))


def stub_source(functions: Mapping[str, str]) -> tuple[str, str]:
    """C source and linker version script of a library that defines the functions.

    Most of them return a status, which is not 0 here, or a text.
    """
    source = 'const char *no_cuda(void) { return "this image has PyTorch without CUDA"; }\n'
    source += "".join(
        f'const char *{name}(void) __attribute__((alias("no_cuda")));\n'
        for name in sorted(functions)
    )
    script = ""
    for version in sorted(set(functions.values()) - {""}):
        names = "; ".join(name for name in sorted(functions) if functions[name] == version)
        script += f"{version} {{ {names}; }};\n"
    return source, script


def _output(*command: str | Path, **environment: str) -> str:
    """What a program prints. Its exit status is ignored: ldd fails if something is missing."""
    done = subprocess.run(
        [*map(str, command)],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def _build_stub(functions: Mapping[str, str], target: Path) -> None:
    source, script = stub_source(functions)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "stub.c").write_text(source)
        (Path(folder) / "stub.map").write_text(script)
        command = ["gcc", "-shared", "-fPIC", "-O1", "-fno-builtin", "stub.c", "-o", str(target)]
        linker = [f"-Wl,-soname,{STUB}", *(["-Wl,--version-script=stub.map"] if script else [])]
        subprocess.run([*command, *linker], cwd=folder, check=True)


def remove(prefix: Path, originals: Path) -> str:
    """Change the installation below `prefix`; returns a line on what was done."""
    (site,) = {path.parent.parent for path in prefix.rglob("torch/version.py")}
    folder = site / "torch/lib"
    if not (folder / "libtorch_cuda.so").exists():
        return "This PyTorch has no CUDA: nothing to take out."
    libraries = [
        *folder.glob("lib*.so"),
        *site.glob("torch/_C*.so"),
        *site.glob("torchvision/*.so"),
    ]
    asked = versions(_output("nm", "-D", *libraries))  # nm wants the table of sections
    before = after = 0
    for library in sorted(folder.glob("lib*.so")):
        keep = originals / library.relative_to(prefix)
        keep.parent.mkdir(parents=True, exist_ok=True)
        original = library.read_bytes()
        before += len(original)
        if library.name in GPU_ONLY:
            shutil.move(library, keep)
            libraries.remove(library)
            continue
        slimmed = slim(original)
        after += len(slimmed)
        if GPU_CODE in original:
            shutil.copy2(library, keep)
        mode = library.stat().st_mode
        library.unlink()  # it may be a link to a file of a cache
        library.write_bytes(slimmed)
        library.chmod(mode)
    path = ":".join(map(str, [folder, *site.glob("nvidia/*/lib")]))
    names, functions = missing(_output("ldd", "-r", *libraries, LD_LIBRARY_PATH=path))
    _build_stub({name: asked.get(name, "") for name in functions}, folder / STUB)
    for name in sorted(names):
        (folder / name).symlink_to(STUB)
    return (
        f"PyTorch's libraries: {before / 1e6:.0f} MB, now {after / 1e6:.0f} MB; {len(functions)} "
        f"functions stand in for {', '.join(sorted(names))}."
    )


if __name__ == "__main__":
    print(remove(Path(sys.argv[1]), Path(sys.argv[2])))
