"""The exactness that a manifest demands of cuts, and its refusals. Needs no torch."""

from dataclasses import replace

from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.spec import ExperimentSpec, ModelSpec
from splittracr.experiment.types import Cut, Exactness
from splittracr.splitting.proof import Proof


def demanded(proof: Proof, model: ModelSpec) -> Proof:
    """The proof, in which cuts below the exactness of the manifest are refused."""
    found = {cut.name: _below(cut, model) for cut in proof.offered().values()}
    refused = {name: why for name, why in found.items() if why is not None}
    return replace(proof, refused={**proof.refused, **refused})


def undemanded(proof: Proof, model: ModelSpec) -> Proof:
    """The proof without the refusals that `demanded` has added."""
    found = {cut.name: _below(cut, model) for cut in proof.cuts}
    refused = {name: why for name, why in proof.refused.items() if why != found.get(name)}
    return replace(proof, refused=refused)


def check(proof: Proof, spec: ExperimentSpec, side: str) -> None:
    """Raise InvalidInput if this end alone computes less exactly than the manifest demands."""
    whole = proof.cuts[-1 if side == "edge" else 0]
    why = _below(whole, spec.model)
    if why is None:
        return
    runtime = (spec.edge if side == "edge" else spec.server).runtime.value
    if spec.model.exactness is Exactness.BOUNDED:
        raise InvalidInput(
            "spec.model.tolerancePerMillion",
            round(spec.model.tolerance * 1e6),
            f"more, runtime {runtime} has a largest relative error of {whole.largest_error:.1e} "
            f"here ({why})",
        )
    raise InvalidInput(
        "spec.model.exactness",
        spec.model.exactness.value,
        f"{_met(whole)}: with spec.{side}.runtime {runtime} the cut {whole.name} is not exact "
        f"({why})",
    )


def _met(cut: Cut) -> str:
    """The demands that a cut meets, from the strictest on."""
    return " or ".join(demand for demand in Exactness if cut.exactness.meets(demand))


def _below(cut: Cut, model: ModelSpec) -> str | None:
    """Why a cut is below the demand of the manifest; None if it is not."""
    if not cut.exactness.meets(model.exactness):
        off = f"largest relative error {cut.largest_error:.1e}"
        return f"it is {cut.exactness} ({off}), the manifest demands {model.exactness}"
    if model.exactness is Exactness.BOUNDED and (cut.largest_error or 0.0) > model.tolerance:
        millionths = round(model.tolerance * 1e6)
        error = f"its largest relative error is {cut.largest_error:.1e}"
        return f"{error}, above tolerancePerMillion {millionths}"
    return None
