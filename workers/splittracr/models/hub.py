"""Files of the Hugging Face hub, where timm keeps its weights: the cache, and an early check."""

import os
from pathlib import Path
from typing import Any

import torch

from splittracr.data.importing import import_extra

_FILES = ("model.safetensors", "pytorch_model.bin")
"""Names of weights, in the order in which timm asks for them."""


def cache_folder() -> Path | None:
    """Return the folder for downloads if TORCH_HOME is set, beside those of torchvision.

    The operator's weight cache sets that variable only. None for the hub's own folder, also if one
    of its own variables is set.
    """
    if not os.environ.get("TORCH_HOME") or os.environ.keys() & {"HF_HOME", "HF_HUB_CACHE"}:
        return None
    return Path(torch.hub.get_dir()) / "checkpoints"


def check_reachable(repository: str, file: str | None, cache: Path | None) -> None:
    """Raise the client's error if the weights of `repository` are not cached and the hub cannot be
    reached.

    timm's download would retry for a minute first, and then miss a file in the cache. `repository`
    may end in `@revision`. `file` is the name of the weights if it is not a usual one.
    """
    client: Any = import_extra("huggingface_hub", "timm")
    name, _, revision = repository.partition("@")
    options = {"revision": revision or None}
    files = (file,) if file else _FILES
    cached = (client.try_to_load_from_cache(name, one, cache_dir=cache, **options) for one in files)
    if any(isinstance(path, str) for path in cached):
        return
    try:
        client.get_hf_file_metadata(client.hf_hub_url(name, files[0], **options))
    except client.errors.RemoteEntryNotFoundError:
        return  # it can be reached, and has another file
