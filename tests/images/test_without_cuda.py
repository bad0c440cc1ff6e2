import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from images import without_cuda

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc builds the libraries")

# A section like the one that nvcc makes, between the constants and the tables for exceptions.
LIBRARY = """
__asm__(".section .nv_fatbin, \\"a\\"\\n .zero 1000000\\n .text");
static const int primes[] = {2, 3, 5, 7};
static int calls;
int prime(int i) { calls++; return primes[i]; }
int called(void) { return calls; }
"""

# What asks for functions of a library that is missing at run time, with and without a version.
ASKING = """
#include <stdlib.h>
const char *versioned(void);
const char *plain(void);
const char *ask(int which) { return which < 0 ? getenv("PATH") : which ? versioned() : plain(); }
"""
ASKED = """
const char *versioned(void) { return "real"; }
const char *plain(void) { return "real"; }
"""


def compile_library(path: Path, source: str, *arguments: str) -> Path:
    source_file = path.with_suffix(".c")
    source_file.write_text(source)
    command = ["gcc", "-shared", "-fPIC", "-Wl,--build-id", "-o", str(path), str(source_file)]
    subprocess.run([*command, *arguments], check=True, cwd=path.parent)
    return path


@needs_gcc
def test_a_library_works_without_its_gpu_code(tmp_path: Path) -> None:
    library = compile_library(tmp_path / "libprimes.so", LIBRARY)
    whole = library.read_bytes()
    slimmed = without_cuda.slim(whole)
    assert len(whole) - len(slimmed) > 900_000
    assert without_cuda.GPU_CODE not in slimmed
    library.write_bytes(slimmed)
    loaded = ctypes.CDLL(str(library))
    assert [loaded.prime(i) for i in range(4)] == [2, 3, 5, 7]
    assert loaded.called() == 4


@needs_gcc
def test_a_library_without_gpu_code_loses_only_what_the_loader_does_not_read(
    tmp_path: Path,
) -> None:
    library = compile_library(tmp_path / "libplain.so", LIBRARY.split("\n", 2)[2], "-g")
    whole = library.read_bytes()
    slimmed = without_cuda.slim(whole)
    assert len(slimmed) < len(whole)
    library.write_bytes(slimmed)
    assert ctypes.CDLL(str(library)).prime(3) == 7


@pytest.mark.parametrize("content", [b"", b"\x7fELF\x01\x01" + bytes(100), b"#!/bin/sh\n"])
def test_anything_else_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="not a 64-bit little-endian ELF file"):
        without_cuda.slim(content)


@needs_gcc
def test_cuda_is_removed_and_its_functions_replaced(tmp_path: Path) -> None:
    """A package laid out as PyTorch's is; its NVIDIA library is not installed."""
    site = tmp_path / "prefix/lib/python3/site-packages"
    folder = site / "torch/lib"
    folder.mkdir(parents=True)
    (site / "torchvision").mkdir()
    (site / "torch/version.py").touch()
    script = tmp_path / "versions"
    script.write_text("libasked.so.1 { global: versioned; };\n")
    asked = compile_library(
        tmp_path / "libasked.so.1", ASKED, f"-Wl,--version-script={script},-soname,libasked.so.1"
    )
    cuda = compile_library(
        folder / "libtorch_cuda.so", LIBRARY + ASKING, str(asked), "-Wl,-rpath,$ORIGIN"
    )
    compile_library(folder / "libcaffe2_nvrtc.so", "int unused;")
    whole = cuda.read_bytes()
    asked.unlink()

    done = without_cuda.remove(tmp_path / "prefix", tmp_path / "originals")

    assert "2 functions stand in for libasked.so.1" in done
    loaded = ctypes.CDLL(str(cuda), mode=ctypes.RTLD_GLOBAL | 2)  # RTLD_NOW, as Python imports
    loaded.ask.restype = ctypes.c_char_p
    assert loaded.ask(0) == loaded.ask(1) == b"this image has PyTorch without CUDA"
    kept = tmp_path / "originals/lib/python3/site-packages/torch/lib"
    assert (kept / "libtorch_cuda.so").read_bytes() == whole
    assert (kept / "libcaffe2_nvrtc.so").exists()
    assert not (folder / "libcaffe2_nvrtc.so").exists()


def test_a_pytorch_without_cuda_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "prefix/lib/python3/site-packages/torch"
    folder.mkdir(parents=True)
    (folder / "version.py").touch()
    done = without_cuda.remove(tmp_path / "prefix", tmp_path / "originals")
    assert done == "This PyTorch has no CUDA: nothing to take out."
    assert not (tmp_path / "originals").exists()
