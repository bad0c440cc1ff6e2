"""The settings that may change while a study runs, as the operator sends them to the edges."""

from enum import StrEnum
from typing import Self

from pydantic import Field

from splittracr.experiment.spec import ExperimentSpec, PartitionSpec, TransportSpec
from splittracr.experiment.types import SpecModel


class Live(SpecModel):
    """The sections of a manifest that hold fields with the mark LIVE and act on running edges."""

    partition: PartitionSpec
    transport: TransportSpec

    @classmethod
    def of(cls, spec: ExperimentSpec) -> Self:
        """The live sections of a study."""
        return cls(**{section: getattr(spec, section) for section in Live.model_fields})

    def within(self, spec: ExperimentSpec) -> ExperimentSpec:
        """The study with these sections in place of its own."""
        sections = {section: getattr(self, section) for section in Live.model_fields}
        return spec.model_copy(update=sections)


class Outcome(StrEnum):
    """An edge's answer to settings."""

    ACCEPTED = "accepted"
    DEFERRED = "deferred"
    """It uses them after its next start."""

    REFUSED = "refused"
    """It cannot use them."""


class LiveSettings(Live):
    """Live sections, and the generation of the study that they come from."""

    generation: int = Field(default=0, ge=0, description="An older one never replaces a newer one.")

    def at(self, generation: int) -> Self:
        """The same sections of another generation."""
        return self.model_copy(update={"generation": generation})
