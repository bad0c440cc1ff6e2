"""Small folders as transformers' `save_pretrained` writes them, with random weights."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

transformers: Any = import_module("transformers")

VIT = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2}
VIT |= {"num_attention_heads": 2, "intermediate_size": 64}
CONVNEXT = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1], "num_channels": 3}
RESNET = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "embedding_size": 8}
MOBILENET = {"image_size": 32, "depth_multiplier": 0.25, "min_depth": 8}


def save(folder: Path, kind: str, processor: dict[str, Any], **options: Any) -> Any:
    """Write the network `kind` with five classes and its image processor; returns the network."""
    names = {i: f"thing {i}" for i in range(5)}
    config = transformers.AutoConfig.for_model(kind, id2label=names, **options)
    with torch.random.fork_rng(), torch.inference_mode(False):
        torch.manual_seed(3)
        net = transformers.AutoModelForImageClassification.from_config(config).eval()
    net.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return net


def processor(folder: Path) -> Any:
    """The folder's image processor, as transformers computes it with Pillow."""
    return transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
