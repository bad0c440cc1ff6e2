"""`ModelIdentity`: the properties of a model on which the results in a file depend."""

from pydantic import Field

from splittracr.experiment.types import Frozen


class ModelIdentity(Frozen):
    """A model as it was run, in the file of another command."""

    graph_fingerprint: str = Field(description="Digest of its graph.")
    weights_digest: str = Field(description="Digest of its weights.")
    input: tuple[int, ...] | None = Field(
        description="Shape of one sample; null if pictures keep their own size."
    )
    dtype: str = Field(description="Element type of the computation.")
    preparation: str | None = Field(
        description="How a picture becomes an input; null if it takes no pictures."
    )
