"""`Calibration`: the sureness from which a small model answers on the edge, with its proof."""

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from splittracr.experiment.contracts import Statistic
from splittracr.experiment.facts import LARGE, model_values
from splittracr.experiment.identity import ModelIdentity
from splittracr.experiment.types import SHARE, Versioned

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Milliseconds = Annotated[float, Field(ge=0)]


class Calibration(Versioned):
    """A file that `splittracr calibrate` writes."""

    small: str = Field(
        description="Name of the small model; with exits that of the study, as in `large`."
    )
    small_weights: str = Field(description="Its weights; begins with `none` if they are random.")
    small_identity: ModelIdentity | None = Field(
        default=None, description="The small model; null with exits, and in earlier files."
    )
    exits_digest: str | None = Field(
        default=None,
        description="SHA-256 of the file of exits; null without one, and in earlier files.",
    )
    exits: dict[str, Count] | None = Field(
        default=None,
        description="Pictures that each exit answers, of all that were judged, by the name of its "
        "cut; null without exits.",
    )
    learnt: Count = Field(
        default=0,
        description="Pictures that were left out because the exits have learnt from them.",
    )
    large: str = Field(description="Name of the model of the study, which judges the small one.")
    large_weights: str = Field(description="Its weights; begins with `none` if they are random.")
    large_identity: ModelIdentity | None = Field(
        default=None, description="The model of the study; null in earlier files."
    )
    postprocess: dict[str, Any] | None = Field(
        default=None,
        description="`spec.postprocess`, which holds for both models; null in earlier files.",
    )
    statistic: Statistic = Field(description="The function of the scores that is the sureness.")
    threshold_per_million: Count = Field(
        description="The small model, or an exit, answers if its sureness, in millionths, is at "
        "least this."
    )
    promised_disagreement: Share | None = Field(
        description="At most this share of the answers disagree, with the confidence; null if the "
        "threshold was chosen for its bytes, which promises nothing.",
        json_schema_extra=SHARE,
    )
    confidence: Share = Field(description="Of promise and bound.", json_schema_extra=SHARE)
    pictures: int = Field(ge=1, description="Pictures that tested the threshold.")
    sure: Count = Field(description="Those of them that are answered before the large model.")
    disagreeing: Count = Field(
        description="Those of these for which the large model has another answer."
    )
    disagreement_bound: Share = Field(
        description="The upper bound of the share of disagreements.", json_schema_extra=SHARE
    )
    match_percent: int | None = Field(
        description="Answers of a detector agree if at least this share of detections match; null "
        "if first classes are compared."
    )
    cut: str = Field(description="The cut at which the other samples go on.")
    codec: str = Field(description="The codec there.")
    kilobytes: float = Field(
        ge=0,
        description="Mean size of a picture's messages, over all pictures; 1 kB is 1,000 bytes.",
    )
    kilobytes_without: float = Field(ge=0, description="The same without the cascade.")
    small_ms: float | None = Field(
        default=None,
        ge=0,
        description="Median time of the small model, its preparation included, on the machine that "
        "ran it; null with exits.",
    )
    exit_ms: dict[str, Milliseconds] | None = Field(
        default=None,
        description="Median time of each exit without the head before it, by the name of its cut, "
        "on the machine that ran it; null without exits.",
    )
    memory_bytes: Count | None = Field(
        default=None,
        description="Memory on the edge beside the large model: weights and live tensors of the "
        "small model, or the weights of exits; null in earlier files.",
    )
    failed: Count = Field(description="Pictures that one of the two models could not take.")

    @model_validator(mode="after")
    def _counts(self) -> Self:
        if not self.disagreeing <= self.sure <= self.pictures:
            found = f"{self.disagreeing}, {self.sure} and {self.pictures}"
            raise ValueError(f"expected disagreeing <= sure <= pictures, got {found}")
        answered = None if self.exits is None else sum(self.exits.values())
        if answered is not None and answered < self.sure:
            raise ValueError(
                f"expected exits with {self.sure} answers (sure) or more, got {answered}"
            )
        if self.exits is not None and self.exit_ms is not None and {*self.exits} != {*self.exit_ms}:
            raise ValueError("expected the same cuts in exits and exit_ms")
        return self

    @property
    def identifying_values(self) -> dict[str, Any]:
        """The values that other sources have, too, by the path of the key."""
        return {
            "small": self.small,
            **({} if self.exits_digest is None else {"exits_digest": self.exits_digest}),
            **{f"postprocess.{key}": value for key, value in (self.postprocess or {}).items()},
            **model_values(None, self.small_identity, "small_"),
            **model_values(self.large_weights, self.large_identity, LARGE),
        }
