"""Small folders as transformers' `save_pretrained` writes them, with random weights."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from splittracr.backends.torch.transformers_folders import KINDS


def save(folder: Path, kind: str, processor: dict[str, Any]) -> Any:
    """Write the network `kind` with five classes and its image processor; returns the network."""
    library: Any = import_module("transformers")
    names = {i: f"thing {i}" for i in range(5)}
    config = library.AutoConfig.for_model(kind, id2label=names, **KINDS[kind])
    with torch.random.fork_rng(), torch.inference_mode(False):
        torch.manual_seed(3)
        net = library.AutoModelForImageClassification.from_config(config).eval()
    net.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), "utf-8")
    return net


def own_values(folder: Path, picture: Any) -> torch.Tensor:
    """What the folder's image processor makes of a picture, computed with Pillow."""
    library: Any = import_module("transformers")
    processor = library.AutoImageProcessor.from_pretrained(folder, backend="pil")
    values: torch.Tensor = processor(picture, return_tensors="pt")["pixel_values"]
    return values
