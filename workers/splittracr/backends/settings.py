"""The settings of a study that both ends have to share, as text. Needs no torch."""

from collections.abc import Sequence

from splittracr.experiment.contracts import Runtime
from splittracr.experiment.spec import ExperimentSpec
from splittracr.wire.identity import settings_text

CLASS_NAMES = "class names"
"""The one setting that is no field of a manifest."""


def _bits(runtime: Runtime) -> Runtime:
    """The runtime whose bits this one computes."""
    return Runtime.TORCH if runtime is Runtime.CUDA_GRAPHS else runtime


def text(classes: Sequence[str], spec: ExperimentSpec) -> str:
    """The manifest's network without this machine's folders, its post-processing, and the class
    names in use.
    """
    model = spec.model.model_dump(mode="json", by_alias=True, exclude={"weights_file"})
    post = spec.postprocess.model_dump(mode="json", by_alias=True)
    settings = {f"spec.model.{key}": value for key, value in model.items()}
    settings |= {f"spec.postprocess.{key}": value for key, value in post.items()}
    runtimes = {
        "spec.edge.runtime": _bits(spec.edge.runtime),
        "spec.server.runtime": _bits(spec.server.runtime),
    }
    if set(runtimes.values()) != {Runtime.TORCH}:  # how exact a cut is depends on both
        settings |= runtimes
    return settings_text({**settings, CLASS_NAMES: tuple(classes)})
