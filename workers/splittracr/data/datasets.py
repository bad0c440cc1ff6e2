"""Data sets: the shipped pictures, a folder, a labelled folder, a class of the user.

Pictures are listed when a data set is opened, and decoded when `load` is called.
"""

import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import resources
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from splittracr.data import boxes, listing, masks, transform
from splittracr.data.containment import contained
from splittracr.data.contracts import IGNORED, Dataset, Mask, Sample
from splittracr.data.decoding import decode, is_picture, read_file, size_of
from splittracr.data.home import expanded
from splittracr.data.importing import import_object
from splittracr.data.keys import Keys
from splittracr.data.labels import left_out
from splittracr.data.listing import Listing
from splittracr.data.rgb import UnreadablePicture, to_rgb
from splittracr.data.tensors import is_tensor
from splittracr.experiment.errors import InvalidInput, of_system, reason, why
from splittracr.experiment.explain import short
from splittracr.experiment.spec import DatasetSource, DatasetSpec


def open_dataset(spec: DatasetSpec, base: Path) -> Dataset:
    """Open the data set of `spec`; relative paths start at the folder `base`.

    Raises InvalidInput if there is no such folder, no picture in it, or no such class.
    """
    made = _opened(spec, base)
    return made if spec.transform is None else transform.applied(made, spec)


def _opened(spec: DatasetSpec, base: Path) -> Dataset:
    match spec.source:
        case DatasetSource.SAMPLES:
            return Samples()
        case DatasetSource.FOLDER:
            return _folder(spec, base)
        case DatasetSource.LABELLED_FOLDER:
            return _labelled_folder(spec, base)
        case DatasetSource.COCO | DatasetSource.YOLO:
            return _boxed(spec, base)
        case DatasetSource.MASKS:
            return _masked(spec, base)
        case DatasetSource.CLASS:
            return _own_class(spec)


def read_class_names(name: str, base: Path, outputs: int | None = None) -> tuple[str, ...]:
    """Read class names from a text file, one a line, in the order of the network's outputs.

    `name` is the manifest's `spec.dataset.classNames`; a relative one starts at `base`. Empty
    lines at the end are ignored. Raises InvalidInput if the file cannot be read, has an empty line
    between names, or has another number of names than `outputs`.
    """
    field = "spec.dataset.classNames"
    path = base / expanded(name, field)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(field, name, f"a text file in UTF-8 ({why(error)})") from error
    names = tuple(line.strip() for line in text.rstrip().splitlines())
    if not all(names):
        line = names.index("") + 1
        raise InvalidInput(field, name, f"a class name on every line (line {line} is empty)")
    check_class_names(name, len(names), outputs)
    return names


def check_class_names(name: str, count: int, outputs: int | None) -> None:
    """Raise InvalidInput if the file `name` has another number of names than the network outputs;
    None of these is not known.
    """
    if outputs is not None and count != outputs:
        expected = f"{outputs} class names, one for each output of the model, not {count}"
        raise InvalidInput("spec.dataset.classNames", name, expected)


def load(dataset: Dataset, index: int) -> Sample:
    """Load the sample at `index` with its picture in RGB, from a data set of any class.

    Raises UnreadablePicture for a value that is no picture or tensor, for a label that is no class
    index, and for boxes or a mask that are none. Errors of the data set pass.
    """
    sample: Any = dataset.load(index)
    name = dataset.name(index)
    if not isinstance(sample, Sample):
        kind = type(sample).__name__
        raise UnreadablePicture(f"{name}: expected load() to return a Sample, got {kind}")
    label = class_index(sample.label, name)
    boxes.check(sample.boxes, name)
    mask: Any = sample.mask
    if mask is not None and not callable(mask):
        kind = type(mask).__name__
        raise UnreadablePicture(f"{name}: mask: got {kind}, expected a function that returns it")
    if sample.picture is not None:
        return replace(sample, picture=to_rgb(sample.picture, name), label=label)
    data: Any = sample.data
    if data is not None and not is_tensor(data):
        kind = type(data).__name__
        raise UnreadablePicture(f"{name}: expected a tensor as data, got {kind}")
    return replace(sample, label=label)


class Samples:
    """The pictures shipped with this package; `pictures/NOTICE` names their authors."""

    classes: Sequence[str] | None = None

    def __init__(self) -> None:
        folder = resources.files("splittracr.data") / "pictures"
        self._files = sorted(
            (file for file in folder.iterdir() if file.name.endswith(".jpg")),
            key=lambda file: file.name,
        )

    def __len__(self) -> int:
        return len(self._files)

    def name(self, index: int) -> str:
        """Return the file name."""
        return self._files[index].name

    def load(self, index: int) -> Sample:
        """Return the decoded picture."""
        name = self.name(index)
        return Sample(name, picture=decode(BytesIO(self._files[index].read_bytes()), name))


@dataclass(frozen=True)
class Folder:
    """The pictures `files`, as paths below `root`. `labels` has one label for each.

    `left_out` describes in a sentence the files below `root` that are left out; None for none.
    """

    root: Path
    files: tuple[str, ...]
    labels: tuple[int, ...] | None = None
    classes: tuple[str, ...] | None = None
    left_out: str | None = None

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        """Return the path below `root`."""
        return self.files[index]

    def load(self, index: int) -> Sample:
        """Return the decoded picture and its label; raises UnreadablePicture."""
        name = self.files[index]
        label = self.labels[index] if self.labels else None
        return Sample(name, picture=decode(self.root / name, name), label=label)


def _folder(spec: DatasetSpec, base: Path) -> Folder:
    root = _root(spec, base)
    found = _pictures(root, spec)
    skipped = listing.in_words(found.skipped)
    if not found.pictures:
        raise InvalidInput("spec.dataset.path", spec.path, _expected("pictures", root, skipped))
    return Folder(root, found.pictures, left_out=skipped)


def _labelled_folder(spec: DatasetSpec, base: Path) -> Folder:
    root = _root(spec, base)
    folders = sorted(f.name for f in root.iterdir() if f.is_dir())
    visible = [name for name in folders if listing.is_visible(name)]
    _refuse_shared(root, visible)
    found = {name: _pictures(root / name, spec) for name in visible}
    classes = tuple(name for name in visible if found[name].pictures)
    labelled = [
        (f"{name}/{file}", label)
        for label, name in enumerate(classes)
        for file in found[name].pictures
    ]
    skipped = listing.in_words(sum((Counter(one.skipped) for one in found.values()), Counter()))
    if not labelled:
        expected = _expected("one folder a class with pictures", root, skipped)
        raise InvalidInput("spec.dataset.path", spec.path, expected)
    files, labels = zip(*labelled, strict=True)
    without = [name for name in folders if name not in classes]
    beside = sum(1 for f in root.iterdir() if f.is_file() and is_picture(f.name))
    omitted = " ".join(filter(None, (left_out(without, beside), skipped)))
    return Folder(root, files, labels, classes, omitted or None)


@dataclass(frozen=True)
class Boxed(Folder):
    """Pictures with labelled boxes. `annotations` has one entry for each file.

    `keypoints` is the number of those of each object; None without any.
    """

    annotations: tuple[boxes.Annotation, ...] = ()
    keypoints: int | None = None

    def load(self, index: int) -> Sample:
        """Return the decoded picture and its boxes.

        Raises UnreadablePicture, also for a picture of another size than its labels have.
        """
        given = super().load(index)
        assert given.picture is not None
        found = self.annotations[index].boxes(given.picture.size, given.name)
        return replace(given, boxes=found)


@dataclass(frozen=True)
class Masked(Folder):
    """Pictures with labelled masks. `mask_files` has one for each."""

    mask_files: tuple[Path, ...] = ()

    def load(self, index: int) -> Sample:
        """Return the decoded picture, and how to read its mask; raises UnreadablePicture."""
        return replace(super().load(index), mask=partial(self.mask, index))

    def mask(self, index: int) -> Mask:
        """Return the values of the mask's pixels; raises UnreadablePicture."""
        name = self.mask_files[index].name
        return read_file(self.mask_files[index], name, lambda image: masks.values(image, name))

    def check(self, count: int, classes: int | None) -> None:
        """Check the masks of the first `count` pictures for a model with so many `classes`.

        Raises InvalidInput for one that is no mask, or has another size than its picture or a class
        that the model lacks. It also does if all of them are 0 and 255.
        """
        found: set[int] = set()
        known = classes or IGNORED
        for index in range(min(count, len(self))):
            values = set(np.unique(self._fitting(index)).tolist())
            highest = max(values - {IGNORED}, default=0)
            if highest >= known:
                value = f"class {highest} in {self.mask_files[index]}"
                expected = f"0 to {known - 1}, or {IGNORED} for pixels that do not count"
                raise InvalidInput(masks.FIELD, value, expected)
            found |= values
        if found == {0, IGNORED}:
            expected = f"classes, from 0 on: pixels of value {IGNORED} do not count"
            raise InvalidInput(masks.FIELD, f"masks of 0 and {IGNORED} only", expected)

    def _fitting(self, index: int) -> Mask:
        """The mask, which has the size of its picture, unless that cannot be read."""
        try:
            mask = self.mask(index)
        except UnreadablePicture as error:
            raise InvalidInput(
                masks.FIELD, str(self.mask_files[index]), f"a mask ({error})"
            ) from error
        own, wanted = mask.shape[::-1], size_of(self.root / self.files[index])
        if wanted is None or wanted == own:
            return mask
        value = "{} of {} x {}".format(self.mask_files[index], *own)
        expected = "the size of its picture {}, {} x {}".format(self.files[index], *wanted)
        raise InvalidInput(masks.FIELD, value, expected)


def _masked(spec: DatasetSpec, base: Path) -> Masked:
    place = masks.place(_root(spec, base), spec, base)
    found = _pictures(place.pictures, spec)
    skipped = listing.in_words(found.skipped)
    if not found.pictures:
        expected = _expected("pictures", place.pictures, skipped)
        raise InvalidInput("spec.dataset.path", spec.path, expected)
    made = masks.matched(place, found.pictures)
    beside = len(found.pictures) - len(made)
    unlisted = f"Left out: {beside:,} picture{'s' * (beside > 1)} not in {spec.annotations}."
    omitted = " ".join(filter(None, (unlisted if beside else None, skipped)))
    return Masked(
        place.pictures, tuple(made), None, None, omitted or None, mask_files=tuple(made.values())
    )


def _boxed(spec: DatasetSpec, base: Path) -> Boxed:
    root = _root(spec, base)
    coco = spec.source is DatasetSource.COCO
    place = boxes.coco_place(root, spec) if coco else boxes.yolo_place(root, spec)
    found = _pictures(place.pictures, spec)
    skipped = listing.in_words(found.skipped)
    if not found.pictures:
        expected = _expected("pictures", place.pictures, skipped)
        raise InvalidInput("spec.dataset.path", spec.path, expected)
    read = boxes.read_coco if coco else boxes.read_yolo
    made = read(place, base, found.pictures)
    omitted = " ".join(filter(None, (made.left_out, skipped)))
    files, annotations = tuple(made.annotations), tuple(made.annotations.values())
    omission = omitted or None
    return Boxed(place.pictures, files, None, made.classes, omission, annotations, made.keypoints)


def _expected(what: str, root: Path, skipped: str | None) -> str:
    return f"{what} in {root} or below" + (f" ({skipped.rstrip('.')})" if skipped else "")


def _refuse_shared(root: Path, names: Sequence[str]) -> None:
    """Raise InvalidInput if two class folders are the same one, whose pictures had two labels."""
    first: dict[Path, str] = {}
    for name in sorted(names, key=lambda name: (root / name).is_symlink()):
        place = (root / name).resolve()
        if place in first:
            expected = f"one folder a class: {name} and {first[place]} are the same folder"
            raise InvalidInput("spec.dataset.path", name, expected)
        first[place] = name


def _root(spec: DatasetSpec, base: Path) -> Path:
    assert spec.path is not None  # the manifest is refused without it
    root = base / expanded(spec.path, "spec.dataset.path")
    if not root.exists():
        raise InvalidInput("spec.dataset.path", spec.path, f"a folder (there is no {root})")
    if not root.is_dir():
        raise InvalidInput("spec.dataset.path", spec.path, f"a folder ({root} is a file)")
    return root


def _pictures(root: Path, spec: DatasetSpec) -> Listing:
    try:
        return listing.pictures_below(root, is_picture)
    except OSError as error:
        expected = f"a folder whose subfolders can be read ({of_system(error)})"
        raise InvalidInput("spec.dataset.path", spec.path, expected) from error


@dataclass(frozen=True)
class MapDataset:
    """Adapts a map-style data set, such as those of torch.

    `inner[i]` is a picture, a pair of picture and label, or a mapping with both by `keys`. The
    picture is a PIL image, an array that `to_rgb` accepts, or a tensor. A tensor is passed to the
    network unchanged. Targets of detectors and segmenters (a mapping, a list of mappings, a
    picture) are no labels and left out.
    """

    inner: Any
    keys: Keys = field(default_factory=Keys)

    def __len__(self) -> int:
        return len(self.inner)

    def name(self, index: int) -> str:
        """Return the position, padded to the digits of the last one."""
        return f"{index:0{len(str(len(self) - 1))}d}"

    def load(self, index: int) -> Sample:
        """Return the picture or tensor and its label.

        Raises UnreadablePicture for another item, and the errors of `inner`.
        """
        item, name = self.inner[index], self.name(index)
        if isinstance(item, Mapping):
            value, target = self.keys.pair(item, name)
        else:
            value, target = _pair(item, name) if isinstance(item, tuple | list) else (item, None)
        label = None if _is_annotation(target) else class_index(target, name)
        return transform.sample(value, name, label)

    @property
    def left_out(self) -> str | None:
        """By which keys samples are read, once one of them was a mapping."""
        return self.keys.found

    @property
    def classes(self) -> Sequence[str] | None:
        """The class names, if `inner` lists them as torchvision does."""
        names = getattr(self.inner, "classes", None)
        return tuple(map(str, names)) if isinstance(names, list | tuple) else None


def _pair(item: Sequence[Any], name: str) -> Sequence[Any]:
    if len(item) != 2:
        items = f"{len(item)} item" + ("" if len(item) == 1 else "s")
        raise UnreadablePicture(f"{name}: expected (picture, label), got {items}")
    return item


def _is_annotation(target: Any) -> bool:
    """Whether a target is that of a detector or a segmenter, as torchvision's data sets give it."""
    if isinstance(target, list | tuple):
        return all(isinstance(one, Mapping) for one in target)  # none on an empty picture
    return isinstance(target, Mapping | Image.Image)


def class_index(value: Any, name: str) -> int | None:
    """The label `value` of the sample `name` as a number, from an integer of any library.

    Raises UnreadablePicture for anything else but None, also for true and false.
    """
    truth = isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool")
    try:
        if value is None:
            return None
        if not truth and getattr(value, "ndim", 0) == 0:
            return operator.index(value)  # integers of Python, numpy and torch alike
    except TypeError:
        pass
    got = short(" ".join(repr(value).split()))
    raise UnreadablePicture(f"{name}: label: got {got}, expected a class index or None")


def _own_class(spec: DatasetSpec) -> Dataset:
    assert spec.class_ is not None  # the manifest is refused without it
    named = "spec.dataset.class"
    factory = import_object(spec.class_, named)
    try:
        with contained():
            made = factory(**spec.args)
    except TypeError as error:
        expected = f"arguments that {spec.class_} takes ({error})"
        raise InvalidInput("spec.dataset.args", spec.args, expected) from error
    except Exception as error:  # the user's class may raise anything
        expected = f"a class that can be created ({reason(error)})"
        raise InvalidInput(named, spec.class_, expected) from error
    return _as_dataset(made, spec.class_, Keys(spec.input_key, spec.label_key))


def _as_dataset(made: Any, path: str, keys: Keys) -> Dataset:
    dataset: Dataset
    missing = [one for one in ("__len__", "name", "load", "classes") if not hasattr(made, one)]
    if not missing:
        dataset = made
    elif hasattr(made, "__len__") and hasattr(made, "__getitem__"):
        dataset = MapDataset(made, keys)
    else:
        expected = (
            "a class with __len__ and __getitem__, or with __len__, name, load and classes; "
            f"it has no {', '.join(missing)}"
        )
        raise InvalidInput("spec.dataset.class", path, expected)
    if not len(dataset):
        raise InvalidInput("spec.dataset.class", path, "a data set with at least one sample")
    return dataset
