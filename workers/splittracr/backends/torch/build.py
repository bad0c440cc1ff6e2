"""From a manifest to a proven network of torch: the `Runtime` of torch."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from splittracr.backends import settings
from splittracr.backends.torch.device import TorchDevice, resolve
from splittracr.backends.torch.examples import example_batch, second_batch
from splittracr.backends.torch.proven import ProvenNetwork
from splittracr.backends.torch.timing import OperationTimes
from splittracr.data import datasets
from splittracr.data.contracts import PostProcessor
from splittracr.data.importing import import_object
from splittracr.data.postprocess import registry as postprocessors
from splittracr.data.postprocess.raw import Raw, layout_of
from splittracr.experiment.errors import CaptureError, InvalidInput, reason
from splittracr.experiment.spec import ExperimentSpec, ModelSpec
from splittracr.models import registry as models
from splittracr.models.network import Network
from splittracr.splitting.batching import batchable
from splittracr.splitting.behaviour import Behaviour
from splittracr.splitting.capture import capture
from splittracr.splitting.fingerprint import graph_fingerprint, weights_digest
from splittracr.splitting.proof import Proof
from splittracr.splitting.prove import Observe, prove, unsendable
from splittracr.splitting.sources import files, libraries, modules_of
from splittracr.splitting.tape import Tape
from splittracr.wire.messages import Identity, PartDigest


def build(spec: ExperimentSpec, side: str, base: Path) -> ProvenNetwork:
    """Build, capture and prove the network of `spec` for `side`, "edge" or "server".

    Sets the threads of this process. Relative paths of the manifest start at `base`.
    """
    worker = spec.edge if side == "edge" else spec.server
    torch.set_num_threads(worker.threads)
    device = resolve(worker.device, f"spec.{side}.device")
    network = models.build(spec.model, base)
    file = spec.dataset.class_names
    if file is not None:
        outputs = spec.model.num_classes or len(network.classes) or None
        names = datasets.read_class_names(file, base, outputs)
        network = dataclasses.replace(network, classes=names)
    own = assemble(network, spec, device)
    if file is not None:
        datasets.check_class_names(file, len(network.classes), own.scored)
    if side == "server" and spec.server.max_batch > 1 and spec.results.outputs == "Reduced":
        examples = [
            example_batch(network, spec.workload.batch_size, seed).to(device) for seed in (1, 2)
        ]
        return dataclasses.replace(own, batchable=batchable(own.tape, examples))
    return own


def prove_cuts(spec: ModelSpec, batch: int) -> tuple[str, Proof]:
    """The name and the cuts of a network, on the processor and on one thread."""
    torch.set_num_threads(1)
    return prove_on(spec, batch, torch.device("cpu"))


def prove_on(spec: ModelSpec, batch: int, device: torch.device) -> tuple[str, Proof]:
    """The name and the cuts of a network on a device."""
    network = models.build(spec, Path.cwd())
    network.module.to(device)
    _, proof, _ = prove_network(network, batch, device)
    return network.name, proof


def assemble(network: Network, spec: ExperimentSpec, device: torch.device) -> ProvenNetwork:
    """Move a network to its device, capture it and prove it."""
    if network.variable_shape and spec.workload.batch_size > 1:
        expected = f"1, {network.name} keeps each picture's own size"
        raise InvalidInput("spec.workload.batchSize", spec.workload.batch_size, expected)
    network.module.to(device)
    behaviour = Behaviour()
    tape, proof, times = prove_network(network, spec.workload.batch_size, device, behaviour.observe)
    name = spec.postprocess.name or network.postprocessor
    naming = partial(_postprocessor, name, network, behaviour.output, spec, device)
    postprocessor = naming(network.classes)
    proof = _with_reply(proof, behaviour.output, postprocessor, name, spec)
    second = second_batch(network, spec.workload.batch_size).to(device)
    parts = behaviour.finish(tape, second, postprocessor, name)
    here = TorchDevice(device)
    return ProvenNetwork(
        network=network,
        tape=tape,
        proof=proof,
        identity=_identity(network, tape, spec, postprocessor, here, parts),
        device=here,
        postprocessor=postprocessor,
        operation_times=times,
        naming=naming,
    )


@torch.inference_mode()
def _with_reply(
    proof: Proof, output: Any, postprocessor: PostProcessor, name: str, spec: ExperimentSpec
) -> Proof:
    """The proof with every cut refused that needs a reply, if replies do not survive the wire.

    Raises InvalidInput if `reduce` returns something other than one mapping a picture.
    """
    reply, raw = output, spec.results.outputs == "Raw"
    try:
        reduced = postprocessor.reduce(output)
    except Exception:  # noqa: BLE001 - the user's own code; its errors fail each sample
        if not raw:
            return proof
    else:
        postprocessors.check_reduced(name, reduced, spec.workload.batch_size)
        reply = output if raw else [dict(one) for one in reduced]
    reason = unsendable(reply)
    if reason is None:
        return proof
    replied = {cut.name: f"the result cannot be sent back: {reason}" for cut in proof.cuts[:-1]}
    return dataclasses.replace(proof, refused={**proof.refused, **replied})


def _postprocessor(
    name: str,
    network: Network,
    output: Any,
    spec: ExperimentSpec,
    device: torch.device,
    classes: tuple[str, ...],
) -> PostProcessor:
    """The post-processor `name` with these class names; one of raw outputs gets the layout of the
    parts of `output`.
    """
    made = postprocessors.create(name, spec.postprocess, classes)
    if not isinstance(made, Raw):
        return made
    batch = spec.workload.batch_size
    # Outside inference mode: tensors that the module keeps from this run must be usable anywhere.
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
    device: TorchDevice,
    parts: tuple[PartDigest, ...],
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
        settings=settings.text(network.classes, spec),
        versions=libraries(roots),
        code=files(roots),
        processor=device.arithmetic,
        parts=parts,
    )


def prove_network(
    network: Network, batch: int, device: torch.device, observe: Observe | None = None
) -> tuple[Tape, Proof, OperationTimes]:
    """The tape of a network that is on `device`, its proof for batches of `batch` samples, and the
    times that its operations took.

    `observe` gets the values at every cut. Raises InvalidInput if the network itself cannot take
    its input, CaptureError if it can and has no graph.
    """
    example = example_batch(network, batch).to(device)
    with torch.inference_mode():
        try:
            tape = capture(network.module, example, network.leaves, network.within)
        except CaptureError:
            _try_eager(network, example)
            raise
    times = OperationTimes(len(tape), TorchDevice(device))
    return tape, prove(tape, example, observe, times.proof), times


def _try_eager(network: Network, example: Tensor) -> None:
    try:
        network.module(example.clone())
    except Exception as error:  # the network's own code may raise anything
        expected = f"a model that takes the input {list(example.shape)} ({reason(error)})"
        raise InvalidInput("spec.model.name", network.name, expected) from error
