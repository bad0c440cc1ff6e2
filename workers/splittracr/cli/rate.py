"""`splittracr rate`: bytes against accuracy, as a table, files and a figure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from splittracr.cli.profiles import CODECS
from splittracr.experiment.codec import Codec, PictureCodec, PictureFormat
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.spec import ExperimentSpec, ModelSpec, SplitExperiment
from splittracr.results import words
from splittracr.results.words import NOTHING, human_bytes, percent

if TYPE_CHECKING:
    from splittracr.backends.protocol import Backend
    from splittracr.edge.first_answers import FirstAnswers
    from splittracr.results.rate import Metric, Rate, RatePoint
    from splittracr.results.summary import Estimate

QUALITIES = (5, 10, 20, 30, 50, 70, 90)
SCALES = (100, 50)


@dataclass(frozen=True)
class Options:
    """The options of the command; empty ones have a default.

    `first` is a small model, or a file of exits or `Declared`. `classes` is its mapping of class
    names.
    """

    cuts: tuple[str, ...]
    codecs: tuple[str, ...]
    qualities: tuple[int, ...]
    scales: tuple[int, ...]
    samples: int | None
    first: ModelSpec | str | None = None
    classes: Mapping[str, object] | None = None


def run(
    experiment: SplitExperiment, base: Path, folder: Path, options: Options, console: Console
) -> None:
    """Measure, print the tables, and write rate.json, rate.csv, rate.svg and rate.png."""
    made = measured(experiment, base, options, console)
    for part in printed(made):
        console.print(part, soft_wrap=isinstance(part, Text))
    write(made, folder)
    console.print(Text(f"Files: {folder}/rate.json, .csv, .svg and .png"), soft_wrap=True)


def measured(experiment: SplitExperiment, base: Path, options: Options, console: Console) -> "Rate":
    """Run the model of a study on its data set. Relative paths start at `base`.

    Raises InvalidInput that names the option or the field.
    """
    codecs, whole = _codecs(options.codecs), pictures(options)
    from splittracr.backends import measuring, registry
    from splittracr.data import datasets
    from splittracr.edge import rating, truths
    from splittracr.edge.study import labelled
    from splittracr.results.rate import CascadePoint, Rate, compared

    # Samples are coded one by one, also in a study with batches.
    one = experiment.spec.workload.model_copy(update={"batch_size": 1})
    spec = experiment.spec.model_copy(update={"workload": one})
    dataset = datasets.open_dataset(spec.dataset, base)
    own = registry.load_edge(spec.edge.runtime).build(spec, "edge", base)
    if not own.network.pictures:
        expected = "a model whose input is a picture: the whole of it as JPEG is compared with"
        raise InvalidInput("spec.model.name", own.network.name, expected)
    own = labelled(own, spec, dataset)
    cuts = [_cut(own, cut) for cut in options.cuts] or rating.default_cuts(own)
    truth = partial(truths.truth, truths.matching(own, spec, dataset), own.network)
    count = min(len(dataset), options.samples or spec.workload.samples or len(dataset))
    truths.check_masks(own, dataset, count)
    found = rating.measure(
        own,
        dataset,
        track(range(count), "Samples", console=console, transient=True),
        truth,
        [partial(rating.sent, own, cuts, codecs, whole)],
        _first(own, spec, base, options),
    )
    everything, curves = compared((*found.points, *found.cascades))
    return Rate(
        study=experiment.metadata.name,
        model=own.network.name,
        weights=own.network.weights,
        identity=measuring.identity(own, spec),
        samples=found.samples,
        failed=len(found.failures),
        reason=found.failures[0] if found.failures else None,
        metric=found.metric,
        judged=found.judged,
        uncut=found.uncut,
        points=tuple(one for one in everything if not isinstance(one, CascadePoint)),
        cascades=tuple(one for one in everything if isinstance(one, CascadePoint)),
        curves=curves,
    )


def _first(
    own: "Backend", spec: ExperimentSpec, base: Path, options: Options
) -> "FirstAnswers | None":
    """The small model or the exits that answer first. Raises InvalidInput that names the option."""
    from splittracr.cli.calibrate import exit_answers, small_answers
    from splittracr.edge.calibrating import Both
    from splittracr.edge.first_answers import FirstAnswers

    first = options.first
    if first is None:
        return None
    answers = (
        exit_answers(own, spec, base, first)
        if isinstance(first, str)
        else small_answers(spec, base, first)
    )
    both = Both(answers, own, 0, Codec.parse("raw"))
    return FirstAnswers(both, both.classes(options.classes))


def pictures(options: Options) -> list[PictureCodec]:
    """Formats that Pillow has: the lossless ones, and the others at every quality and scale.

    Raises InvalidInput for a quality or scale outside of 1 to 100.
    """
    from splittracr.wire.pictures import is_available

    for option, values in (("--quality", options.qualities), ("--scale", options.scales)):
        for value in values:
            if not 1 <= value <= 100:
                raise InvalidInput(option, value, "1 to 100")
    lossless = (PictureFormat.UINT8, PictureFormat.PNG, PictureFormat.WEBP)
    lossy = (PictureFormat.JPEG, PictureFormat.WEBP, PictureFormat.AVIF)
    made = [PictureCodec(one) for one in lossless]
    made += [
        PictureCodec(one, quality, scale)
        for one in lossy
        # In full size in any case: others are compared with JPEG in full size.
        for scale in sorted({100, *(options.scales or SCALES)}, reverse=True)
        for quality in sorted(set(options.qualities or QUALITIES))
    ]
    return [one for one in made if is_available(one.format)]


def _codecs(names: Sequence[str]) -> list[Codec]:
    """The codecs of live tensors. Raises InvalidInput for a name that is none."""
    from splittracr.wire import registry

    made = []
    for name in names or CODECS:
        try:
            made.append(Codec.parse(name))
        except ValueError as error:
            raise InvalidInput("--codec", name, Codec.EXPECTED) from error
        registry.check(name, "--codec")
    return list(dict.fromkeys(made))


def _cut(own: "Backend", name: str) -> int:
    """A cut by name or index. Raises InvalidInput for one at which nothing is sent."""
    cut = own.cut(int(name) if name.isdecimal() else name, "--cut")
    if not 0 < cut.index < own.proof.last:
        expected = "a cut between input and output: the input is measured anyhow, at output "
        raise InvalidInput("--cut", name, expected + "nothing is sent")
    return cut.index


# ---------------------------------------------------------------------------------------- output


def printed(made: "Rate") -> "list[Text | Table]":
    """The front, the curves and the conclusion, for the terminal."""
    from splittracr.results.rate import METRICS

    uncut = accuracy(made.metric, made.uncut)
    heading = (
        f"{made.model}, weights {made.weights}: {METRICS[made.metric]} of "
        f"{words.plural(made.judged, 'sample')}; uncut and uncoded {uncut}."
    )
    parts: list[Text | Table] = [Text(heading, style="bold")]
    if made.failed:
        left = f"{words.plural(made.failed, 'sample')} left out, the first one: {made.reason}"
        parts.append(Text(left, style="yellow"))
    return [*parts, _front(made), _curves(made), Text(sentence(made), style="bold")]


def sentence(made: "Rate") -> str:
    """The bytes that splitting saves or costs against JPEG, in a sentence."""
    from splittracr.results.rate import ANCHOR, CUTS

    split = sum(one.on_front and one.cut_index > 0 for one in made.points)
    cascades = sum(one.on_front for one in made.cascades)
    front = sum(one.on_front for one in made.everything)
    also = f", {cascades} {'is a cascade' if cascades == 1 else 'are cascades'}"
    said = f"{split} of {words.plural(front, 'point')} on the front split the model"
    said += f"{also}." if made.cascades else "."
    cuts = [one for one in made.curves if one.family == CUTS]
    cuts = cuts or [one for one in made.curves if not one.family.startswith("input ")]
    if not cuts:
        return said
    rate = cuts[0].bd_rate
    if rate is None:
        return f"{said} The cuts have no BD-rate against {ANCHOR}: {cuts[0].reason}."
    more = "more" if rate > 0 else "fewer"
    share = f"{abs(rate) * 100:,.1f} %"
    return f"{said} For the same accuracy the cuts take {share} {more} bytes than JPEG."


def accuracy(metric: "Metric", found: "Estimate") -> str:
    """`71.2 % (65.1 – 76.6)`, or `0.448 (0.412 – 0.480)` of a mean average precision."""
    from splittracr.results.rate import AS_NUMBER

    write, unit = (words.precision, "") if metric in AS_NUMBER else (_hundredths, " %")
    ends = [write(end) for end in (found.low, found.high) if end is not None]
    return write(found.value) + unit + (f" ({' – '.join(ends)})" if ends else "")


def _hundredths(share: float) -> str:
    return f"{share * 100:.1f}"


def _grid(title: str, columns: Sequence[str], texts: int) -> Table:
    """An empty table; the first `texts` columns are text."""
    grid = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, title=title, title_justify="left")
    for i, name in enumerate(columns):
        if i < texts:
            grid.add_column(name, overflow="fold")
        else:
            grid.add_column(name, justify="right", no_wrap=True)
    return grid


def _front(made: "Rate") -> Table:
    from splittracr.results.rate import LABELLED

    left_out = set() if made.cascades else {"answered"}
    left_out |= set() if made.metric in LABELLED else {"agreement"}
    front = sorted((one for one in made.everything if one.on_front), key=lambda one: one.bytes)
    columns = [name for name in _COLUMNS if name not in left_out]
    grid = _grid(f"Pareto front of {len(made.everything)} points", columns, 2)
    for one in front:
        cells = _cells(made.metric, one)
        grid.add_row(*(Text(cells[name]) for name in columns))
    return grid


_COLUMNS = ("cut", "codec", "answered", "edge", "sent", "accuracy", "agreement", "to JPEG")
"""Of the front. `answered` is the share of samples that a small model or exits answer."""


def _cells(metric: "Metric", one: "RatePoint") -> dict[str, str]:
    from splittracr.results.rate import CascadePoint

    return {
        "cut": one.cut,
        "codec": one.codec,
        "answered": percent(one.answered if isinstance(one, CascadePoint) else None),
        "edge": percent(one.work),
        "sent": human_bytes(one.bytes),
        "accuracy": accuracy(metric, one.accuracy),
        "agreement": percent(one.agreement),
        "to JPEG": _rate(one.excess),
    }


def _curves(made: "Rate") -> Table:
    from splittracr.results.rate import ANCHOR

    columns = ("curve", "points", "BD-rate", "")
    grid = _grid(f"Bjontegaard delta rate against {ANCHOR}", columns, 1)
    for one in made.curves:
        grid.add_row(
            *map(Text, (one.family, str(one.points), _rate(one.bd_rate), one.reason or ""))
        )
    return grid


def _rate(share: float | None) -> str:
    """`+12.3 %`, `-40.1 %`."""
    return NOTHING if share is None else f"{share * 100:+,.1f} %"


def write(made: "Rate", folder: Path) -> None:
    """Write the files."""
    from splittracr.results import plots, rate, tables
    from splittracr.results.files import write_atomically
    from splittracr.results.rate_plot import rate_plot

    plot = rate_plot(made)
    contents = {
        "json": made.model_dump_json(indent=2).encode() + b"\n",
        "csv": tables.csv(tables.rates(made)),
        "svg": plots.svg(plot),
        "png": plots.png(plot),
    }
    for ending, content in contents.items():
        write_atomically(folder / f"{rate.FILE}.{ending}", content)
