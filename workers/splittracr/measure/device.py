"""The device that a worker computes on, and what there is to say about its machine."""

import hashlib
import os
import platform
import socket
from importlib import metadata
from pathlib import Path

import torch

from splittracr.experiment.errors import InvalidInput

_FEATURES = ("vendor_id", "cpu family", "model\t", "stepping", "flags", "cache size", "CPU", "Feat")
_LIMITS = ("DNNL_MAX_CPU_ISA", "ONEDNN_MAX_CPU_ISA", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS")


def resolve(name: str, field: str) -> torch.device:
    """The device called `name`; `auto` takes an accelerator where there is one.

    A device that was named and is not there is an InvalidInput, never the CPU in silence.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InvalidInput(field, name, f"a device that is here, {_present()}")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise InvalidInput(field, name, f"a device that is here, {_present()}")
    return device


def _present() -> str:
    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return "one of: " + ", ".join(["auto", "cpu", *gpus, *mps])


def processor() -> str:
    """The processor's own name, as /proc/cpuinfo or the platform has it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text("utf-8", errors="replace").splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def name(device: torch.device) -> str:
    """The accelerator's own name, or the processor's."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return processor()


def uuid(device: torch.device) -> str | None:
    """The accelerator's own identity, by which its driver finds it; None of a processor."""
    if device.type != "cuda":
        return None
    return str(torch.cuda.get_device_properties(device).uuid)


def capability(device: torch.device) -> str:
    """The instruction set in use, or the accelerator's name and compute capability."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"{torch.cuda.get_device_name(device)}, sm_{major}{minor}"
    return str(torch.backends.cpu.get_cpu_capability())


def arithmetic(device: torch.device) -> str:
    """All that the last bits of a result depend on besides the program and its inputs."""
    kind = f"{device.type}, {name(device)}, {capability(device)}, torch {torch.__version__}"
    if device.type == "cuda":
        return kind
    limits = [f"{key}={os.environ[key]}" for key in _LIMITS if key in os.environ]
    return ", ".join([kind, f"{torch.get_num_threads()} threads", _features(), *limits])


def _features() -> str:
    """A digest of the processor's model, instructions and caches, by which libraries choose how to
    compute. The name alone is not enough: that of a virtual machine's processor is often general.
    """
    cpuinfo = Path("/proc/cpuinfo")
    first = cpuinfo.read_text().partition("\n\n")[0] if cpuinfo.exists() else ""
    lines = [line for line in first.splitlines() if line.startswith(_FEATURES)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:8]


def versions() -> dict[str, str]:
    """Versions that can change a result."""
    packages = ("splittracr", "torch", "torchvision", "ultralytics", "numpy", "aiohttp", "pillow")
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
