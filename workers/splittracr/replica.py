"""One worker's copy of the network: built, captured, proven, and ready to run either part.

Both ends hold the whole network, so a cut is only a number in a message.
"""

import dataclasses
import math
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from splittracr.data import datasets
from splittracr.data.containment import contained
from splittracr.data.contracts import Dataset, PostProcessor, Reduced, Sample
from splittracr.data.importing import import_object
from splittracr.data.postprocess import registry as postprocessors
from splittracr.data.postprocess.raw import Raw, layout_of
from splittracr.experiment.errors import (
    CaptureError,
    CutRefused,
    FrameFailed,
    InvalidInput,
    SplittracrError,
    reason,
)
from splittracr.experiment.profile import Profile
from splittracr.experiment.spec import DatasetSpec, ExperimentSpec, LayerRef, StaticCut
from splittracr.experiment.types import Cut
from splittracr.measure import device as devices
from splittracr.measure.profiler import Subject, profile
from splittracr.models import registry as models
from splittracr.models.layers import top_level
from splittracr.models.network import Network, Task
from splittracr.planning.adapt import codec_names
from splittracr.results.environment import End
from splittracr.splitting.batching import batchable
from splittracr.splitting.behaviour import Behaviour
from splittracr.splitting.capture import capture
from splittracr.splitting.fingerprint import graph_fingerprint, weights_digest
from splittracr.splitting.layers import Layers, layers
from splittracr.splitting.prove import Observe, Proof, prove, unsendable
from splittracr.splitting.sources import files, libraries, modules_of
from splittracr.splitting.tape import Tape
from splittracr.wire.identity import settings_text
from splittracr.wire.messages import Identity, Mark


@dataclass(frozen=True)
class Replica:
    """A proven network on a device. Requests at the cuts `batchable` may be computed together."""

    network: Network
    tape: Tape
    proof: Proof
    identity: Identity
    device: torch.device
    postprocessor: PostProcessor
    batchable: frozenset[int] = frozenset()
    _counted: dict[int, Layers] = field(default_factory=dict, repr=False)

    @property
    def last(self) -> int:
        """The index of the cut `output`: everything on the edge."""
        return len(self.tape)

    @property
    def outputs(self) -> int | None:
        """The number of classes that a classifier scores; None if that is not known."""
        if self.network.classes or self.network.task is not Task.CLASSIFY:
            return len(self.network.classes) or None
        shapes = [tensor.shape for tensor in self.proof.cuts[-1].live]
        return shapes[0][1] if len(shapes) == 1 and len(shapes[0]) == 2 else None

    def cut(self, reference: StaticCut, field: str = "spec.partition.cut") -> Cut:
        """The cut by name, index or layer.

        Raises InvalidInput if there is none, CutRefused if it is not exact.
        """
        if isinstance(reference, LayerRef):
            index = self._after(reference)
        else:
            index = self.tape.index(reference, field)
        cut = self.proof.cuts[index]
        reason = self.proof.refused.get(cut.name)
        if reason is not None:
            raise CutRefused(f"cut {cut.name} of {self.network.name} is refused: {reason}")
        return cut

    def _after(self, layer: LayerRef) -> int:
        """The index of the cut after a layer. InvalidInput lists the layers that have one."""
        found = self._layers(layer.depth)
        cut = found.cuts[layer.index] if layer.index < len(found.cuts) else None
        if cut is None:
            expected = f"a layer of {self.network.name}, {found.valid()}"
            if layer.index < len(found.names):
                expected += f"; {found.names[layer.index]} lies inside an operation"
            raise InvalidInput("spec.partition.layer", layer.index, expected)
        return cut

    @torch.inference_mode()
    def _layers(self, depth: int) -> Layers:
        if depth not in self._counted:
            module = self.network.module
            example = example_batch(self.network, self.identity.batch).to(self.device)
            run = partial(module, example)
            self._counted[depth] = layers(self.tape, top_level(module), run, depth)
        return self._counted[depth]

    @torch.inference_mode()
    def head(self, cut: int, batch: Tensor) -> list[Any]:
        """Live values at `cut` for an input batch on any device."""
        return self.tape.head(cut, batch.to(self.device))

    @torch.inference_mode()
    def tail(self, cut: int, live: Sequence[Any], abandon: threading.Event | None = None) -> Any:
        """The raw output from live values on this replica's device; Abandoned if that is set."""
        return self.tape.tail(cut, live, abandon)

    @torch.inference_mode()
    def reduce(self, output: Any) -> list[Reduced]:
        """The numeric post-processing, one result a picture.

        Raises FrameFailed if the output has a tensor that is not dense, or a value that is NaN or
        infinite, which every post-processor would make a prediction of, or drop, without an error.
        """
        if not all(_finite(value) for value in tree_leaves(output)):
            raise FrameFailed("the network's output is not finite")
        return self.postprocessor.reduce(output)

    def end(self) -> End:
        """What the environment file says of this end."""
        return End(
            hostname=devices.hostname(),
            processor=devices.processor(),
            cores=devices.cores(),
            threads=torch.get_num_threads(),
            device=str(self.device),
            capability=devices.capability(self.device),
            graph_fingerprint=self.identity.fingerprint,
            weights_digest=self.identity.weights,
            versions=devices.versions(),
        )


def build(spec: ExperimentSpec, side: str, base: Path) -> Replica:
    """Build, capture and prove the network of `spec` for `side`, "edge" or "server".

    Sets the threads of this process. Relative paths of the manifest start at `base`.
    """
    worker = spec.edge if side == "edge" else spec.server
    torch.set_num_threads(worker.threads)
    device = devices.resolve(worker.device, f"spec.{side}.device")
    network = models.build(spec.model, base)
    if spec.dataset.class_names is not None:
        outputs = len(network.classes) or None
        names = datasets.read_class_names(spec.dataset.class_names, base, outputs)
        network = dataclasses.replace(network, classes=names)
    own = assemble(network, spec, device)
    if side == "server" and spec.server.max_batch > 1 and spec.results.outputs == "Reduced":
        examples = [
            example_batch(network, spec.workload.batch_size, seed).to(device) for seed in (1, 2)
        ]
        return dataclasses.replace(own, batchable=batchable(own.tape, examples))
    return own


def assemble(network: Network, spec: ExperimentSpec, device: torch.device) -> Replica:
    """Move a network to its device, capture it and prove it."""
    if network.variable_shape and spec.workload.batch_size > 1:
        expected = f"1, {network.name} keeps each picture's own size"
        raise InvalidInput("spec.workload.batchSize", spec.workload.batch_size, expected)
    network.module.to(device)
    behaviour = Behaviour()
    tape, proof = proven(network, spec.workload.batch_size, device, behaviour.observe)
    name = spec.postprocess.name or network.postprocessor
    postprocessor = _postprocessor(name, network, behaviour.output, spec, device)
    proof = _with_reply(proof, behaviour.output, postprocessor, spec.results.outputs)
    second = second_batch(network, spec.workload.batch_size).to(device)
    marks = behaviour.finish(tape, second, postprocessor, name)
    return Replica(
        network=network,
        tape=tape,
        proof=proof,
        identity=_identity(network, tape, spec, postprocessor, device, marks),
        device=device,
        postprocessor=postprocessor,
    )


@torch.inference_mode()
def _with_reply(proof: Proof, output: Any, postprocessor: PostProcessor, outputs: str) -> Proof:
    """The proof with every cut refused that needs a reply, if replies do not survive the wire."""
    try:
        reply = output if outputs == "Raw" else [dict(one) for one in postprocessor.reduce(output)]
    except Exception:  # noqa: BLE001 - the user's own code; what it raises fails each sample
        return proof
    reason = unsendable(reply)
    if reason is None:
        return proof
    replied = {cut.name: f"the result cannot be sent back: {reason}" for cut in proof.cuts[:-1]}
    return dataclasses.replace(proof, refused={**proof.refused, **replied})


def _postprocessor(
    name: str, network: Network, output: Any, spec: ExperimentSpec, device: torch.device
) -> PostProcessor:
    """The post-processor `name`; one of raw outputs gets the layout of the parts of `output`."""
    made = postprocessors.create(name, spec.postprocess, network.classes)
    if not isinstance(made, Raw):
        return made
    batch = spec.workload.batch_size
    # Outside inference mode: what the module remembers of this run has to be of use anywhere.
    with torch.inference_mode(False), torch.no_grad():
        try:
            larger = network.module(example_batch(network, batch + 1).to(device))
        except Exception:  # noqa: BLE001 - the network's own code, which may need its batch size
            larger = None
    return dataclasses.replace(made, layout=layout_of(output, batch, larger))


def _identity(
    network: Network,
    tape: Tape,
    spec: ExperimentSpec,
    postprocessor: PostProcessor,
    device: torch.device,
    marks: tuple[Mark, ...],
) -> Identity:
    others: list[Any] = [type(postprocessor)]
    if ":" in spec.model.name:
        others.append(import_object(spec.model.name, "spec.model.name"))
    roots = modules_of(network.module, tape, others)
    return Identity(
        network=network.name,
        fingerprint=graph_fingerprint(tape),
        weights=weights_digest(network.module),
        batch=spec.workload.batch_size,
        outputs=spec.results.outputs,
        settings=_settings(network, spec),
        versions=libraries(roots),
        code=files(roots),
        processor=devices.arithmetic(device),
        marks=marks,
    )


def proven(
    network: Network, batch: int, device: torch.device, observe: Observe | None = None
) -> tuple[Tape, Proof]:
    """The tape of a network that is on `device`, and its proof, for batches of `batch` samples.

    `observe` gets the values at every cut. Raises InvalidInput where the network itself cannot take
    its input, CaptureError where it can and has no graph.
    """
    example = example_batch(network, batch).to(device)
    with torch.inference_mode():
        try:
            tape = capture(network.module, example, network.leaves)
        except CaptureError:
            _try_eager(network, example)
            raise
    return tape, prove(tape, example, observe)


def _try_eager(network: Network, example: Tensor) -> None:
    try:
        network.module(example.clone())
    except Exception as error:  # the network's own code may raise anything
        expected = f"a network that takes the input {list(example.shape)} ({reason(error)})"
        raise InvalidInput("spec.model.name", network.name, expected) from error


def _settings(network: Network, spec: ExperimentSpec) -> str:
    """The manifest's network, but for where a machine keeps its weights, its post-processing,
    and the class names in use.
    """
    model = spec.model.model_dump(mode="json", by_alias=True, exclude={"weights_file"})
    post = spec.postprocess.model_dump(mode="json", by_alias=True)
    settings = {f"spec.model.{key}": value for key, value in model.items()}
    settings |= {f"spec.postprocess.{key}": value for key, value in post.items()}
    return settings_text({**settings, "class names": network.classes})


def _finite(value: Any) -> bool:
    if not isinstance(value, Tensor):
        return True
    if value.is_nested or value.is_quantized or value.layout is not torch.strided:
        kind = value.dtype if value.is_quantized else "nested" if value.is_nested else value.layout
        raise FrameFailed(f"the network's output is a {kind} tensor, expected a dense one")
    if not value.numel():
        return True
    if value.is_floating_point() and value.dtype.itemsize == 1:
        value = value.float()  # float8 has no comparison
    if value.is_complex():
        value = torch.view_as_real(value.resolve_conj())
    if not value.is_floating_point():
        return True
    # The extremes carry a NaN too, and take a tenth of the time of a look at every element.
    return all(math.isfinite(extreme) for extreme in value.aminmax())


def frames(own: Replica, count: int, dataset: Dataset | None = None) -> list[Tensor]:
    """`count` batches to measure with, each of one sample: of the data set, or the pictures shipped
    here; random ones where the network takes no pictures, or none of these can be read.
    """
    network, batch = own.network, own.identity.batch
    shipped = datasets.open_dataset(DatasetSpec(), Path()) if network.pictures else None
    source = dataset or shipped
    made = []
    if source is not None:
        found = inputs(network, source, (i % len(source) for i in range(count)))
        made = [torch.stack([one] * batch) for one in found]
    return made or [example_batch(network, batch, seed) for seed in range(count)]


def inputs(network: Network, source: Dataset, indices: Iterable[int]) -> Iterator[Tensor]:
    """The network's input for the samples at `indices`, without those that cannot be read."""
    for index in indices:
        try:
            with contained():
                found = prepared(network, datasets.load(source, index))
        except Exception:  # noqa: BLE001 - a user's data set can raise anything
            continue
        yield found


def prepared(network: Network, sample: Sample) -> Tensor:
    """The network's input for a sample, without the batch dimension.

    Raises SplittracrError if it has another dtype or shape than the network takes.
    """
    if sample.picture is not None:
        made = network.prepare(sample.picture)
    elif sample.data is not None:
        made = sample.data
    else:
        raise SplittracrError(f"{sample.name} has neither a picture nor data")
    free = 2 if network.variable_shape else 0  # trailing dimensions of any size
    fixed = len(network.shape) - free
    fits = made.dim() == len(network.shape) and tuple(made.shape[:fixed]) == network.shape[:fixed]
    if made.dtype is not network.input_dtype or not fits:
        advice = ""
        if sample.picture is None and network.pictures:
            advice = "; return a PIL picture or an array [H, W, 3] of uint8 to have it resized"
        raise SplittracrError(
            f"{sample.name} became {made.dtype} {list(made.shape)}, the network takes "
            f"{network.input_dtype} {list(network.shape)}{advice}"
        )
    return made


def subject(own: Replica, spec: ExperimentSpec) -> Subject:
    """This replica as the profiler takes it."""
    return Subject(
        network=own.network,
        tape=own.tape,
        proof=own.proof,
        device=own.device,
        dtype=spec.model.dtype.value,
        reduce=own.reduce,
        ranking=own.postprocessor.ranking,
    )


def measured(
    own: Replica, spec: ExperimentSpec, batches: Sequence[Tensor], judged: Sequence[Tensor] = ()
) -> Profile:
    """The profile of this replica, with the codecs that mode Adaptive may choose from.

    On the batches `judged` lossy codecs are judged.
    """
    codecs, pictures = codec_names(spec)
    return profile(subject(own, spec), batches, codecs, pictures, judged=judged)


def example_batch(network: Network, batch: int, seed: int = 0) -> Tensor:
    """A seeded random input batch, the same on every machine.

    Bytes for pictures; otherwise values in [-1, 1) made from 24 random bits each.
    """
    shape = (batch, *network.shape)
    draw = np.random.Generator(np.random.Philox(seed))
    if network.input_dtype is torch.uint8:
        return torch.from_numpy(draw.integers(0, 256, shape, dtype=np.uint8))
    bits = draw.integers(-(2**23), 2**23, shape, dtype=np.int32)
    return (torch.from_numpy(bits).to(torch.float32) / 2**23).to(network.input_dtype)


def second_batch(network: Network, batch: int) -> Tensor:
    """Another input batch that is the same on every machine, unlike the random one.

    For pictures a ramp from dark to bright, which starts elsewhere in each channel; otherwise
    random values whose sizes lie between 2**-8 and 2**4.
    """
    shape = (batch, *network.shape)
    if network.input_dtype is torch.uint8:
        rows = max(math.prod(shape[:-2]), 1)
        pixels = np.arange(math.prod(shape[-2:]), dtype=np.int64) * 256 // math.prod(shape[-2:])
        starts = np.arange(rows, dtype=np.int64)[:, None] * 85
        ramp = ((pixels[None] + starts) % 256).astype(np.uint8)
        return torch.from_numpy(ramp.reshape(shape))
    values = example_batch(network, batch, seed=1)
    if not values.is_floating_point():
        return values
    exponents = np.arange(values.numel(), dtype=np.int32).reshape(shape) % 13 - 8
    scaled = np.ldexp(values.to(torch.float32).numpy(), exponents)  # exact
    return torch.from_numpy(scaled).to(network.input_dtype)
