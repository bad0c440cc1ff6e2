"""Prove on this machine that every cut of every network is exact. `make verify-models` runs it.

Weights are random, or real if a package ships them, and pictures are small if the network allows
it: neither changes where a network can be cut. It prints one line a network. The exit status is 1
if a cut is refused, an output differs, or an output is empty, constant or not finite.
"""

import argparse
import ctypes
import fnmatch
import gc
import json
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from splittracr.backends.torch import transformers_folders
from splittracr.backends.torch.device import TorchDevice
from splittracr.backends.torch.examples import example_batch
from splittracr.data import importing
from splittracr.experiment.errors import reason
from splittracr.experiment.spec import TIMM_PREFIX, TRANSFORMERS_PREFIX, ModelSpec, Source
from splittracr.measure import machine
from splittracr.models import registry
from splittracr.models.network import Network
from splittracr.splitting.capture import capture
from splittracr.splitting.proof import Proof
from splittracr.splitting.prove import prove, same, through_wire
from splittracr.splitting.tape import Tape

SINGLE_CUTS = 12
"""Cuts of a network that are also run alone: head, wire, tail."""

ROUNDS = 5
"""Timed runs of the whole and of the split network, in turn, after one of each that is not."""

_OWN_NETWORK = "custom_study:ShapesNet"

# The smallest scale of every family and task, and families that have only larger ones.
_SMALLEST = re.compile(
    r"(yolov?(6|8|10|11|12|26)n(-(?!rtdetr).*)?|yolov5n(u|-p6)|yolov3-tinyu|yolov9(t|c-seg)"
    r"|yolo11-cls-resnet18|yolov8n-rtdetr|rtdetr-l)"
)
# A small one of each family of timm.
_TIMM = re.compile(
    "bat_resnext26ts|beit_base_patch16_224|botnet26t_256|cait_xxs24_224|coat_lite_tiny|"
    "coatnet_nano_rw_224|convit_tiny|convmixer_768_32|convnext_atto|convnextv2_atto|"
    "crossvit_tiny_240|cs3darknet_focus_s|cspresnet50|davit_tiny|"
    "deit_tiny_distilled_patch16_224|densenet121|dla34|dm_nfnet_f0|dpn48b|edgenext_xx_small|"
    "efficientformer_l1|efficientformerv2_s0|efficientnet_b0|efficientvit_b0|efficientvit_m0|"
    "eva02_tiny_patch14_336|fastvit_t8|fbnetc_100|focalnet_tiny_srf|gcvit_xxtiny|gernet_s|"
    "ghostnet_050|ghostnetv2_100|gmixer_24_224|gmlp_ti16_224|hardcorenas_a|hgnetv2_b0|"
    "hiera_tiny_224|hrnet_w18_small|inception_next_atto|inception_v4|lcnet_050|levit_128s|"
    "mambaout_femto|maxvit_rmlp_pico_rw_256|mixer_s32_224|mixnet_s|mnasnet_050|"
    "mobilenetv1_100|mobilenetv3_small_050|mobilenetv4_conv_small_035|mobileone_s0|"
    "mobilevit_xxs|mobilevitv2_050|mvitv2_tiny|nest_tiny|nf_resnet26|pit_ti_224|"
    "poolformer_s12|poolformerv2_s12|pvt_v2_b0|rdnet_tiny|regnetx_002|regnety_002|"
    "repghostnet_050|repvgg_a0|repvit_m0_9|res2net50_14w_8s|resmlp_12_224|resnest14d|"
    "resnet10t|resnet18|resnetv2_18|resnext26ts|rexnet_100|selecsls42b|sequencer2d_s|shvit_s1|"
    "skresnet18|starnet_s050|swiftformer_xs|swin_tiny_patch4_window7_224|"
    "swinv2_cr_tiny_ns_224|swinv2_tiny_window8_256|tiny_vit_5m_224|tinynet_e|"
    "tnt_s_legacy_patch16_224|tresnet_m|twins_svt_small|vgg11|visformer_tiny|"
    "vit_tiny_patch16_224|vitamin_small_224|volo_d1_224|xception41|xcit_nano_12_p16_224"
)
_SIZES: Sequence[tuple[str, tuple[int, int] | None]] = (
    # These take their own size only, or many of them do.
    ("maxvit_*|mvit_*|s3d|ssd*|timm/*|transformers/*", None),
    ("vit_h_14", (56, 56)),
    ("inception_v3", (96, 96)),
    ("*rcnn_*|fcos_*|retinanet_*", (96, 128)),
    ("*", (64, 64)),
)
# Detectors with random weights: every score counts, and few boxes are enough.
_FEW_BOXES = {
    "score_thresh": 0.0,
    "topk_candidates": 50,
    "detections_per_img": 10,
    "_post_nms_top_n": {"training": 0, "testing": 10},
}


@dataclass(frozen=True)
class Verdict:
    """The findings about one network.

    `ratio` is the time of head and tail over that of the whole network; `problems` is empty if the
    network is exact.
    """

    name: str
    source: str
    cuts: int
    refused: tuple[str, ...]
    ratio: float
    seconds: float
    problems: tuple[str, ...]

    def line(self) -> str:
        """The verdict in one line of text."""
        verdict = "exact" if not self.problems else "NOT EXACT: " + "; ".join(self.problems)
        return (
            f"{self.name:40} {self.cuts:5} cuts  {self.ratio:5.2f} x eager  "
            f"{self.seconds:6.1f} s  {verdict}"
        )


def everything() -> list[str]:
    """All networks of torchvision, a small one of every family of ultralytics, timm and
    transformers, and the others.
    """
    names = registry.names()
    found = [
        *names[Source.EFFICIENTNET_LITE],
        *names[Source.TORCHVISION],
        *(name for name in names[Source.ULTRALYTICS] if _SMALLEST.fullmatch(name)),
        *(name for name in names[Source.TIMM] if _TIMM.fullmatch(name.removeprefix(TIMM_PREFIX))),
    ]
    if find_spec("transformers") is not None:
        found += [TRANSFORMERS_PREFIX + kind for kind in transformers_folders.KINDS]
    examples = Path("configs")
    if (examples / "custom_study.py").exists():
        importing.look_in(examples.resolve())
        found.append(_OWN_NETWORK)
    return found


def verify(names: Sequence[str], json_path: Path | None = None) -> bool:
    """Check the networks one by one and print a line for each; return whether all are exact.

    Writes all verdicts and the machine's description to `json_path` if it is given.
    """
    torch.set_num_threads(1)
    verdicts = []
    for name in names:
        verdicts.append(check(name))
        print(verdicts[-1].line(), flush=True)
        free_memory()
    bad = [verdict.name for verdict in verdicts if verdict.problems]
    cuts = sum(verdict.cuts for verdict in verdicts)
    print(f"{len(verdicts)} models, {cuts} cuts, {len(bad)} models with problems")
    if json_path is not None:
        here = {
            "processor": machine.processor(),
            "capability": TorchDevice(torch.device("cpu")).capability,
            "versions": machine.versions(),
        }
        content = {"machine": here, "networks": [asdict(v) for v in verdicts]}
        json_path.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    return not bad


def check(name: str) -> Verdict:
    """Check one network. An error while it is built or captured becomes a problem."""
    started = time.perf_counter()
    try:
        network = _build(name)
        batch = example_batch(network, 1)
        with torch.inference_mode():
            tape = capture(network.module, batch, network.leaves, network.within)
        proof = prove(tape, batch)
        with torch.inference_mode():
            problems = [*_refused(proof), *_single_cuts(network, tape, proof, batch)]
            problems += _vacuous(network, batch)
            ratio = _ratio(network, tape, batch)
    except Exception as error:  # noqa: BLE001 - the next networks are still to be checked
        seconds = time.perf_counter() - started
        return Verdict(name, "", 0, (), 0.0, seconds, (reason(error),))
    return Verdict(
        name=name,
        source=str(network.source),
        cuts=len(proof.cuts),
        refused=tuple(proof.refused),
        ratio=ratio,
        seconds=time.perf_counter() - started,
        problems=tuple(problems),
    )


def _build(name: str) -> Network:
    shipped = name in registry.names()[Source.EFFICIENTNET_LITE]
    size = _size(name)
    spec = ModelSpec(name=name, weights="official" if shipped else "none", input_size=size)
    with transformers_folders.base_of(name) as base:
        network = registry.build(spec, base)
    for module in network.module.modules():
        _few_boxes(module)
    return network


def _size(name: str) -> tuple[int, int] | None:
    if name == _OWN_NETWORK:
        return None
    return next(
        size
        for patterns, size in _SIZES
        if any(fnmatch.fnmatch(name, pattern) for pattern in patterns.split("|"))
    )


def _few_boxes(module: nn.Module) -> None:
    for attribute, value in _FEW_BOXES.items():
        if hasattr(module, attribute):
            setattr(module, attribute, value)


def _refused(proof: Proof) -> list[str]:
    return [f"cut {name}: {reason}" for name, reason in proof.refused.items()]


def _single_cuts(network: Network, tape: Tape, proof: Proof, batch: Tensor) -> list[str]:
    """Cuts spread over the network, each run alone and compared with the eager network."""
    expected = network.module(batch)
    offered = sorted(proof.offered())
    last = len(offered) - 1
    chosen = {offered[round(i * last / (SINGLE_CUTS - 1))] for i in range(SINGLE_CUTS)}
    problems = []
    for k in sorted(chosen):
        output = tape.tail(k, through_wire(tape.head(k, batch)))
        if not same(output, expected):
            problems.append(f"cut {tape.cut_names[k]}: not the output of the eager model")
    return problems


def _vacuous(network: Network, batch: Tensor) -> list[str]:
    """Problems of an output that makes a comparison worthless: empty, constant, not finite."""
    first = _numbers(network.module(batch))
    other = _numbers(network.module(batch.flip(-1) // 2))
    if not first.numel() or not first.isfinite().all():
        return ["the output is empty or not finite"]
    if bool((first == first[0]).all()) or torch.equal(first, other):
        return ["the output is constant"]
    return []


def _numbers(output: Any) -> Tensor:
    """All floating-point numbers of an output as one flat tensor."""
    leaves = [leaf for leaf in tree_flatten(output)[0] if isinstance(leaf, Tensor)]
    found = [leaf.flatten().float() for leaf in leaves if leaf.is_floating_point()]
    return torch.cat(found) if found else torch.empty(0)


def _ratio(network: Network, tape: Tape, batch: Tensor) -> float:
    """Time of head and tail at the middle cut over that of the eager network."""
    middle = len(tape) // 2

    def split() -> Any:
        return tape.tail(middle, tape.head(middle, batch))

    def eager() -> Any:
        return network.module(batch)

    times = [(_seconds(split), _seconds(eager)) for _ in range(ROUNDS + 1)][1:]
    return statistics.median(s for s, _ in times) / statistics.median(e for _, e in times)


def _seconds(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def free_memory() -> None:
    """Release the last network's memory: the next one may need all of it."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, musl does not
        if trim is not None:
            trim(0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks. The exit status is 1 if a network is not exact."""
    parser = argparse.ArgumentParser(prog="make verify-models", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the verdicts there too")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="such as 'resnet*'")
    options = parser.parse_args(arguments)
    names = [name for name in everything() if fnmatch.fnmatch(name, options.only)]
    if not names:
        parser.error(f"no model is called like {options.only!r}")
    return 0 if verify(names, options.json) else 1


if __name__ == "__main__":
    sys.exit(main())
