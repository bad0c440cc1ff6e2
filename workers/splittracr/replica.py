"""One worker's copy of the network: built, captured, proven, and ready to run either part.

Both ends hold the whole network, so a cut is only a number in a message.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from splittracr.data import datasets
from splittracr.data.contracts import PostProcessor, Reduced
from splittracr.data.postprocess import registry as postprocessors
from splittracr.experiment.errors import CutRefused, InvalidInput
from splittracr.experiment.spec import ExperimentSpec
from splittracr.experiment.types import Cut
from splittracr.measure import device as devices
from splittracr.models import registry as models
from splittracr.models.network import Network
from splittracr.results.environment import End
from splittracr.splitting.capture import capture
from splittracr.splitting.fingerprint import graph_fingerprint, weights_digest
from splittracr.splitting.prove import Proof, prove
from splittracr.splitting.tape import Tape
from splittracr.wire.messages import Identity


@dataclass(frozen=True)
class Replica:
    """A proven network on a device."""

    network: Network
    tape: Tape
    proof: Proof
    identity: Identity
    device: torch.device
    postprocessor: PostProcessor

    @property
    def last(self) -> int:
        """The index of the cut `output`: everything on the edge."""
        return len(self.tape)

    def cut(self, reference: int | str, field: str = "spec.partition.cut") -> Cut:
        """The cut by name or index. InvalidInput if there is none, CutRefused if not exact."""
        cut = self.proof.cuts[self.tape.index(reference, field)]
        reason = self.proof.refused.get(cut.name)
        if reason is not None:
            raise CutRefused(f"cut {cut.name} of {self.network.name} is refused: {reason}")
        return cut

    @torch.inference_mode()
    def head(self, cut: int, batch: Tensor) -> list[Any]:
        """Live values at `cut` for an input batch on any device."""
        return self.tape.head(cut, batch.to(self.device))

    @torch.inference_mode()
    def tail(self, cut: int, live: Sequence[Any]) -> Any:
        """The raw output from live values on this replica's device."""
        return self.tape.tail(cut, live)

    @torch.inference_mode()
    def reduce(self, output: Any) -> list[Reduced]:
        """The numeric post-processing, one result a picture."""
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
    return assemble(network, spec, device)


def assemble(network: Network, spec: ExperimentSpec, device: torch.device) -> Replica:
    """Move a network to its device, capture it and prove it."""
    if network.variable_shape and spec.workload.batch_size > 1:
        expected = f"1, {network.name} keeps each picture's own size"
        raise InvalidInput("spec.workload.batchSize", spec.workload.batch_size, expected)
    network.module.to(device)
    example = example_batch(network, spec.workload.batch_size).to(device)
    with torch.inference_mode():
        tape = capture(network.module, example, network.leaves)
    name = spec.postprocess.name or network.postprocessor
    return Replica(
        network=network,
        tape=tape,
        proof=prove(tape, example),
        identity=Identity(
            network=network.name,
            fingerprint=graph_fingerprint(tape),
            weights=weights_digest(network.module),
            batch=spec.workload.batch_size,
            outputs=spec.results.outputs,
        ),
        device=device,
        postprocessor=postprocessors.create(name, spec.postprocess, network.classes),
    )


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
