"""A network whose half ONNX Runtime computes: the `Backend` of OnnxRuntime.

PyTorch stays beside it: it prepares inputs, packs live tensors and reduces outputs, and cuts are
compared with it. Only heads and tails run in sessions.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import onnxruntime
import torch
from torch import Tensor

from splittracr.backends.onnx.halves import Halves
from splittracr.backends.protocol import Part
from splittracr.backends.torch.halves_profile import with_halves
from splittracr.backends.torch.proven import ProvenNetwork
from splittracr.experiment.contracts import Runtime
from splittracr.experiment.errors import Abandoned
from splittracr.experiment.profile import Profile
from splittracr.experiment.spec import ExperimentSpec
from splittracr.experiment.types import OperationTime


@dataclass(frozen=True)
class OnnxNetwork(ProvenNetwork):
    """A proven network with heads and tails in ONNX Runtime, on the processor."""

    halves: Halves = field(kw_only=True)

    @property
    def runtime(self) -> Runtime:
        """What computes its operations."""
        return Runtime.ONNX_RUNTIME

    @torch.inference_mode()
    def head(self, cut: int, batch: Tensor, *, timed: bool = False) -> list[Any]:
        """Live values at `cut` for an input batch. A session times no single operations."""
        del timed
        return self.halves.run(0, cut, [batch])

    @torch.inference_mode()
    def tail(
        self,
        cut: int,
        live: Sequence[Any],
        abandon: threading.Event | None = None,
        *,
        timed: bool = False,
    ) -> Any:
        """The raw output from live values. Once a session runs, it is not abandoned."""
        del timed
        if abandon is not None and abandon.is_set():
            raise Abandoned("the other end has the answer")
        return self.tape.tail(self.halves.last, self.halves.run(cut, self.halves.last, live))

    def ready(self, part: Part, cut: int) -> bool:
        """Whether a head or a tail runs without a session that has still to be made."""
        return self.halves.ready(*self._ends(part, cut))

    def make_ready(self, part: Part, cut: int) -> None:
        """Make the session of a head or a tail."""
        self.halves.make_ready(*self._ends(part, cut))

    def session_bytes(self, part: Part, cuts: Sequence[int]) -> int:
        """Max memory of the sessions of the heads or tails at all these cuts."""
        return self.halves.session_bytes([self._ends(part, cut) for cut in cuts])

    def _ends(self, part: Part, cut: int) -> tuple[int, int]:
        return (0, cut) if part == "head" else (cut, self.halves.last)

    def times(self) -> tuple[OperationTime, ...]:
        """Nothing: a session merges operations."""
        return ()

    def profile(
        self,
        spec: ExperimentSpec,
        batches: Sequence[Tensor],
        codecs: Sequence[str],
        picture_codecs: Sequence[str],
        judged: Sequence[Tensor] = (),
    ) -> Profile:
        """The profile of PyTorch with the times of ONNX Runtime: of the head and the tail at every
        cut, each measured as a whole.
        """
        made = super().profile(spec, batches, codecs, picture_codecs, judged)
        made = with_halves(made, replace(self, halves=self.halves.on_trial()), batches)
        self.make_ready("head", self.halves.last)  # it runs if there is no other session
        versions = made.versions | {"onnxruntime": onnxruntime.__version__}
        return made.model_copy(update={"versions": versions})
