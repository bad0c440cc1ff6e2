"""Reads files of weights: detects their kind, finds the state dict, restores names.

Training stores state dicts inside checkpoints, and with the names of wrappers around the network.
Both are undone here, and mentioned in the label of the weights.
"""

import json
import struct
import zipfile
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor

from splittracr.experiment.errors import InvalidInput

_WRAPPERS = (
    *("state_dict", "model_state_dict", "model_state", "model", "module", "net", "network"),
    *("weights", "params", "ema_state_dict", "state_dict_ema", "model_ema", "ema"),
)
"""Keys under which checkpoints keep a state dict, in order of priority."""
_MAX_DEPTH = 4

_WRAPPED = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""Parts that torch inserts into names when it compiles, shards or checkpoints modules."""
_PREFIXES = ("module.", "model.", "net.", "network.", "_forward_module.", "ema_model.")
_COUNTERS = ("n_averaged",)  # of averaged weights; not in the network

_BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes it"),
    (b"\x93NUMPY", "an array of numpy"),
    (b"GGUF", "a GGUF file"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"GIF8", "a picture"),
    (b"%PDF", "a PDF document"),
    (b"\x1f\x8b", "a gzip archive; unpack it"),
    (b"BZh", "a bzip2 archive; unpack it"),
    (b"\xfd7zXZ", "an xz archive; unpack it"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive; unpack it"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it"),
    (b"Rar!", "a RAR archive; unpack it"),
    (b"\x7fELF", "a program"),
    (b"version https://git-lfs", "a pointer of Git LFS; fetch the file itself with `git lfs pull`"),
)


def kind(path: Path) -> str | None:
    """Describe a file that torch did not write; None for one that it may have written.

    Returns `safetensors` for a file of that format.
    """
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        return "an empty file"
    for beginning, words in _BEGINNINGS:
        if start.startswith(beginning):
            return words
    text = start.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page; the download went wrong"
    if start.startswith(b"PK"):
        return _archive(path)
    if start[4:8] == b"TFL3":
        return "a model of TensorFlow Lite"
    if start[257:262] == b"ustar":
        return None  # torch's oldest format
    if _is_safetensors(start, path.stat().st_size):
        return "safetensors"
    if path.suffix.lower() == ".onnx":
        return "a model in ONNX"
    if start[0] != 0x80 and not any(byte < 9 for byte in start):
        return "text"
    return None


def read_safetensors(path: Path, field: str) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file.

    Raises InvalidInput if the file is damaged or the package safetensors is missing.
    """
    try:
        load: Callable[[Path], dict[str, Tensor]] = import_module("safetensors.torch").load_file
    except ImportError as error:
        expected = (
            "a state dict saved by torch.save, or a safetensors file where the package is "
            "installed: pip install safetensors"
        )
        raise InvalidInput(field, str(path), expected) from error
    try:
        return load(path)
    except Exception as error:  # its own error derives from Exception alone
        raise InvalidInput(field, str(path), f"a complete safetensors file ({error})") from error


def unwrapped(loaded: Any) -> tuple[Any, str]:
    """Return the state dict in a checkpoint, and the keys that lead to it, such as `state_dict`."""
    keys: list[str] = []
    while len(keys) < _MAX_DEPTH and isinstance(loaded, Mapping):
        inner = (k for k in _WRAPPERS if isinstance(loaded.get(k), Mapping) and loaded[k])
        key = next(inner, None)
        if key is None:
            break
        keys.append(key)
        loaded = loaded[key]
    return loaded, ".".join(keys)


def what_it_holds(loaded: Any) -> str:
    """Describe an object that is no state dict."""
    if not isinstance(loaded, Mapping):
        return f"there is a {type(loaded).__name__}"
    odd = [key for key, value in loaded.items() if not isinstance(value, Tensor)]
    if not odd:
        return "it has no tensor" if not loaded else "its keys are no text"
    found = ", ".join(f"{key} ({type(loaded[key]).__name__})" for key in odd[:4])
    return f"it has {found}{', …' if len(odd) > 4 else ''}"


def named_as(own: Iterable[str], state: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], str]:
    """Rename `state` to the names `own` of a network; returns it and the parts left out.

    Parts of names are left out only if more names then match, and as few parts as possible.
    """
    wanted = frozenset(own)
    best: dict[str, str] = {name: name for name in state}
    left_out: tuple[str, ...] = ()
    waiting, seen = deque([(best, left_out)]), {frozenset(state)}
    while waiting:
        names, parts = waiting.popleft()  # those with fewer parts come first
        if len(wanted & set(names.values())) > len(wanted & set(best.values())):
            best, left_out = names, parts
        if len(parts) == _MAX_DEPTH:
            continue
        for part, changed in _changes(names):
            key = frozenset(changed.values())
            if key not in seen and len(key) == len(state):
                seen.add(key)
                waiting.append((changed, (*parts, part)))
    if not left_out:
        return state, ""
    kept = {old: new for old, new in best.items() if new in wanted or new not in _COUNTERS}
    return _renamed(state, kept), ", ".join(left_out)


def _changes(names: Mapping[str, str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each part that may be left out, and the names without it."""
    for part in (*_WRAPPED, "module."):
        yield part, {old: _without(name, part) for old, name in names.items()}
    for part in _PREFIXES:
        yield part, {old: name.removeprefix(part) for old, name in names.items()}


def _without(name: str, part: str) -> str:
    """Return the name without `part`, at all places between dots."""
    inner = f".{name}".replace(f".{part}", ".")
    return inner[1:]


def _renamed(state: Mapping[str, Tensor], new: Mapping[str, str]) -> Mapping[str, Tensor]:
    made = OrderedDict((new[name], value) for name, value in state.items() if name in new)
    versions = getattr(state, "_metadata", None)
    if isinstance(versions, Mapping):  # by module; a module is renamed as its tensors are
        modules = {old.rpartition(".")[0]: name.rpartition(".")[0] for old, name in new.items()}
        made._metadata = {modules.get(k, k): v for k, v in versions.items()}  # type: ignore[attr-defined]
    return made


def _archive(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return None  # torch describes the damage
    files = {name.partition("/")[2] for name in names}
    if "constants.pkl" in files:
        return "a TorchScript archive; save the state dict of the model instead"
    if "data.pkl" in files:
        return None
    if names and all(name.endswith(".npy") for name in names):
        return "an archive of numpy arrays"
    return "a zip archive; unpack it"


def _is_safetensors(start: bytes, size: int) -> bool:
    if len(start) < 10:
        return False
    (length,) = struct.unpack_from("<Q", start)
    return bool(2 <= length <= size - 8 and start[8:9] == b"{" and _begins_json(start[8:]))


def _begins_json(start: bytes) -> bool:
    try:
        json.loads(start.decode("utf-8", "ignore"))
    except json.JSONDecodeError as error:
        return error.pos > 1
    return True
