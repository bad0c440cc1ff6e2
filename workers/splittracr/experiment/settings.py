"""What may change while a study runs, as it travels from the operator to the edges."""

from pydantic import Field

from splittracr.experiment.spec import PartitionSpec, TransportSpec
from splittracr.experiment.types import SpecModel


class LiveSettings(SpecModel):
    """The live parts of a manifest, and the generation of the study that they come from."""

    generation: int = Field(default=0, ge=0, description="An older one never replaces a newer one.")
    partition: PartitionSpec
    transport: TransportSpec
