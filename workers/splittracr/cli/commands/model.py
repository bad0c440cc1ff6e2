"""Commands about models: what there is, where it can be cut, and where a cut pays."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from splittracr.cli import inputs, options, output
from splittracr.cli.options import Args, Base, File, Goal, Per, Set, Weights
from splittracr.experiment.contracts import Runtime
from splittracr.experiment.errors import InvalidInput, naming

if TYPE_CHECKING:  # takes time to import
    from splittracr.experiment.spec import ExperimentSpec


def models(
    pattern: Annotated[str, typer.Argument(help="Show only names that contain this.")] = "",
) -> None:
    """List the models that a manifest can name."""
    from splittracr.cli import catalogue

    catalogue.print_models(pattern, output.console())


def cuts(
    model: Annotated[str, typer.Argument(help="A model, as `splittracr models` lists it.")],
    input_size: Annotated[
        str | None,
        typer.Option(metavar="HEIGHTxWIDTH", help="Height and width in pixels. [the model's own]"),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Pictures in one frame.")] = 1,
    args: Args = None,
    runtime: options.RuntimeOption = Runtime.TORCH,
) -> None:
    """Show every cut of a model: live tensors, bytes, share of the work, and whether it is exact.

    Random weights are used: they do not change where a model can be cut.
    """
    from splittracr.cli import catalogue
    from splittracr.data import importing

    importing.look_in(Path.cwd())  # MODEL may be a class of the user's own
    console = output.console()
    catalogue.print_cuts(inputs.network(model), args, input_size, batch, runtime, console)


def export(
    file: File,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="Folder for the files.")
    ],
    set_: Set = None,
    weights: Weights = None,
    base: Base = None,
) -> None:
    """Write the model of a study for edges without PyTorch, as `spec.edge.modelPath` takes it.

    Only edges that no server reaches need it: servers hand the model over themselves. The study has
    `spec.edge.runtime: OnnxRuntime`. Cuts are proven on this machine.
    """
    experiment = inputs.load(file, set_, weights)
    runtime = experiment.spec.edge.runtime
    if runtime is not Runtime.ONNX_RUNTIME:
        expected = "OnnxRuntime: an edge without PyTorch has no other runtime"
        raise InvalidInput("spec.edge.runtime", runtime.value, expected)
    from splittracr.backends import registry

    folder = inputs.base_folder(file, base)
    with naming(out):
        registry.exporter()(experiment.spec, folder, out)
    print(f"wrote {out}")


def profile(
    model: Annotated[str, typer.Argument(help="A model, as `splittracr models` lists it.")],
    out: Annotated[
        Path | None,
        options.output_file(("--out", "-o"), "File to write."),
    ] = None,
    per: Annotated[
        Per | None, typer.Option(help="Print a table: each operation's time, output and work.")
    ] = None,
    weights: Annotated[
        str,
        typer.Option(help="`none` is seeded random weights: times and bytes are much the same."),
    ] = "official",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    threads: Annotated[int, typer.Option(min=1, help="Threads of one operation.")] = 1,
    frames: Annotated[int, typer.Option(min=1, help="Pictures to measure.")] = 5,
    agreement: Annotated[
        bool,
        typer.Option(help="Also judge lossy codecs by the first class, detections or pixels."),
    ] = False,
    args: Args = None,
    runtime: options.RuntimeOption = Runtime.TORCH,
) -> None:
    """Measure a model on this machine: every operation, every codec at every cut, memory.

    `splittracr plan` and `splittracr simulate` take the file, for the edge and for the server.
    """
    if out is None and per is None:
        raise InvalidInput("--out", None, "a file for the profile, or --per layer for a table")
    if runtime is Runtime.ONNX_RUNTIME and per is not None:
        expected = f"nothing with --runtime {runtime}, whose sessions merge operations"
        raise InvalidInput("--per", per.value, expected)
    from splittracr.cli import profiles
    from splittracr.data import importing

    importing.look_in(Path.cwd())
    spec = _profiled(model, weights, args or {}, device, threads, runtime)
    with inputs.runtime_option():
        made, operations = profiles.measure(spec, Path.cwd(), frames, agreement=agreement)
    if per is not None:
        from splittracr.cli import layers

        output.console().print(layers.per_layer(operations))
    wrote = ""
    if out is not None:
        with naming(out):
            out.write_text(made.model_dump_json() + "\n", "utf-8")
        wrote = f"; {out}"
    output.console().print(
        f"{made.network} on {made.machine()}: {made.head_ms()[-1]:,.1f} ms, "
        f"{len(made.cuts)} cuts{wrote}",
        highlight=False,
        soft_wrap=True,
    )


def _profiled(
    model: str,
    weights: str,
    args: dict[str, object],
    device: str,
    threads: int,
    runtime: Runtime,
) -> "ExperimentSpec":
    """The study that `profile` measures; errors name its options."""
    from splittracr.cli import profiles

    return profiles.study_of(
        {"name": inputs.network(model), "weights": weights, "args": args},
        {"device": device, "threads": threads, "runtime": runtime},
        {
            "model.name": ("MODEL", model),
            "model.weights": ("--weights", weights),
            "edge.device": ("--device", device),
            "edge.runtime": ("--runtime", runtime),
            "edge.threads": ("--threads", threads),
        },
    )


def plan(
    file: Annotated[
        str, typer.Argument(help="A manifest, a profile or the name of a reference profile.")
    ],
    uplink: options.Uplink = 10e6,
    downlink: options.Downlink = None,
    rtt: options.RoundTrip = 20.0,
    spread: options.Spread = 0,
    edge_slowdown: options.ManifestSlowdown = None,
    edge_profile: options.EdgeProfile = None,
    server_profile: options.ServerProfile = None,
    objective: options.Objective = Goal.LATENCY,
    percentile: options.Percentile = 50,
    codec: options.Codecs = None,
    cut: options.Cuts = None,
    edge_memory: options.EdgeMemory = None,
    agreement: options.AgreementShare = None,
    accuracy: options.AccuracyShare = None,
    rate: options.RateFile = None,
    calibration: options.CalibrationFile = None,
    deadline: options.Deadline = None,
    compute_watts: options.ComputeWatts = None,
    transmit_watts: options.TransmitWatts = None,
    rows: options.Rows = 12,
    plot: options.Plot = None,
) -> None:
    """Print where to cut a model, why, and at which bandwidths the answer changes.

    Nothing is run: the answer is predicted from profiles. "Do not split" is an answer.
    """
    from splittracr.cli import plan as planner

    question = planner.ask(
        file,
        planner.Options(
            uplink=uplink,
            downlink=downlink,
            round_trip_ms=rtt,
            spread=spread / 100,
            slowdown=edge_slowdown,
            edge_profile=edge_profile,
            server_profile=server_profile,
            goal=objective,
            percentile=percentile,
            watts=(compute_watts, transmit_watts),
            codecs=tuple(codec or ()),
            cuts=tuple(cut or ()),
            memory_bytes=edge_memory,
            agreement=None if agreement is None else agreement / 100,
            accuracy=None if accuracy is None else accuracy / 100,
            rate=rate,
            calibration=calibration,
            deadline_ms=deadline,
            figure=plot,
        ),
    )
    planner.answer(question, rows, output.console())


def calibrate(
    file: File,
    small: options.Small = None,
    exits: options.ExitsFile = None,
    max_disagreement: options.MaxDisagreement = None,
    max_kilobytes: options.MaxKilobytes = None,
    statistic: options.StatisticOption = None,
    match_percent: options.MatchPercent = 50,
    classes: options.ClassNames = None,
    out: Annotated[
        Path | None, options.output_file(("--out", "-o"), "Also write a JSON file.")
    ] = None,
    set_: Set = None,
    weights: Weights = None,
    base: Base = None,
) -> None:
    """Find the sureness from which answers of a small model, or of exits, count in a cascade.

    The command runs the small model or the exits, and the model of the study (the large model), on
    the pictures of the study. These need no labels. The mode is Static, ServerOnly or Cascade. With
    --max-disagreement the threshold has a promise: with 95 % confidence at most this share of the
    answers on the edge disagrees with the large model. The command prints the keys of mode Cascade.
    """
    from splittracr.cli import calibrate as calibrating

    experiment = inputs.load(file, set_, weights)
    goal = calibrating.Goal.parse(max_disagreement, max_kilobytes)
    first = inputs.first_in_cascade(small, exits, classes)
    question = calibrating.Question(first, goal, statistic, match_percent, classes)
    folder, console = inputs.base_folder(file, base), output.console()
    made = calibrating.calibrate(experiment.spec, folder, question)
    if out is not None:
        with naming(out):
            out.write_text(made.model_dump_json(indent=2) + "\n", "utf-8")
    for sentence in calibrating.sentences(made):
        console.print(sentence, highlight=False, soft_wrap=True)
    console.print(f"\n{calibrating.block(made, question, folder)}", highlight=False, soft_wrap=True)


def train_exits(
    file: File,
    at: options.At,
    out: Annotated[Path, options.output_file(("--out", "-o"), "File to write.", ".safetensors")],
    targets: options.Targets = None,
    held_out: options.HeldOut = 20,
    seed: options.Seed = 0,
    samples: options.Samples = None,
    set_: Set = None,
    weights: Weights = None,
    base: Base = None,
) -> None:
    """Train exits of the model of a study on its pictures, for mode Cascade.

    An exit is a linear layer on averages of the live tensors at a cut. The model does not change.
    Some pictures are held out: on them each exit is compared with the labels and with the model.
    """
    from splittracr.cli import exits

    experiment = inputs.load(file, set_, weights)
    wanted = exits.Options(tuple(at), targets, held_out / 100, seed, samples)
    console = output.console()
    made = exits.train(experiment.spec, inputs.base_folder(file, base), out, wanted, console)
    for sentence in exits.sentences(made):
        console.print(sentence, highlight=False, soft_wrap=True)
    console.print(f"wrote {out}", highlight=False, soft_wrap=True)


def rate(
    file: File,
    out: options.RateFolder = None,
    cut: options.RateCuts = None,
    codec: options.RateCodecs = None,
    quality: options.Qualities = None,
    scale: options.Scales = None,
    samples: options.Samples = None,
    small: options.Small = None,
    exits: options.ExitsFile = None,
    classes: options.ClassNames = None,
    set_: Set = None,
    weights: Weights = None,
    base: Base = None,
) -> None:
    """Measure bytes against accuracy: cuts with codecs, and the whole picture at every quality.

    Accuracy is top-1, mAP or mIoU if the data set has labels, else agreement with the uncut,
    uncoded model. With --small or --exits it measures cascades, too. It prints the Pareto front and
    the Bjontegaard delta rates against JPEG of the whole picture, and writes rate.json, rate.csv,
    rate.svg and rate.png. No server is needed.
    """
    from splittracr.cli import rate as rating

    experiment = inputs.load(file, set_, weights)
    folder = inputs.rate_folder(out, experiment.metadata.name)
    first = None
    if (small, exits, classes) != (None, None, None):
        first = inputs.first_in_cascade(small, exits, classes)
    wanted = rating.Options(
        cuts=tuple(cut or ()),
        codecs=tuple(codec or ()),
        qualities=tuple(quality or ()),
        scales=tuple(scale or ()),
        samples=samples,
        first=first,
        classes=classes,
    )
    rating.run(experiment, inputs.base_folder(file, base), folder, wanted, output.console())


def simulate(
    traces: Annotated[Path, typer.Option(help="Folder of recorded links, searched recursively.")],
    profile: Annotated[
        list[str] | None,
        typer.Option(help="Profile of a model; repeatable. [vgg16 and yolov5nu]"),
    ] = None,
    edge_slowdown: options.Slowdown = 10.0,
    codec: Annotated[list[str] | None, typer.Option(help="Codecs to use; repeatable.")] = None,
    hysteresis: Annotated[int, typer.Option(min=0, help="Min gain of a switch, in per cent.")] = 10,
    scale: options.Scale = 1.0,
    accuracy: options.AccuracyShare = None,
    rate: options.RateFiles = None,
    calibration: options.FirstCascade = None,
    small_if_it_pays: options.SmallIfItPays = False,
    json_file: options.JsonFile = None,
) -> None:
    """Run every policy over recorded links, frame by frame, with the edge worker's own code.

    A trace is a CSV file (duration_ms, bandwidth_kbps, latency_ms); its family is its folder.
    """
    from splittracr.cli import profiles
    from splittracr.cli import simulate as simulator
    from splittracr.planning.policy import PolicyOptions

    found = [profiles.read(name, "--profile") for name in profile or ("vgg16", "yolov5nu")]
    found = simulator.with_rates(found, rate or ())
    simulator.run(
        traces,
        [(one, one) for one in found],
        slowdown=edge_slowdown,
        codecs=codec or ["uint8"],
        scale=scale,
        accuracy=None if accuracy is None else accuracy / 100,
        calibration=calibration,
        decides=small_if_it_pays,
        settings=PolicyOptions(hysteresis=hysteresis / 100),
        json_file=json_file,
        console=output.console(),
    )
