"""Facts about this machine, and versions."""

import hashlib
import os
import platform
import socket
from importlib import metadata
from pathlib import Path

_INSTRUCTIONS = ("flags", "Features")
_FEATURES = ("vendor_id", "cpu family", "model\t", "stepping", "flags", "cache size", "CPU", "Feat")


def processor() -> str:
    """The processor's own name, as /proc/cpuinfo or the platform has it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text("utf-8", errors="replace").splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def architecture() -> str:
    """Such as `x86_64` or `aarch64`."""
    return platform.machine()


def features() -> str:
    """A digest of the processor's model, instructions and caches, by which libraries choose how to
    compute.

    The name is not enough: virtual machines often show a general one.
    """
    cpuinfo = Path("/proc/cpuinfo")
    first = cpuinfo.read_text().partition("\n\n")[0] if cpuinfo.exists() else ""
    lines = [line for line in first.splitlines() if line.startswith(_FEATURES)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:8]


def is_identified() -> bool:
    """Whether `processor` and `features` tell this processor's arithmetic from others'."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return bool(processor()) and any(line.startswith(_INSTRUCTIONS) for line in lines)


def versions() -> dict[str, str]:
    """Versions that can change a result."""
    packages = (
        *("splittracr", "torch", "torchvision", "onnxruntime"),
        *("ultralytics", "timm", "transformers"),
        *("numpy", "aiohttp", "pillow"),
    )
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def hostname() -> str:
    """The machine's name."""
    return socket.gethostname()


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
