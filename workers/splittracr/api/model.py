"""A model in this process: its cuts, both halves, a profile and a plan."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from splittracr.api.arguments import arguments, frame
from splittracr.backends import measuring, registry
from splittracr.backends.protocol import Backend, Input, Live, Output
from splittracr.cli import plan as planner
from splittracr.cli import profiles, quantities
from splittracr.data import importing
from splittracr.data.contracts import Sample
from splittracr.data.rgb import to_rgb
from splittracr.experiment import explain
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.facts import LARGE, Facts, of_loaded
from splittracr.experiment.profile import Profile
from splittracr.experiment.spec import ExperimentSpec
from splittracr.planning.plan import Row

if TYPE_CHECKING:
    import pandas as pd

    from splittracr.results.plots import Plot

_OBJECTIVES = ("latency", "throughput", "energy")


def load(
    name: str,
    *,
    weights: str = "official",
    weights_file: str | Path | None = None,
    args: Mapping[str, Any] | None = None,
    num_classes: int | None = None,
    input_size: tuple[int, int] | None = None,
    input_shape: Sequence[int] | None = None,
    input_dtype: str = "float32",
    dtype: str = "float32",
    seed: int = 0,
    batch_size: int = 1,
    device: str = "auto",
    threads: int = 1,
) -> "Model":
    """Build a model and prove every cut exact on this machine; takes seconds.

    `name` is a model as `splittracr models` lists it, one that was registered here, or
    `package.module:callable`, called with `args`; modules in the current folder are found. Other
    arguments are those of `spec.model`, `spec.edge` and `spec.workload` in a manifest. `input_size`
    is height and width in pixels. `input_shape` and `input_dtype` describe tensors that the model
    takes unchanged, without the batch. Torch computes with `threads` threads from then on.

    Raises InvalidInput that names the argument, and CaptureError if there is no graph.
    """
    importing.look_in(Path.cwd())
    model = {
        "name": name,
        "weights": weights,
        "weightsFile": None if weights_file is None else str(weights_file),
        "args": dict(args or {}),
        "numClasses": num_classes,
        "inputSize": input_size,
        "input": None if input_shape is None else {"shape": input_shape, "dtype": input_dtype},
        "dtype": dtype,
        "seed": seed,
    }
    data = {
        "model": model,
        "partition": {"mode": "EdgeOnly"},
        "edge": {"device": device, "threads": threads},
        "workload": {"batchSize": batch_size},
    }
    shown = {
        "model.name": ("name", name),
        "model.weightsFile": ("weights_file", weights_file),
        "model.weights": ("weights", weights),
        "model.args": ("args", args),
        "model.numClasses": ("num_classes", num_classes),
        "model.inputSize": ("input_size", input_size),
        "model.input.dtype": ("input_dtype", input_dtype),
        "model.input": ("input_shape", input_shape),
        "model.dtype": ("dtype", dtype),
        "model.seed": ("seed", seed),
        "edge.device": ("device", device),
        "edge.threads": ("threads", threads),
        "workload.batchSize": ("batch_size", batch_size),
    }
    return _built(explain.validate(ExperimentSpec, data, "load", shown), shown)


def _built(spec: ExperimentSpec, shown: Mapping[str, tuple[str, object]]) -> "Model":
    """The model of `spec`. Errors name arguments instead of fields, as `shown` maps them."""
    try:
        return Model(spec, registry.load().build(spec, "edge", Path.cwd()))
    except InvalidInput as error:
        field, _ = shown.get(error.field.removeprefix("spec."), (error.field, None))
        raise InvalidInput(field, error.value, error.expected) from error


class Split(NamedTuple):
    """Both halves of a model at a cut.

    `head` takes an input batch, as `Model.prepare` makes one, and returns the live tensors, one
    value for each that `Model.cuts` lists. `tail` takes these and returns the model's raw output.
    It does not change them.
    """

    head: Callable[[Input], Live]
    tail: Callable[[Live], Output]


class Model:
    """A model that was proven at every cut; `load` makes one.

    Called with an input batch it returns the raw output of the whole model.
    """

    def __init__(self, spec: ExperimentSpec, backend: Backend) -> None:
        self._spec, self._backend = spec, backend

    def __call__(self, batch: Input) -> Output:
        own = self._backend
        (batch,) = _copied(own, [batch])
        return own.tail(own.proof.last, own.head(own.proof.last, batch))

    def __repr__(self) -> str:
        own = self._backend
        return (
            f"<{own.network.name}, weights {own.network.weights}, on {own.device}: "
            f"{len(own.proof.cuts)} cuts, {len(own.proof.offered())} proven exact>"
        )

    @property
    def name(self) -> str:
        """The model's name."""
        return self._backend.network.name

    @property
    def cuts(self) -> "pd.DataFrame":
        """One row a cut: index, name, live tensors, bytes, work, head_ms, refused, exactness,
        largest_error, top1_agreement.

        `work` is the head's share of the floating-point operations from 0 to 1, missing if they
        cannot be counted. `head_ms` is the time of one run on this machine. `refused` is the reason
        why a cut is not exact, None if it is exact.
        """
        from splittracr.cli import catalogue

        return frame([dataclasses.asdict(row) for row in catalogue.rows(self._backend.proof)])

    def example(self, seed: int = 0) -> Input:
        """A random input batch of the model's type and shape, the same on every machine."""
        return self._backend.example(seed)

    def prepare(self, *pictures: Any) -> Input:
        """The input batch of as many pictures as `batch_size` of `load`.

        A picture is a PIL picture, or an array or tensor of uint8. Raises SplittracrError for
        another value, and InvalidInput for another number of pictures.
        """
        own, size = self._backend, self._backend.identity.batch
        if len(pictures) != size:
            raise InvalidInput("pictures", len(pictures), f"{size}, the batch_size of load")
        samples = [
            Sample(f"picture {i}", to_rgb(one, f"picture {i}")) for i, one in enumerate(pictures)
        ]
        return own.stack([own.prepare(sample) for sample in samples])

    def split(self, cut: int | str) -> Split:
        """Both halves at a cut, by its name or index.

        Raises InvalidInput for an unknown cut, CutRefused if it is not exact.
        """
        own = self._backend
        index = own.cut(cut, "cut").index

        def head(batch: Input) -> Live:
            return own.head(index, *_copied(own, [batch]))

        def tail(live: Live) -> Output:
            # What is alive after the last operation need not cross a wire.
            return own.tail(index, live if index == own.proof.last else _copied(own, live))

        return Split(head, tail)

    def profile(self, frames: int = 5, *, agreement: bool = False) -> Profile:
        """Measure every operation, every codec at every cut, and memory, over `frames` pictures.

        Takes seconds to minutes. With `agreement` lossy codecs are judged by the first class, by
        detections or by pixels.
        `model_dump_json()` of the result is the file that `splittracr profile` writes.
        """
        made, _ = profiles.measure_network(self._backend, self._spec, frames, agreement=agreement)
        return made

    @cached_property
    def _profile(self) -> Profile:
        return self.profile(3)

    def plan(
        self,
        uplink: str | float = "10mbit",
        *,
        downlink: str | float | None = None,
        rtt: str | float = "20ms",
        spread: float = 0.0,
        edge: Profile | None = None,
        server: Profile | None = None,
        edge_slowdown: float = 1.0,
        objective: str = "latency",
        percentile: int = 50,
        compute_watts: float | None = None,
        transmit_watts: float | None = None,
        codecs: Sequence[str] = (),
        cuts: Sequence[int | str] = (),
        edge_memory: str | float | None = None,
        agreement: float | None = None,
        accuracy: float | None = None,
        rate: str | Path | None = None,
        calibration: str | Path | None = None,
        deadline: str | float | None = None,
    ) -> "Plan":
        """Predict where to cut; arguments are the options of `splittracr plan`.

        Numbers are bits per second, milliseconds and bytes; `spread`, `agreement` and `accuracy`
        are shares from 0 to 1. `rate` and `calibration` are files of `splittracr rate` and
        `splittracr calibrate`. `edge` and `server` are profiles; the default is measured here once.
        `objective` is latency, throughput or energy. Raises InvalidInput that names the argument.
        """
        if objective not in _OBJECTIVES:
            raise InvalidInput("objective", objective, f"one of {', '.join(_OBJECTIVES)}")
        with arguments({"--cut": "cuts", "--codec": "codecs", "--server-profile": "server"}):
            slower = quantities.number("edge_slowdown", 0.001, quantities.MAX_SLOWDOWN)
            options = planner.Options(
                uplink=quantities.rate("uplink")(_number(uplink)),
                downlink=_given(downlink, quantities.rate("downlink")),
                round_trip_ms=quantities.milliseconds("rtt")(_number(rtt)),
                spread=quantities.number("spread", 0, 2)(spread),
                slowdown=slower(edge_slowdown),
                rate=None if rate is None else Path(rate),
                goal=objective,
                percentile=int(quantities.number("percentile", 50, 99)(percentile)),
                watts=(
                    _watts("compute_watts", compute_watts),
                    _watts("transmit_watts", transmit_watts),
                ),
                codecs=tuple(codecs),
                cuts=tuple(map(str, cuts)),
                memory_bytes=_given(edge_memory, quantities.size("edge_memory")),
                agreement=_given(agreement, quantities.number("agreement", 0, 1)),
                accuracy=_given(accuracy, quantities.number("accuracy", 0, 1)),
                calibration=None if calibration is None else Path(calibration),
                deadline_ms=_given(deadline, quantities.milliseconds("deadline")),
            )
            return self._plan(options, edge or self._profile, server)

    def _plan(self, options: planner.Options, edge: Profile, server: Profile | None) -> "Plan":
        """The plan by `options`, for an edge and a server with these profiles."""
        if options.rate is not None:
            edge = profiles.with_rate(edge, options.rate, "--rate", self._facts())
        other = edge if server is None else server
        planner.check_server(edge, other, other.network)
        slowdown, facts = options.slowdown or 1.0, self._facts(LARGE)
        question = planner.question(edge, other, slowdown, None, options, facts)
        return Plan(planner.solve(question))

    def _facts(self, prefix: str = "") -> Facts:
        """The facts that a file of this model shares; its keys begin with `prefix`."""
        own = self._backend
        identity = measuring.identity(own, self._spec)
        return of_loaded(own.network.weights, identity, own.identity.batch, prefix)


class Plan:
    """A plan: the candidates, the best of them, and the reason. A notebook displays it."""

    def __init__(self, answer: planner.Answer) -> None:
        self._answer = answer

    @property
    def cut(self) -> str:
        """The name of the best cut; `output` is the edge alone, `input` the server alone."""
        return self._best.name

    @property
    def codec(self) -> str:
        """The codec of the best candidate."""
        return self._best.codec

    @property
    def latency_ms(self) -> float:
        """Its predicted latency in milliseconds."""
        return self._best.latency_ms

    @property
    def reason(self) -> str:
        """The reason why it is the best, in a sentence."""
        return self._answer.plan.reason

    @property
    def table(self) -> "pd.DataFrame":
        """One row a candidate, the best first; `excluded` is the reason why one may not win.

        Times are milliseconds, `tail_ms` is the latency at the percentile, sizes are bytes.
        """
        plan = self._answer.plan
        every = [*plan.rows, *([plan.cascade] if plan.cascade else [])]
        order = sorted(
            every, key=lambda row: (row.excluded is not None, row.cost, row is not plan.best)
        )
        return frame([dataclasses.asdict(row) for row in order])

    @property
    def break_even(self) -> "pd.DataFrame":
        """The candidate with the lowest median latency for each range of uplink rates."""
        return frame([dataclasses.asdict(one) for one in self._answer.plan.break_even])

    @property
    def figure(self) -> "Plot":
        """Latency over bandwidth."""
        return planner.figure(self._answer)

    @property
    def _best(self) -> Row:
        return self._answer.plan.best

    def __repr__(self) -> str:
        return f"{planner.heading(self._answer.question)} {self.reason}"

    def _repr_html_(self) -> str:
        from markupsafe import escape

        columns = ["title", "bytes_up", "edge_ms", "link_ms", "server_ms", "latency_ms"]
        shown = self.table[columns].head(8).to_html(index=False, float_format="{:,.1f}".format)
        heading = escape(planner.heading(self._answer.question))
        return f"<p>{heading}</p>{shown}<p><b>{escape(self.reason)}</b></p>"


def _copied(own: Backend, values: Live) -> Live:
    """Copies of tensors, since operations may write into their input."""
    return own.unpack(own.pack(values))


def _number(value: str | float) -> str | float:
    return float(value) if isinstance(value, int) else value


def _watts(name: str, value: float | None) -> float | None:
    return _given(value, quantities.number(name, 0.001, 10_000))


def _given(value: str | float | None, parse: quantities.Number) -> float | None:
    return None if value is None else parse(_number(value))
