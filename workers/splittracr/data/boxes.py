"""Labelled boxes of pictures, with keypoints if they have them: COCO's JSON file, and one text
file a picture as YOLO has them.

Everything is checked when a data set is opened: an error names the annotation or the line.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

import yaml

from splittracr.data.contracts import Keypoint, LabelledBox
from splittracr.data.home import expanded
from splittracr.data.rgb import UnreadablePicture
from splittracr.experiment.errors import InvalidInput, some, why
from splittracr.experiment.explain import short
from splittracr.experiment.spec import DatasetSpec

FIELD = "spec.dataset.annotations"

_SLACK = 0.01
"""By how much of the picture's side a box may pass its edge: labels are rounded."""

_IMAGES, _LABELS, _NAMES = "images", "labels", "data.yaml"


@dataclass(frozen=True)
class Annotation:
    """The labelled boxes of a picture: in pixels of `size` (width, height), or in shares of the
    picture's sides if `size` is None.
    """

    found: tuple[LabelledBox, ...]
    size: tuple[int, int] | None

    def boxes(self, size: tuple[int, int], name: str) -> tuple[LabelledBox, ...]:
        """The boxes in pixels of the picture `name`, decoded with `size` (width, height).

        Raises UnreadablePicture if the labels are for another size.
        """
        if self.size is None:
            return tuple(_scaled(one, *size) for one in self.found)
        if self.size != size:
            labelled, decoded = ("{} x {}".format(*one) for one in (self.size, size))
            raise UnreadablePicture(f"{name}: labels are for {labelled}, the picture is {decoded}")
        return self.found


@dataclass(frozen=True)
class Place:
    """The paths of a data set. `labels` is the folder of text files; None for COCO."""

    pictures: Path
    names: str | None
    labels: Path | None = None


@dataclass(frozen=True)
class Labels:
    """Annotations by picture, the classes, and what was left out, in words."""

    annotations: Mapping[str, Annotation]
    classes: tuple[str, ...]
    left_out: str | None

    @property
    def keypoints(self) -> int | None:
        """The number of keypoints of each object; None if no object has any."""
        objects = (one for each in self.annotations.values() for one in each.found)
        return next((len(one.keypoints) for one in objects if one.keypoints), None)


@dataclass(frozen=True)
class _Names:
    """The class names of a YAML file of YOLO, and how many numbers its keypoints have."""

    classes: tuple[str, ...]
    keypoints: tuple[int, int] | None = None


def check(boxes: Any, name: str) -> None:
    """Raise UnreadablePicture unless the `boxes` of the sample `name` are None or labelled boxes
    with a width and a height above 0.
    """
    for one in () if boxes is None else boxes:
        numbers = isinstance(one, LabelledBox) and all(map(_is_number, one.box))
        if not numbers or type(one.label) is not int or not _has_area(one.box):
            expected = "a LabelledBox with a class index and x1 < x2, y1 < y2"
            raise UnreadablePicture(f"{name}: boxes: got {one!r}, expected {expected}")
        for point in one.keypoints or ():
            if len(point) != 3 or not all(map(_is_number, point)):
                expected = "keypoints with x, y and visibility"
                raise UnreadablePicture(f"{name}: boxes: got {point!r}, expected {expected}")


def coco_place(root: Path, spec: DatasetSpec) -> Place:
    """The places of a COCO data set whose pictures are below `root`."""
    return Place(root, spec.annotations)


def yolo_place(root: Path, spec: DatasetSpec) -> Place:
    """The places of a YOLO data set: `labels` stands in place of the last `images` of the path.

    Raises InvalidInput if there are no such two folders.
    """
    below = root / _IMAGES
    pictures = root if _IMAGES in root.parts and not below.is_dir() else below
    parts = pictures.parts
    last = len(parts) - 1 - parts[::-1].index(_IMAGES)
    labels = Path(*parts[:last], _LABELS, *parts[last + 1 :])
    for folder in (pictures, labels):
        if not folder.is_dir():
            expected = f"a folder with {_IMAGES} and {_LABELS} (there is no {folder})"
            raise InvalidInput("spec.dataset.path", spec.path, expected)
    beside = Path(*parts[:last], _NAMES)
    names = spec.annotations or (str(beside.absolute()) if beside.is_file() else None)
    return Place(pictures, names, labels)


def read_coco(place: Place, base: Path, pictures: Sequence[str]) -> Labels:
    """Read COCO's JSON file for the `pictures`, paths below the folder.

    Raises InvalidInput if it is no such file, or does not match the pictures.
    """
    assert place.names is not None  # the manifest is refused without it
    return _Coco(place.names, _json(place.names, base)).labels(pictures)


def read_yolo(place: Place, base: Path, pictures: Sequence[str]) -> Labels:
    """Read the text file of each of the `pictures`; one without a file has no objects.

    Raises InvalidInput if a file has no picture, or a line is no box of a known class.
    """
    assert place.labels is not None
    names = None if place.names is None else _names(place.names, base)
    stems = {str(PurePosixPath(picture).with_suffix("")) for picture in pictures}
    files = {
        file.relative_to(place.labels).with_suffix("").as_posix(): file
        for file in sorted(place.labels.rglob("*.txt"))
    }
    files.pop("classes", None)  # a list of names that some tools write
    orphans = [f"{stem}.txt" for stem in files if stem not in stems]
    if orphans:
        expected = f"a picture in {place.pictures} for each file of labels"
        raise InvalidInput("spec.dataset.path", some(orphans), expected)
    found = {
        picture: _lines(files.get(str(PurePosixPath(picture).with_suffix(""))), names)
        for picture in pictures
    }
    highest = max((one.label for boxes in found.values() for one in boxes), default=-1)
    known = tuple(map(str, range(highest + 1))) if names is None else names.classes
    _refuse_none(found.values())
    return Labels({name: Annotation(boxes, None) for name, boxes in found.items()}, known, None)


class _Coco:
    """The parsed file, checked part by part."""

    def __init__(self, file: str, content: Any) -> None:
        self._file = file
        parts = ("images", "annotations", "categories")
        if not isinstance(content, dict) or not all(
            isinstance(content.get(part), list) for part in parts
        ):
            raise InvalidInput(FIELD, file, f"COCO's JSON with the lists {', '.join(parts)}")
        self._images = self._by_id(content["images"], "image")
        self._categories = self._by_id(content["categories"], "category")
        self._annotations = content["annotations"]
        self._names = self._checked_names()
        self._number: int | None = None  # of the keypoints of each object

    def labels(self, pictures: Sequence[str]) -> Labels:
        known = set(pictures)
        files = {key: self._file_name(image) for key, image in self._images.items()}
        missing = [name for name in files.values() if name not in known]
        if missing:
            self._refuse(f"image {some(missing)}", "a picture below spec.dataset.path")
        twice = [name for name, count in Counter(files.values()).items() if count > 1]
        if twice:
            self._refuse(f"image {some(twice)}", "one entry a picture")
        found: dict[Any, list[LabelledBox]] = {key: [] for key in files}
        places = {key: place for place, key in enumerate(self._categories)}
        for i, one in enumerate(self._annotations):
            key, box = self._box(one, i, places)
            found[key].append(box)
        annotations = {
            files[key]: Annotation(tuple(boxes), self._size(self._images[key]))
            for key, boxes in found.items()
        }
        _refuse_none(found.values())
        ordered = dict(sorted(annotations.items()))
        return _of_used(ordered, self._names, len(known) - len(annotations))

    def _by_id(self, entries: Sequence[Any], what: str) -> dict[Any, Any]:
        made: dict[Any, Any] = {}
        for i, one in enumerate(entries):
            key = one.get("id") if isinstance(one, dict) else None
            if not isinstance(key, int | str):
                self._refuse(f"{what} {i}", "an object with an id")
            if key in made:
                self._refuse(f"{what} with id {key!r}", "ids that differ")
            made[key] = one
        return made

    def _checked_names(self) -> tuple[str, ...]:
        names = [one.get("name") for one in self._categories.values()]
        _check_names(names, self._file)
        return tuple(names)

    def _file_name(self, image: Any) -> str:
        name = image.get("file_name")
        if not isinstance(name, str) or not name:
            self._refuse(f"image {image['id']!r}", "a file_name")
        return PurePosixPath(name).as_posix()

    def _size(self, image: Any) -> tuple[int, int]:
        size = (image.get("width"), image.get("height"))
        if not all(isinstance(side, int) and side > 0 for side in size):
            self._refuse(f"image {image['file_name']}", "a width and a height in pixels")
        return size[0], size[1]

    def _box(self, one: Any, place: int, places: Mapping[Any, int]) -> tuple[Any, LabelledBox]:
        named = f"annotation {one.get('id', place) if isinstance(one, dict) else place}"
        ids = {"image_id": self._images, "category_id": self._categories}
        for key, known in ids.items():
            value = one.get(key) if isinstance(one, dict) else None
            if not isinstance(value, int | str) or value not in known:
                self._refuse(f"{named} with {key} {value!r}", f"an id of its {key[:-3]} list")
        image = self._images[one["image_id"]]
        width, height = self._size(image)
        box = one.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
            self._refuse(f"{named} with bbox {box!r}", "four numbers: x, y, width, height")
        x, y, w, h = map(float, box)
        corners = (x, y, x + w, y + h)
        problem = _outside(corners, width, height)
        if problem:
            where = f"{problem} picture {image['file_name']}, {width} x {height}"
            self._refuse(f"{named} with bbox {box!r}", where)
        points = self._keypoints(one, named, image)
        area = one.get("area")
        return one["image_id"], LabelledBox(
            places[one["category_id"]],
            corners,
            bool(one.get("iscrowd", 0)),
            points,
            float(area) if points and _is_number(area) and area > 0 else None,
        )

    def _keypoints(self, one: Any, named: str, image: Any) -> tuple[Keypoint, ...] | None:
        """The keypoints of an annotation, as many as its category and all others have."""
        given = one.get("keypoints")
        if given is None:
            return None
        numbers = isinstance(given, list) and all(map(_is_number, given))
        if not numbers or not given or len(given) % 3:
            self._refuse(f"{named} with keypoints {short(repr(given))}", "x, y, visibility of each")
        number = len(given) // 3
        self._number = self._number or number
        names = self._categories[one["category_id"]].get("keypoints")
        wanted = len(names) if isinstance(names, list) and names else self._number
        if number != wanted or number != self._number:
            expected = f"{wanted}, as its category has, and as many as others"
            self._refuse(f"{named} with {number} keypoints", expected)
        points = _points(given, 3)
        problem = _wrong_keypoint(points, *self._size(image))
        if problem:
            self._refuse(f"{named} with keypoint {problem}", f"{_POINT} {image['file_name']}")
        return points

    def _refuse(self, value: str, expected: str) -> NoReturn:
        raise InvalidInput(FIELD, f"{value} of {self._file}", expected)


def _json(file: str, base: Path) -> Any:
    try:
        return json.loads((base / expanded(file, FIELD)).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInput(FIELD, file, f"a file with COCO's JSON ({why(error)})") from error


def _names(file: str, base: Path) -> _Names:
    """The content of YOLO's YAML file. Names are a list, or a mapping from 0 on."""
    try:
        content = yaml.safe_load((base / expanded(file, FIELD)).read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(why(error).split())
        raise InvalidInput(FIELD, file, f"a YAML file with the class names ({reason})") from error
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict) and sorted(names, key=str) == sorted(range(len(names)), key=str):
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names:
        raise InvalidInput(FIELD, file, "the key names: a list of class names, or a mapping from 0")
    made = [str(name) if isinstance(name, int) else name for name in names]
    _check_names(made, file)
    shape = content.get("kpt_shape")
    match shape:
        case None:
            return _Names(tuple(made))
        case [int(number), (2 | 3) as values] if number > 0:
            return _Names(tuple(made), (number, values))
    raise InvalidInput(FIELD, f"kpt_shape {shape!r} of {file}", "the number of keypoints, 2 or 3")


def _check_names(names: Sequence[Any], file: str) -> None:
    for place, name in enumerate(names):
        if not isinstance(name, str) or not name.strip():
            raise InvalidInput(FIELD, f"class {place} of {file}: {name!r}", "a class name")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InvalidInput(FIELD, f"class {some(twice)} of {file}", "class names that differ")


def _lines(file: Path | None, names: _Names | None) -> tuple[LabelledBox, ...]:
    """The boxes of a text file, in shares of the picture's sides; none without a file."""
    if file is None:
        return ()
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise InvalidInput("spec.dataset.path", str(file), f"text ({why(error)})") from error
    made = (
        _line(line, f"{file}, line {i}", names) for i, line in enumerate(lines, 1) if line.strip()
    )
    return tuple(dict.fromkeys(made))  # a line that is there twice is one object


def _line(line: str, where: str, names: _Names | None) -> LabelledBox:
    """A box from class, centre and size, with keypoints behind if the YAML file says so; or around
    the points of a polygon.
    """

    def refuse(expected: str) -> NoReturn:
        raise InvalidInput("spec.dataset.path", f"{line.strip()[:80]} ({where})", expected)

    try:
        label, *values = (float(part) for part in line.split())
    except ValueError:
        refuse("numbers: class, x, y, width, height")
    if not label.is_integer() or label < 0 or (names and label >= len(names.classes)):
        last = "" if names is None else f" to {len(names.classes) - 1}"
        refuse(f"a class from 0{last}")
    points: tuple[Keypoint, ...] | None = None
    if names and names.keypoints:
        number, each = names.keypoints
        if len(values) != 4 + number * each:
            refuse(f"class, x, y, width, height and {number} keypoints of {each} numbers")
        points = _points(values[4:], each)
        values = values[:4]
    if len(values) == 4:
        x, y, w, h = values
        corners = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
    elif len(values) >= 6 and len(values) % 2 == 0:
        xs, ys = values[::2], values[1::2]
        corners = (min(xs), min(ys), max(xs), max(ys))
    else:
        more = " (keypoints need kpt_shape in the YAML file)" if len(values) > 4 else ""
        refuse(f"class, x, y, width, height, or class and the points of a polygon{more}")
    problem = _outside(corners, 1, 1)
    if problem:
        refuse(f"{problem} picture: shares of its sides from 0 to 1")
    if points and _wrong_keypoint(points, 1, 1):
        refuse(f"{_POINT}: shares of its sides from 0 to 1")
    return LabelledBox(int(label), corners, keypoints=points)


def _points(values: Sequence[float], each: int) -> tuple[Keypoint, ...]:
    """Keypoints from a flat list with 2 or 3 numbers of each.

    Of two numbers a negative one says that the point is not labelled, as in ultralytics.
    """
    rows = [values[i : i + each] for i in range(0, len(values), each)]
    if each == 2:
        return tuple((x, y, 0 if x < 0 or y < 0 else 2) for x, y in rows)
    return tuple((x, y, int(v) if float(v).is_integer() else -1) for x, y, v in rows)


_POINT = "x, y, visibility 0, 1 or 2, in the picture"


def _wrong_keypoint(points: Sequence[Keypoint], width: float, height: float) -> str | None:
    """The first keypoint without a visibility, or labelled outside of a picture of this size."""
    x_slack, y_slack = _SLACK * width, _SLACK * height
    for x, y, visible in points:
        within = -x_slack <= x <= width + x_slack and -y_slack <= y <= height + y_slack
        if visible not in (0, 1, 2) or (visible and not within):
            return f"{x:g}, {y:g}, {visible}"
    return None


def _refuse_none(boxes: Iterable[Sequence[LabelledBox]]) -> None:
    if not any(boxes):
        raise InvalidInput("spec.dataset", None, "at least one labelled box")


def _of_used(annotations: Mapping[str, Annotation], names: tuple[str, ...], beside: int) -> Labels:
    """The labels with only the classes that have boxes: tools add categories of their own.

    `beside` pictures have no entry.
    """
    used = sorted({box.label for one in annotations.values() for box in one.found})
    places = {label: place for place, label in enumerate(used)}
    made = {
        name: Annotation(
            tuple(replace(box, label=places[box.label]) for box in one.found), one.size
        )
        for name, one in annotations.items()
    }
    empty = [name for i, name in enumerate(names) if i not in places]
    parts = [
        f"{beside} picture{'' if beside == 1 else 's'} without labels" if beside else "",
        f"{len(empty)} class{'' if len(empty) == 1 else 'es'} without boxes ({some(empty)})"
        if empty
        else "",
    ]
    said = " and ".join(filter(None, parts))
    return Labels(made, tuple(names[i] for i in used), f"Left out: {said}." if said else None)


def _outside(corners: tuple[float, float, float, float], width: float, height: float) -> str | None:
    """The requirement that a box in a picture of this size fails, to go before `picture`."""
    if not _has_area(corners):
        return "a width and a height above 0, in the"
    x1, y1, x2, y2 = corners
    x, y = _SLACK * width, _SLACK * height
    within = x1 >= -x and y1 >= -y and x2 <= width + x and y2 <= height + y
    return None if within else "a box within the"


def _has_area(corners: tuple[float, float, float, float]) -> bool:
    x1, y1, x2, y2 = corners
    return math.isfinite(sum(corners)) and x2 > x1 and y2 > y1


def _scaled(one: LabelledBox, width: int, height: int) -> LabelledBox:
    x1, y1, x2, y2 = one.box
    points = one.keypoints and tuple((x * width, y * height, v) for x, y, v in one.keypoints)
    box = (x1 * width, y1 * height, x2 * width, y2 * height)
    return replace(one, box=box, keypoints=points)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
