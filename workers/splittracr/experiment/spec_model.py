"""The sections of a manifest about the computation: model, data set and post-processing."""

from enum import StrEnum
from typing import Any

from pydantic import Field

from splittracr.experiment.spec_rules import (
    ARGS_NEED_TRANSFORM,
    CLASS_NEEDS_CLASS,
    KEYS_NEED_CLASS,
    LISTED_NEEDS_ANNOTATIONS,
    ONE_SIZE,
    PATH_NEEDS_FOLDER,
    TOLERANCE_NEEDS_BOUNDED,
)
from splittracr.experiment.spec_values import ClassPath, FilePath, Pixels
from splittracr.experiment.types import Exactness, Name, SpecModel


class Source(StrEnum):
    """The family that builds the model."""

    TORCHVISION = "torchvision"
    ULTRALYTICS = "ultralytics"
    EFFICIENTNET_LITE = "efficientnet_lite"
    TIMM = "timm"
    TRANSFORMERS = "transformers"
    CUSTOM = "custom"


TIMM_PREFIX = "timm/"
TRANSFORMERS_PREFIX = "transformers/"
"""How names of models of these families begin."""


class DType(StrEnum):
    """Element type of the model's parameters and activations."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


class InputType(StrEnum):
    """Element type of a model's input."""

    UINT8 = "uint8"
    INT32 = "int32"
    INT64 = "int64"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"


class InputSpec(SpecModel):
    """The tensors of the data set, for a model that takes them unchanged."""

    shape: tuple[Pixels, ...] = Field(
        min_length=1, max_length=6, description="Shape of one sample, without the batch."
    )
    dtype: InputType = Field(
        default=InputType.FLOAT32,
        description="Element type. Pictures in `uint8` go through the model's normalisation; "
        "values of other types are taken to be normalised.",
    )


class Letterbox(StrEnum):
    """How pictures of any shape become the input of a model of ultralytics."""

    SQUARE = "Square"
    RECT = "Rect"


class ModelSpec(SpecModel):
    """The model."""

    rules = (ONE_SIZE, TOLERANCE_NEEDS_BOUNDED)

    name: Name = Field(
        description="Model, as `splittracr models` lists it, such as `timm/convnext_atto`; "
        "`transformers/FOLDER`: an image classifier of transformers; or `package.module:callable`: "
        "a module's class, or a function that returns a module."
    )
    source: Source | None = Field(
        default=None, description="Family; found from the name if left out."
    )
    weights: Name = Field(
        default="official",
        description="`official`, the name of one of the model's official weight sets, or "
        "`none` for seeded random weights.",
    )
    weights_file: FilePath | None = Field(
        default=None, description="State dict to load instead; read as weights only."
    )
    num_classes: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="Number of classes. If the model has another number, its last layer is "
        "replaced.",
    )
    input_size: tuple[Pixels, Pixels] | None = Field(
        default=None, description="Height and width in pixels, if not the model's own."
    )
    input: InputSpec | None = Field(
        default=None,
        description="The tensors that your data set or its transform yields; left out: pictures.",
    )
    letterbox: Letterbox = Field(
        default=Letterbox.SQUARE,
        description="Of detectors of ultralytics. `Square` pads pictures to `inputSize`. `Rect` "
        "pads them to multiples of the model's stride only, as `YOLO.predict()` does by default; "
        "inputs then have several shapes.",
    )
    dtype: DType = Field(default=DType.FLOAT32, description="Element type of the computation.")
    seed: int = Field(default=0, ge=0, le=2**31 - 1, description="Seed of random weights.")
    args: dict[str, Any] = Field(
        default_factory=dict, description="Keyword arguments for the class or function in `name`."
    )
    exactness: Exactness = Field(
        default=Exactness.EXACT,
        description="Min exactness of a cut; others are refused. `Exact`: its output is that "
        "of the uncut model in PyTorch, bit for bit. `Consistent`: that of the uncut model in the "
        "same runtime. `Bounded`: within `tolerancePerMillion` of PyTorch's.",
    )
    tolerance_per_million: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="With exactness Bounded: the largest difference of an output, in millionths "
        "of the largest size in it; left out: 100.",
    )

    @property
    def folder(self) -> str | None:
        """The folder of a model of transformers, as the manifest names it; None for others."""
        if self.source is Source.TRANSFORMERS or self.name.startswith(TRANSFORMERS_PREFIX):
            return self.name.removeprefix(TRANSFORMERS_PREFIX)
        return None

    @property
    def tolerance(self) -> float:
        """The largest difference as a share."""
        return (self.tolerance_per_million or 100) / 1e6


class DatasetSource(StrEnum):
    """Where the pictures come from."""

    SAMPLES = "Samples"
    FOLDER = "Folder"
    LABELLED_FOLDER = "LabelledFolder"
    COCO = "Coco"
    YOLO = "Yolo"
    MASKS = "Masks"
    CLASS = "Class"


class DatasetSpec(SpecModel):
    """The pictures. Relative paths start at the manifest's folder."""

    rules = (
        PATH_NEEDS_FOLDER,
        CLASS_NEEDS_CLASS,
        KEYS_NEED_CLASS,
        LISTED_NEEDS_ANNOTATIONS,
        ARGS_NEED_TRANSFORM,
    )

    source: DatasetSource = Field(
        default=DatasetSource.SAMPLES,
        description="`Samples`: pictures shipped here. `Folder`: every picture below `path`. "
        "`LabelledFolder`: one folder a class below `path`. `Coco`: pictures with labelled boxes "
        "in `annotations`. `Yolo`: the same with one text file a picture, in `labels` beside "
        "`images`. `Masks`: pictures whose pixels have classes, with a PNG mask each. `Class`: a "
        "class of your own.",
    )
    path: FilePath | None = Field(
        default=None,
        description="Folder of pictures. Of `Yolo`: one that is or has a folder `images`, or is "
        "below one. Of `Masks` with a list: VOC's folder.",
    )
    annotations: FilePath | None = Field(
        default=None,
        description="`Coco`: the JSON file with images, annotations and categories. `Yolo`: the "
        "YAML file with the class `names`; left out: `data.yaml` beside `images` if there is one, "
        "else classes are the model's by number. `Masks`: the folder of masks, or a list of names "
        "as VOC has it, such as `VOC2012/ImageSets/Segmentation/val.txt`.",
    )
    class_: ClassPath | None = Field(
        default=None, alias="class", description="`package.module:Class`, called with `args`."
    )
    args: dict[str, Any] = Field(default_factory=dict, description="Keyword arguments for `class`.")
    input_key: Name | None = Field(
        default=None,
        description="Key of the picture or tensor in samples that are mappings; left out: `image`, "
        "`video` or another usual name.",
    )
    label_key: Name | None = Field(
        default=None,
        description="Key of the label in samples that are mappings; left out: `label`, `target` or "
        "another usual name, if there is one.",
    )
    transform: ClassPath | None = Field(
        default=None,
        description="`package.module:callable`, called with each picture or tensor. It returns a "
        "picture, or the tensor that the model takes. A class is made with `transformArgs` once.",
    )
    transform_args: dict[str, Any] | None = Field(
        default=None, description="Keyword arguments for `transform`."
    )
    class_names: FilePath | None = Field(
        default=None, description="Text file with one class name a line, in the order of outputs."
    )


class PostprocessSpec(SpecModel):
    """From the model's output to a prediction."""

    name: Name | None = Field(
        default=None, description="A registered post-processor; the task's own if left out."
    )
    top_k: int = Field(default=5, ge=1, le=1000, description="Classes reported a picture.")
    confidence_percent: int = Field(
        default=25, ge=0, le=100, description="Detections below this score are dropped."
    )
    iou_percent: int = Field(
        default=70, ge=0, le=100, description="Overlap above which NMS drops the weaker box."
    )
    max_detections: int = Field(default=300, ge=1, le=10000, description="Detections a picture.")
