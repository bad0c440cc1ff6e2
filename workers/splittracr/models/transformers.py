"""Image classifiers of transformers from a local folder: `transformers/my-vit`.

transformers is an optional extra. The folder is what its `save_pretrained` writes, or a copy of a
repository: `config.json`, `preprocessor_config.json` and the weights. Nothing is downloaded, and no
code of the folder is executed.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode

from splittracr.data.home import expanded
from splittracr.data.importing import import_extra
from splittracr.data.preparation import check_resized
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.spec import TRANSFORMERS_PREFIX, ModelSpec, Source
from splittracr.models import weights
from splittracr.models.network import Network, Task
from splittracr.models.pictures import FromPixels, Pixels, ResizeAndCrop
from splittracr.models.random_weights import WithoutRandomInit, randomise

_NAME = "spec.model.name"
_LEVELS = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert("RGB")
"""A picture with each value of a byte once, in all colours."""
_CLOSE = 1e-5  # values of a processor and of `Pixels`, at most


def names() -> list[str]:
    """Return nothing: networks of this family are folders."""
    return []


def build(spec: ModelSpec, base: Path) -> Network:
    """Build the network of `spec`; relative paths start at the folder `base`.

    Raises InvalidInput for a folder that has no image classifier, or a file of weights that is not
    its own. Raises SplittracrError if transformers is not installed.
    """
    library = import_extra("transformers", "transformers")
    _check(spec)
    path = weights.file_path(spec, base)
    folder = _folder(spec, base)
    with _quiet(library):
        config = _config(library, spec, folder)
        processor = _processor(library, spec, folder)
        net, label = _loaded(library, spec, folder, config, path)
    shape = _shape(processor, spec)
    classes = _class_names(config)
    dtype: torch.dtype = getattr(torch, spec.dtype.value)
    return Network(
        name=spec.name,
        source=Source.TRANSFORMERS,
        task=Task.CLASSIFY,
        module=_Classifier(_pixels(processor, spec, dtype), weights.cast(net, spec)).eval(),
        prepare=_preparation(processor),
        shape=shape,
        postprocessor="classification",
        weights=label,
        classes=classes if spec.num_classes in (None, len(classes)) else (),
        leaves=(Pixels,),
        within="net",
    )


class _Classifier(FromPixels):
    """Returns only the scores, which are the first of transformers' outputs."""

    def forward(self, batch: Tensor) -> object:
        return self.net(pixel_values=self.pixels(batch))[0]


@dataclass(frozen=True)
class Processor:
    """Makes pixels `[3, H, W]` uint8 by an image processor of transformers, with Pillow."""

    processor: Any

    @property
    def in_words(self) -> str:
        """For results."""
        return f"{type(self.processor).__name__} of transformers"

    def __call__(self, picture: Image.Image) -> Tensor:
        if self.processor.do_resize and self.processor.size.get("shortest_edge"):
            check_resized(picture, (self.processor.size["shortest_edge"],))
        return _values(self.processor, picture, do_rescale=False, do_normalize=False)


def _check(spec: ModelSpec) -> None:
    if spec.args:
        raise InvalidInput("spec.model.args", spec.args, "nothing, they are for custom models")
    if spec.weights not in (weights.OFFICIAL, weights.NONE):
        expected = f"{weights.OFFICIAL} (those of the folder) or {weights.NONE}"
        raise InvalidInput("spec.model.weights", spec.weights, expected)
    if spec.input_size is not None:
        expected = "nothing, the folder's image processor sets the size"
        raise InvalidInput("spec.model.inputSize", list(spec.input_size), expected)


def _folder(spec: ModelSpec, base: Path) -> Path:
    folder = base / expanded(spec.folder or "", _NAME)
    if not folder.is_dir():
        expected = f"{TRANSFORMERS_PREFIX} and a folder that exists (there is no {folder})"
        raise InvalidInput(_NAME, spec.name, expected)
    for file in ("config.json", "preprocessor_config.json"):
        if not (folder / file).is_file():
            expected = f"a folder of transformers, with {file} in it ({folder} has none)"
            raise InvalidInput(_NAME, spec.name, expected)
    return folder


def _config(library: Any, spec: ModelSpec, folder: Path) -> Any:
    """Return the configuration of the network. Raises InvalidInput if it is no classifier."""
    try:
        config = library.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # any content of the file may raise anything
        expected = f"a folder whose config.json transformers knows ({weights.brief(error)})"
        raise InvalidInput(_NAME, spec.name, expected) from error
    found = ", ".join(config.architectures or ()) or f"a {config.model_type} without a head"
    if "ForImageClassification" not in found:
        raise InvalidInput(_NAME, spec.name, f"an image classifier of transformers, it is {found}")
    return config


def _processor(library: Any, spec: ModelSpec, folder: Path) -> Any:
    try:
        found = library.AutoImageProcessor.from_pretrained(
            folder, backend="pil", trust_remote_code=False
        )
    except Exception as error:  # any content of the file may raise anything
        expected = f"a folder whose preprocessor_config.json is known ({weights.brief(error)})"
        raise InvalidInput(_NAME, spec.name, expected) from error
    if getattr(found, "backend", None) != "pil":
        expected = f"an image processor that uses Pillow, it has {type(found).__name__}"
        raise InvalidInput(_NAME, spec.name, expected)
    return found


def _loaded(
    library: Any, spec: ModelSpec, folder: Path, config: Any, path: Path | None
) -> tuple[nn.Module, str]:
    """Return the network with its weights, and their label."""
    builder = library.AutoModelForImageClassification
    state: Mapping[str, Tensor] = {}
    if path is None and spec.weights == weights.OFFICIAL:
        state = _own_state(builder, spec, folder, config)
    if spec.num_classes is not None:
        config.num_labels = spec.num_classes
    with torch.random.fork_rng(devices=()), WithoutRandomInit():
        net: nn.Module = builder.from_config(config, dtype=torch.float32).eval()
    if path is None and spec.weights == weights.NONE:
        randomise(net, spec.seed)
        return net, weights.none_label(spec)
    label = f"of the folder {folder.name}"
    if path is not None:
        state, label = weights.read_for(net, path)
    return net, weights.load_state(net, state, spec, label, _is_head)


def _own_state(builder: Any, spec: ModelSpec, folder: Path, config: Any) -> Mapping[str, Tensor]:
    """Return the weights in the folder, with the names that transformers has today."""
    with torch.random.fork_rng(devices=()):
        try:
            net, report = builder.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        except Exception as error:  # a damaged file can break the readers in any way
            expected = f"weights in {folder} that transformers reads ({weights.brief(error)})"
            raise InvalidInput("spec.model.weights", spec.weights, expected) from error
    lacking = [*sorted(report["missing_keys"]), *sorted(map(str, report["mismatched_keys"]))]
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        expected = f"weights in {folder} with {lacking[0]}{more}"
        raise InvalidInput("spec.model.weights", spec.weights, expected)
    state: Mapping[str, Tensor] = net.state_dict()
    return state


def _is_head(_name: str, own: torch.Size, other: torch.Size) -> bool:
    """Whether shapes differ only in dimension 0, the number of classes of the last layer."""
    return own[1:] == other[1:]


def _class_names(config: Any) -> tuple[str, ...]:
    """Return the names of the classes; none if they are transformers' placeholders."""
    found = config.id2label or {}
    if all(name == f"LABEL_{index}" for index, name in found.items()):
        return ()
    return tuple(str(found[index]) for index in sorted(found))


def _values(processor: Any, picture: Image.Image, **options: bool) -> Tensor:
    """Return what the processor makes of a picture, `[3, H, W]`."""
    if hasattr(processor, "include_top") and not options.get("do_rescale", True):
        options["include_top"] = False  # the second normalisation of EfficientNet
    found = processor(picture, **options)["pixel_values"][0]
    return torch.from_numpy(np.ascontiguousarray(found))


def _shape(processor: Any, spec: ModelSpec) -> tuple[int, int, int]:
    """Return the shape of all inputs. InvalidInput if pictures keep a shape of their own."""
    wide, high = (Image.new("RGB", size) for size in ((331, 250), (250, 331)))
    first, second = (tuple(Processor(processor)(picture).shape) for picture in (wide, high))
    if first != second or first[0] != 3:
        expected = f"an image processor with one size, it makes {first} and {second}"
        raise InvalidInput(_NAME, spec.name, expected)
    _, height, width = first
    return (3, height, width)


def _preparation(processor: Any) -> "Processor | ResizeAndCrop":
    """Return a resize and crop that machines without transformers know, if it gives the same
    pixels as the processor; the processor itself otherwise.
    """
    draw = np.random.default_rng(0)
    shapes = ((97, 61), (300, 411), (64, 64), (250, 333))
    pixels = (draw.integers(0, 256, (*shape, 3), np.uint8) for shape in shapes)
    own = Processor(processor)
    wanted = [(picture, own(picture)) for picture in map(Image.fromarray, pixels)]
    for found in _candidates(processor):
        if all(_equal(found(picture), values) for picture, values in wanted):
            return found
    return own


def _candidates(processor: Any) -> Iterator[ResizeAndCrop]:
    """Yield what a processor may do, by its settings and the habits of transformers."""
    if not processor.do_resize:
        return
    kind = _INTERPOLATIONS.get(int(processor.resample), InterpolationMode.BILINEAR)
    size, crop = processor.size, getattr(processor, "crop_size", None)
    cropped = None
    if getattr(processor, "do_center_crop", False) and crop:
        cropped = crop["height"], crop["width"]
    if size.get("height") and size.get("width"):
        yield ResizeAndCrop((size["height"], size["width"]), cropped, kind, crop_down=True)
    edge = size.get("shortest_edge")
    if edge:
        yield ResizeAndCrop((edge,), cropped, kind, crop_down=True)
        yield ResizeAndCrop((edge, edge), None, kind)  # ConvNeXt, large
        share = getattr(processor, "crop_pct", None) or 224 / 256
        yield ResizeAndCrop((int(edge / share),), (edge, edge), kind, crop_down=True)
        yield ResizeAndCrop((int(256 / 224 * edge),), cropped, kind, crop_down=True)  # LeViT


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


_INTERPOLATIONS = {
    int(Image.Resampling.NEAREST): InterpolationMode.NEAREST,
    int(Image.Resampling.LANCZOS): InterpolationMode.LANCZOS,
    int(Image.Resampling.BILINEAR): InterpolationMode.BILINEAR,
    int(Image.Resampling.BICUBIC): InterpolationMode.BICUBIC,
    int(Image.Resampling.BOX): InterpolationMode.BOX,
    int(Image.Resampling.HAMMING): InterpolationMode.HAMMING,
}


def _pixels(processor: Any, spec: ModelSpec, dtype: torch.dtype) -> Pixels:
    """Return the input stage: the processor's own values, or those with the same end points."""
    levels = torch.from_numpy(np.stack([np.asarray(_LEVELS)[..., c] for c in range(3)]))
    wanted = _values(processor, _LEVELS, do_resize=False, do_center_crop=False).to(torch.float32)
    declared = (processor.image_mean, processor.image_std) if processor.do_normalize else (0, 1)
    mean, std = ([float(v) for v in np.broadcast_to(value, 3)] for value in declared)
    stage = Pixels(mean, std, dtype)
    if torch.equal(Pixels(mean, std)(levels), wanted):
        return stage
    low, high = wanted.double().flatten(1)[:, 0], wanted.double().flatten(1)[:, -1]
    spread = 1 / (high - low)
    mean, std = (-low * spread).tolist(), spread.tolist()
    if not torch.allclose(Pixels(mean, std)(levels), wanted, rtol=_CLOSE, atol=_CLOSE):
        expected = "an image processor that maps the values of a colour to a line"
        raise InvalidInput(_NAME, spec.name, expected)
    return Pixels(mean, std, dtype)


@contextlib.contextmanager
def _quiet(library: Any) -> Iterator[None]:
    """Suppress warnings and progress bars of transformers; its errors are raised."""
    log = library.utils.logging
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()
