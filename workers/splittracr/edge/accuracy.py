"""The accuracy that candidates of mode Adaptive keep, by the limits and the file of a manifest."""

from pathlib import Path

from splittracr.data.home import expanded
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.facts import Facts, model_values
from splittracr.experiment.profile import Profile
from splittracr.experiment.spec import AdaptiveSpec, ExperimentSpec
from splittracr.results import rate

_FILE = "spec.partition.adaptive.accuracyFile"


def judges_codecs(adaptive: AdaptiveSpec) -> bool:
    """Whether a limit of the manifest needs the agreement of lossy codecs."""
    by_agreement = adaptive.accuracy_percent is not None and adaptive.accuracy_file is None
    return by_agreement or adaptive.agreement_percent is not None


def measured(profile: Profile, spec: ExperimentSpec, base: Path) -> Profile:
    """The profile with the accuracy by the manifest's file, if it names one, relative to `base`.

    Raises InvalidInput if the file cannot be read, or is of another model.
    """
    adaptive = spec.partition.adaptive
    if adaptive is None or adaptive.accuracy_file is None:
        return profile
    found = rate.read(base / expanded(adaptive.accuracy_file, _FILE), _FILE)
    if found.model != profile.network:
        expected = f"a file of {profile.network}, not of {found.model}"
        raise InvalidInput(_FILE, adaptive.accuracy_file, expected)
    known = model_values(profile.weights, profile.identity, batch=profile.input[0])
    Facts("this study", known).check(found.identifying_values, f"{_FILE} {adaptive.accuracy_file}")
    return rate.with_accuracy(profile, found)
