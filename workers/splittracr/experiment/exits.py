"""`ExitsFile`: the header of a file of exits. The tensors of the exits are beside it."""

from typing import Annotated

from pydantic import Field

from splittracr.experiment.contracts import ExitTargets
from splittracr.experiment.types import SHARE, Frozen, Versioned

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class Exit(Frozen):
    """One exit, and how it does on the pictures that were held out."""

    cut: str = Field(description="Name of the cut at which it is.")
    agreement: Share = Field(
        description="Share of pictures whose first class is that of the model.",
        json_schema_extra=SHARE,
    )
    accuracy: Share | None = Field(
        description="Share of pictures whose first class is the label; null without labels.",
        json_schema_extra=SHARE,
    )


class ExitsFile(Versioned):
    """The key `splittracr` in the metadata of a file that `splittracr exits train` writes."""

    model: str = Field(description="Name of the model.")
    weights: str = Field(description="Its weights; begins with `none` if they are random.")
    fingerprint: str = Field(description="Digest of its graph.")
    weights_digest: str = Field(description="Digest of its weights.")
    outputs: Annotated[int, Field(ge=2)] = Field(description="The number of its classes.")
    classes: tuple[str, ...] = Field(description="Their names; empty if it has none.")
    targets: ExitTargets = Field(description="What the exits have learnt.")
    seed: int = Field(description="Of the choice of the pictures that were held out.")
    pictures: Count = Field(description="Pictures that the exits have learnt from.")
    held_out: Count = Field(description="Pictures that were held out.")
    failed: Count = Field(description="Pictures that could not be used.")
    accuracy: Share | None = Field(
        description="Accuracy of the model on the pictures that were held out; null without "
        "labels.",
        json_schema_extra=SHARE,
    )
    exits: Annotated[tuple[Exit, ...], Field(min_length=1)] = Field(
        description="The exits in the order of their cuts."
    )
