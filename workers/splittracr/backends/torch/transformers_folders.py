"""Small networks of transformers as folders, one of each kind, for `make verify-models`.

transformers has no networks of its own without a download. These have its own layers and few of
them; weights are not written, since they are random there.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from splittracr.experiment.spec import TRANSFORMERS_PREFIX

_SIDE = 64
_VIT = {
    "image_size": _SIDE,
    "patch_size": 16,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 96,
}
_SWIN = {"image_size": _SIDE, "patch_size": 4, "embed_dim": 24, "depths": [1, 1, 2, 1]}
_SWIN |= {"num_heads": [1, 2, 4, 8], "window_size": 2}
_STAGES = {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 2, 1]}

KINDS: Mapping[str, Mapping[str, Any]] = {
    "beit": _VIT,
    "bit": {**_STAGES, "embedding_size": 16, "num_groups": 4},
    "clip": {"vision_config": _VIT},
    "convnext": _STAGES,
    "convnextv2": _STAGES,
    "cvt": {"embed_dim": [16, 48, 96], "depth": [1, 2, 3], "num_heads": [1, 3, 6]},
    "data2vec-vision": _VIT,
    "deit": _VIT,
    "dinov2": _VIT,
    "dinov2_with_registers": _VIT,
    "efficientnet": {"image_size": _SIDE, "width_coefficient": 0.5, "hidden_dim": 640},
    "focalnet": {**_SWIN, "hidden_sizes": [24, 48, 96, 192], "focal_windows": [3, 3, 3, 3]},
    "hgnet_v2": {},
    "ijepa": _VIT,
    "levit": {"image_size": _SIDE, "hidden_sizes": [32, 64, 96], "depths": [1, 1, 1]},
    "metaclip_2": {"vision_config": _VIT},
    "mobilenet_v1": {"image_size": _SIDE, "depth_multiplier": 0.25},
    "mobilenet_v2": {"image_size": _SIDE, "depth_multiplier": 0.25},
    "mobilevit": {"image_size": _SIDE},
    "mobilevitv2": {"image_size": _SIDE, "width_multiplier": 0.5},
    "poolformer": _STAGES,
    "pp_lcnet": {},
    "pvt": {"image_size": _SIDE, "hidden_sizes": [16, 32, 80, 64], "depths": [1, 1, 1, 1]},
    "pvt_v2": {"image_size": _SIDE, "hidden_sizes": [16, 32, 80, 64], "depths": [1, 1, 1, 1]},
    "regnet": {**_STAGES, "embedding_size": 16, "groups_width": 8},
    "resnet": {**_STAGES, "embedding_size": 16},
    "segformer": {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]},
    "siglip": {"vision_config": _VIT},
    "swiftformer": {"depths": [1, 1, 2, 1], "embed_dims": [16, 24, 32, 48]},
    "swin": _SWIN,
    "swinv2": _SWIN,
    "textnet": {},
    "vit": _VIT,
    "vit_msn": _VIT,
}
"""Kinds of networks by transformers' own names, with what makes them small.

Without Perceiver, ImageGPT and Siglip 2, whose inputs are no pictures; Dinat, which needs a package
of its own; the wrapper of timm, whose networks are named `timm/...`; Hiera, in which cuts behind a
maximum with its index are refused.
"""

_PROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": _SIDE, "width": _SIDE},
}


def write(kind: str, folder: Path) -> None:
    """Write the folder of the network `kind`, without weights."""
    library: Any = import_module("transformers")
    config = library.AutoConfig.for_model(kind, **KINDS[kind])
    builder = library.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING[type(config)]
    builder = builder[0] if isinstance(builder, tuple) else builder
    config.architectures = [builder.__name__]
    config.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(_PROCESSOR), "utf-8")


@contextmanager
def base_of(name: str) -> Iterator[Path]:
    """The folder where paths of the network `name` start; it is there if it is of transformers."""
    kind = name.removeprefix(TRANSFORMERS_PREFIX)
    if kind == name:
        yield Path.cwd()
        return
    with TemporaryDirectory() as folder:
        write(kind, Path(folder, kind))
        yield Path(folder)
