"""Classifiers of timm: `timm/convnext_atto`, or `timm/convnext_atto.d2_in1k` for a weight set.

timm is an optional extra. Its names, weight sets and picture settings are its own.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.models import ResNet18_Weights

from splittracr.data.importing import import_extra
from splittracr.experiment.errors import InvalidInput, nearest
from splittracr.experiment.spec import TIMM_PREFIX, ModelSpec, Source
from splittracr.models import hub, timm_config, weights
from splittracr.models.network import Network, Task, check_size
from splittracr.models.pictures import FromPixels, Pixels
from splittracr.models.random_weights import WithoutRandomInit, randomise

_NAME = "spec.model.name"
_SIZE = "spec.model.inputSize"


def names() -> list[str]:
    """Return all networks of this family, without weight sets; none if timm is not installed."""
    if find_spec("timm") is None:
        return []
    return [TIMM_PREFIX + name for name in _timm().list_models()]


def build(spec: ModelSpec, base: Path) -> Network:
    """Build the network of `spec`; a relative weights file starts at the folder `base`.

    Raises InvalidInput for an unknown name, weights that do not exist, a network without classes,
    or a size that it does not accept. Raises SplittracrError if timm is not installed or official
    weights cannot be downloaded.
    """
    name, config = _known(spec)
    path = weights.file_path(spec, base)
    net = _construct(spec, name, config, spec.num_classes)
    label = _load(spec, net, name, config, path)
    settings = timm_config.description(net, spec.input_size)
    if not settings:
        raise InvalidInput(_NAME, spec.name, "a model of timm for pictures with three colours")
    classes = _class_names(config)
    dtype: torch.dtype = getattr(torch, spec.dtype.value)
    pixels = Pixels(settings["mean"], settings["std"], dtype)
    network = Network(
        name=spec.name,
        source=Source.TIMM,
        task=Task.CLASSIFY,
        module=FromPixels(pixels, weights.cast(net, spec)).eval(),
        prepare=settings["prepare"],
        shape=settings["shape"],
        postprocessor="classification",
        weights=label,
        classes=classes if spec.num_classes in (None, len(classes)) else (),
        leaves=(Pixels,),
        within="net",
    )
    if spec.input_size is not None:
        check_size(network, spec.input_size, f"a size that {spec.name} accepts")
    return network


def _timm(module: str = "timm") -> Any:
    return import_extra(module, "timm")


def _known(spec: ModelSpec) -> tuple[str, Any]:
    """Return timm's own name of the network, and its settings."""
    timm = _timm()
    name = spec.name.removeprefix(TIMM_PREFIX)
    architecture, dot, _ = name.partition(".")
    if not timm.is_model(architecture):
        expected = f"a model of timm, {nearest(TIMM_PREFIX + architecture, names())}"
        raise InvalidInput(_NAME, spec.name, expected)
    sets = timm.list_pretrained(f"{architecture}.*")
    if dot and not timm.is_model_pretrained(name):
        known = nearest(name, sets) if sets else architecture
        raise InvalidInput(_NAME, spec.name, f"a weight set of timm/{architecture}, {known}")
    if spec.args:
        raise InvalidInput("spec.model.args", spec.args, "nothing, they are for custom models")
    if spec.weights not in (weights.OFFICIAL, weights.NONE):
        expected = f"{weights.OFFICIAL} or {weights.NONE}; a weight set is part of spec.model.name"
        expected += f", such as {TIMM_PREFIX}{sets[0]}" if sets else ""
        raise InvalidInput("spec.model.weights", spec.weights, expected)
    config = timm.get_pretrained_cfg(name)
    if not config.num_classes:
        expected = f"a model with classes; {name} is an encoder, which timm has no classifier for"
        raise InvalidInput(_NAME, spec.name, expected)
    return name, config


def _construct(
    spec: ModelSpec, name: str, config: Any, classes: int | None, pretrained: bool = False
) -> nn.Module:
    options: dict[str, Any] = {"pretrained": pretrained}
    if classes is not None:
        options["num_classes"] = classes
    if spec.input_size is not None and config.fixed_input_size:
        options["img_size"] = spec.input_size
    if pretrained:
        options["cache_dir"] = hub.cache_folder()
    with torch.random.fork_rng(devices=()), WithoutRandomInit():
        torch.manual_seed(spec.seed)
        try:
            net: nn.Module = _timm().create_model(name, **options)
        except Exception as error:  # each family checks sizes in its own way
            if pretrained or spec.input_size is None:
                raise
            expected = f"a size that {spec.name} accepts ({weights.brief(error)})"
            raise InvalidInput(_SIZE, list(spec.input_size), expected) from error
    return net.eval()


def _load(spec: ModelSpec, net: nn.Module, name: str, config: Any, path: Path | None) -> str:
    """Load the weights into `net`; returns their label."""
    if path is not None:
        state, label = weights.read_for(net, path)
    elif spec.weights == weights.NONE:
        randomise(net, spec.seed)
        return weights.none_label(spec)
    else:
        state = _download(spec, name, config).state_dict()
        label = f"{config.architecture}.{config.tag} ({config.license or 'license not given'})"
    heads = (config.classifier,) if isinstance(config.classifier, str) else config.classifier or ()
    beginnings = tuple(f"{head}." for head in heads)
    return weights.load_state(net, state, spec, label, lambda key, *_: key.startswith(beginnings))


def _download(spec: ModelSpec, name: str, config: Any) -> nn.Module:
    """Return the network with official weights and all of its classes, loaded by timm."""
    if not config.has_weights:
        expected = f"{weights.NONE}, or a {weights.FILE}: timm publishes none for {name}"
        raise InvalidInput("spec.model.weights", spec.weights, expected)
    source = f"https://huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else config.url
    tagged = f"{config.architecture}.{config.tag}"
    try:
        if config.hf_hub_id:
            hub.check_reachable(config.hf_hub_id, config.hf_hub_filename, hub.cache_folder())
        return _construct(spec, name, config, None, pretrained=True)
    except Exception as error:  # the clients of timm's hosts raise exceptions of their own
        raise weights.download_failed(tagged, spec.name, source, error) from error


def _class_names(config: Any) -> tuple[str, ...]:
    """Return the names of the classes that the weights are for, those of ImageNet as torchvision.

    Empty if timm does not know them.
    """
    data = _timm("timm.data")
    subset = data.infer_imagenet_subset({"num_classes": config.num_classes})
    if subset is None:
        return ()
    if subset == "imagenet-1k":
        return tuple(ResNet18_Weights.DEFAULT.meta["categories"])
    return tuple(data.ImageNetInfo(subset).label_descriptions())
