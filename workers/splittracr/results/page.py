"""The results folder as a page, made from the models of its files.

`make generate` writes it to `docs/results.md`.
"""

import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import AwareDatetime, BaseModel
from pydantic.fields import FieldInfo

from splittracr.experiment.explain import models_in
from splittracr.experiment.marks import DEFINES, marked
from splittracr.experiment.profile import Profile
from splittracr.experiment.spec import ExperimentSpec, SplitExperiment
from splittracr.experiment.types import SCHEMA_KEY, SCHEMA_VERSION, STAGES, Record
from splittracr.results.environment import Environment
from splittracr.results.flat import CutRow, EnergyRow
from splittracr.results.layers import Layer
from splittracr.results.rate import Rate
from splittracr.results.summary import Summary

_INTRODUCTION = f"""\
# Results

A study leaves one folder:

| File | Content |
|---|---|
| `records.jsonl` | The journal: one record per sample, one JSON object per line. |
| `environment.json` | What the study ran on and with: manifest, machines, versions, cuts. |
| `labels.txt` | How labels were matched with the model's classes, if there are class names. |
| `basis.json` | What defines the records: model, code, versions, samples. |
| `records.parquet`, `records.csv` | The records as a flat table. |
| `layers.parquet`, `layers.csv` | Each operation of the model at both ends: time, output, work. |
| `summary.json` | The figures of each cut, and the best cut. |
| `summary.csv` | The same figures as a flat table, one row a cut. |
| `summary.tex` | A table of them for LaTeX, with booktabs and graphicx. |
| `summary.xlsx` | A workbook with sheets `Overall`, `Layers`, `Energy` and `Machines`. |
| `report.html` | The report: one file that needs no network. |
| `figures/*.svg`, `figures/*.png` | The report's figures for papers. |
| `logs/*.log` | The log of each worker; of a cluster see [kubernetes.md](kubernetes.md#logs). |
| `pictures/*.jpg` | Pictures with predictions; a name begins with the sample's number. |
| `pictures/INDEX-CUT/*.jpg` | The same by cut, if `results.picturesPerCut` is set. |

`splittracr report FOLDER` makes tables, summary, report and figures again, byte for byte the same.
It also works for a study that was broken off. Each file is replaced in one step. With several edges
each has such a folder below `edges/`; the folder above joins their records.

The journal is only appended to, one complete record at a time. Records survive the death of the
worker. A torn last line after a power cut is dropped with a warning.

## Versions

`environment.json`, `summary.json`, each record and each profile hold `{SCHEMA_KEY}`, now
{SCHEMA_VERSION}. In `records.parquet` the metadata of the file holds it, too. Files without the key
have version 1. SplitTracr reads its own version and the previous one, and refuses any other with
both versions in the message.

## Continuing a study

`splittracr edge --resume`, and a pod that replaces another one, continue after the last record.
The edge first compares these, and refuses to continue if one differs:

- the manifest:{{defining}}
- the graph, the weights, the user's source files, and what the model computes from seeded inputs
- versions of Python, PyTorch and the other packages in `environment.json`
- the content of the emulated link's trace
- the samples in use, by position: name, label and content

Cut, layer, codecs, deadline and hedge may change: a record names its cut and codec, and the figures
name cuts with several codecs. Numbers of samples and repeats may grow. Pictures added behind those
in use change nothing if `workload.samples` is set and not larger than the data set. The content of
a file is its size and a digest: of all bytes up to 1 MiB, else of 16 stretches of 64 KiB. Four
samples of a data set class are loaded twice; they count unless they are random.

## What the figures mean

- **Latency** runs from the moment a sample was due until its prediction was ready on the edge. In a
  closed loop it was due when it started, in an open loop when it was scheduled to arrive.
- **Link time** (`link`) is the latency less all that both ends measured themselves. Clocks of
  two machines are never compared. At a cut that sends nothing this rest is the stage `other`.
- **Frames.** With `spec.workload.batchSize` above 1 the samples of a batch share times and sizes.
  Means, intervals and percentiles count each frame once. Records of one frame share `edge`, `trial`
  and `sample // batchSize`.
- **Figures of a cut** cover the samples that the server answered, and all samples at the cut
  `output`. They leave out failed samples. Times and bytes also leave out samples whose request
  waited for a lost server (`resent`): their link time contains the outage. Percentiles are
  interpolated linearly between frames.
- **Intervals of a mean** are 95 % percentile bootstrap intervals: 1,000 resamples, fixed seed. With
  several repeats, whole repeats are drawn first and frames within them second (Davison and Hinkley,
  *Bootstrap Methods and their Application*, section 3.8). With fewer than five repeats the interval
  is rather narrow. Below five frames there is none.
- **Intervals of an accuracy** are Wilson's. A sample counts once, with any number of repeats.
- **mAP** is COCO's mean average precision of detections against labelled boxes, by pycocotools from
  the records. There are two figures: over overlaps (IoU) from 0.50 to 0.95, and at 0.50. At most
  100 detections a picture and class count, of all sizes. It needs `pip install 'splittracr[coco]'`
  wherever the results are written; `splittracr report` adds it later. Its interval is a 95 %
  percentile bootstrap over pictures with a fixed seed: 1,000 resamples, down to 200 if there are
  many detections, none below five pictures. The quantiles are moved by the mean difference between
  resamples and figure, since resamples with pictures drawn twice have too high a precision. Boxes
  are compared as the records have them, to 0.1 pixel. Detections below
  `spec.postprocess.confidencePercent` are not in the records and count as not found. Set it to 0 or
  1 for a figure to compare with published ones.
- **OKS mAP** is the same for keypoints. The similarity of an object (OKS), by pycocotools, takes
  the place of the overlap, over 0.50 to 0.95. At most 20 detections a picture and class count.
  Objects without labelled keypoints, and crowds, make a detection neither right nor wrong. For 17
  keypoints the tolerances are COCO's, for another number n they are 1/n, as in ultralytics. The
  area of an object is COCO's `area`; without one it is 0.53 of the box, as in ultralytics.
- **Labelled boxes** come from COCO's JSON or YOLO's text files (`spec.dataset.source`). Classes
  match the model's as below. A category of COCO without boxes is left out. Categories never match
  by position: name them, or number them as the model does. COCO's `keypoints` are read with the
  boxes; those of YOLO if the YAML file has `kpt_shape`. A study is refused if a picture of the JSON
  file or of a text file is missing, or if there is no box. It is refused if a box or a labelled
  keypoint passes the picture's edge by more than 1 % of its side. All objects need the same number
  of keypoints, that of the model. A picture of another size than in the JSON file fails alone.
- **mIoU** is the mean over classes of the overlap (IoU) of masks with labelled ones, from `pixels`
  of the records. The overlap of a class is the number of pixels that are both labelled and
  predicted, over the number that are either, of all pictures together. Classes that are neither
  labelled nor predicted do not count. Pixels whose label is 255 do not count either. Masks are
  compared at the pixels of the picture: each takes the class of the model's pixel that its centre
  lies in. `pixel_accuracy` is the share of labelled pixels of the right class. Intervals are like
  those of mAP. Counting runs after a frame's latency has ended, before the next frame takes its
  place.
- **Labelled masks** (`spec.dataset.source: Masks`) are PNG files with one channel of 8 bits or a
  palette. The value of a pixel is a class of the model. `annotations` is their folder, with one
  mask for each picture below `path`, of the same name. It can also be a list of names as in VOC,
  with `JPEGImages` and `SegmentationClass` in `path`. A study is refused if a mask or a picture is
  missing, or if a mask has another size than its picture or a class that the model lacks. It is
  also refused if all masks of the samples in use have values 0 and 255 only.
- **The best cut** has the lowest median. `why` names a tie if the 95 % interval of the difference
  to the next median contains 0. It is a bootstrap over pairs of the same frame and repeat at both
  cuts. With fewer than six pairs it is always a tie. The first line on terminal and report then
  names the tie, and no cut is highlighted. With a cascade, in mode Adaptive, and after a change of
  the cut, cuts are no alternatives: each has samples of its own, and the link may have changed.
  `best` is then null, and no cut is highlighted. The first line of a cascade has the samples and
  the median of each cut. In the other cases it has the median of all samples, the samples at each
  cut and the number of changes (`counts`).
- **Gaps** are times without records, as between two pods of an edge. A gap runs from the end of all
  earlier records of an edge to the start of its next one. It is longer than 5 s and than 20 times
  the edge's median time between frames. Terminal, report and `summary.json` name each with the
  samples before and after it, and say if the edge started again. No sample is missing for it.
  Latency does not cover a gap, throughput of the whole study does. Samples that a study which was
  broken off has not recorded are counted beside (`missing`).
- **Throughput** of one cut is known only if its samples ran without others between them. In a sweep
  cuts take turns, so only the whole study has one.
- **Labels** match the model's classes by name: names of the folders of a labelled folder, classes
  of labelled boxes, or `classes` of your own data set. A name is a class name, an ImageNet id such
  as `n01440764` (if the model has ImageNet's classes) or a class index such as `134`, tried in this
  order. An accented letter may be one character or two. A study is refused if a name fits two
  classes, if two names mean one class, or if only some names are known. (ImageNet has two classes
  called `crane` and two called `maillot`: use the index.) If none is known, names count by
  position, and there must be as many names as classes. Folders' names do so in alphabetical order,
  and only if the model has no class names. Folders without pictures, hidden ones and `__MACOSX` are
  left out. The terminal, the report and `labels` name the rule and what was left out.
- **Pictures of a folder** are files at any depth with an extension that Pillow reads. Hidden files
  and those in `__MACOSX` do not count. Links to files and folders are followed. A folder that
  several links lead to is read once, under its own name if it lies below `path`. A file with two
  names is two samples. The study is refused if two class folders are one. A picture behind a broken
  link is a sample that fails. Other files are counted by extension, as in
  `Skipped 12 files: 10 .heic, 2 .mp4.`
- **Emulated** edges and links, and **random weights**, are named in every table, figure and file.

If all samples failed, the study failed: exit code 3, and state Failed in a cluster.

```python
import polars as pl

records = pl.read_parquet("records.parquet")
print(records.filter(pl.col("outcome") == "ok").group_by("cut").agg(pl.col("total_ms").median()))
```
"""

_FILES: Sequence[tuple[str, type[BaseModel], str]] = (
    (
        "records.jsonl",
        Record,
        "`records.parquet` and `records.csv` have these keys as columns, but one column per stage "
        "(`head_ms` and so on; empty if it did not happen) and `prediction` as JSON text. Text in "
        "`records.csv` that a spreadsheet would run as a formula has an apostrophe in front.",
    ),
    ("layers.parquet", Layer, "`layers.csv` has the same columns."),
    ("summary.json", Summary, ""),
    (
        "summary.csv",
        CutRow,
        "Also the sheet `Overall`. Further columns are the means of the stages: `stage_head_ms` "
        "and so on.",
    ),
    (
        "summary.xlsx",
        EnergyRow,
        "The sheet `Energy`. Cells without a figure say `not measured`. The sheet `Layers` has the "
        "columns of `layers.parquet`.",
    ),
    ("environment.json", Environment, ""),
    (
        "rate.json",
        Rate,
        "`splittracr rate` writes it. `rate.csv` has a row for each of the `points`; [planning.md]"
        "(planning.md#splittracr-rate) describes the figures.",
    ),
    ("a profile", Profile, "`splittracr profile` writes it."),
)

_UNITS: Mapping[str, str] = {
    "bytes": "bytes",
    "seconds": "s",
    "joules": "J",
    "watts": "W",
    "percent": "%",
    "celsius": "°C",
    "hertz": "Hz",
}
"""Units by a word in the name of a key."""

_NAMES: Mapping[type, str] = {
    str: "text",
    bool: "true or false",
    int: "integer",
    float: "number",
    AwareDatetime: "time (ISO 8601)",
    type(None): "null",
}


def markdown() -> str:
    """The page, in Markdown."""
    paths = (".".join(("spec", *path)) for path in marked(ExperimentSpec, DEFINES))
    listed = "\n  " + ",\n  ".join(f"`{path}`" for path in paths)
    return "\n".join([_INTRODUCTION.replace("{defining}", listed), *_sections()])


def _sections() -> Iterator[str]:
    seen: set[type[BaseModel]] = {SplitExperiment}
    for file, model, note in _FILES:
        title = f"`{file}`" if "." in file else file.capitalize()
        yield from (f"## {title}: `{model.__name__}`", "", _words(model), "")
        if note:
            yield from (note, "")
        yield from table(model)
        if model is Record:
            yield from _stages()
        for inner in _inner(model, seen):
            yield from (f"### `{inner.__name__}`", "", _words(inner), "", *table(inner))


def _stages() -> Iterator[str]:
    yield from ("### `stages`", "", "In the order in which they happen:", "")
    yield from ("| Stage | Where | What |", "|---|---|---|")
    for name, stage in STAGES.items():
        yield f"| `{name}` | {stage.tier or 'as `finished_on`'} | {stage.meaning} |"
    yield ""


def _inner(model: type[BaseModel], seen: set[type[BaseModel]]) -> Iterator[type[BaseModel]]:
    """The models inside of `model` that have no section yet, in order."""
    for field in model.model_fields.values():
        for found in models_in(field.annotation):
            if found not in seen:
                seen.add(found)
                yield found
                yield from _inner(found, seen)


def table(model: type[BaseModel]) -> Iterator[str]:
    """The keys of a model, as lines of a table. Raises TypeError for one without a description."""
    yield from ("| Key | Type | Unit | Meaning |", "|---|---|---|---|")
    for name, field in model.model_fields.items():
        cells = (
            f"`{field.alias or name}`",
            _kind(field.annotation),
            _unit(name, field),
            _described(model, name, field),
        )
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""


def _words(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split())


def _described(model: type[BaseModel], name: str, field: FieldInfo) -> str:
    if field.description is None:
        raise TypeError(f"{model.__name__}.{name} has no description")
    return field.description


def _unit(name: str, field: FieldInfo) -> str:
    extra = field.json_schema_extra
    if isinstance(extra, dict) and "unit" in extra:
        return str(extra["unit"])
    if name.endswith("_ms"):
        return "ms"
    if name.endswith("_per_second"):
        return "1/s"
    return next((unit for word, unit in _UNITS.items() if word in name.split("_")), "")


def _kind(annotation: Any) -> str:
    """A type in words."""
    if annotation is Any:
        return "JSON"
    if isinstance(annotation, type) and issubclass(annotation, SplitExperiment):
        return "[manifest](manifest.md)"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return _choices([member.value for member in annotation])
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is typing.Annotated:
        return _kind(parts[0])
    if origin is Literal:
        return _choices(parts)
    if origin in (Union, types.UnionType):
        return " or ".join(map(_kind, parts))
    if origin is tuple:
        return f"list of {_kind(parts[0])}"
    if origin is dict:
        return f"mapping of text to {_kind(parts[1])}"
    return _NAMES[annotation]


def _choices(values: Sequence[Any]) -> str:
    return " or ".join(f"`{value}`" for value in values)
