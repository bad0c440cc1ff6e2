"""Arguments and options of the commands, each defined once.

Several commands share the first ones; the others keep commands with many options short.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from splittracr.cli import inputs, quantities
from splittracr.experiment.contracts import TLS, ExitTargets, Runtime, Statistic

File = Annotated[
    Path, typer.Argument(help="A SplitExperiment manifest; - is standard input.", metavar="FILE")
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="PATH=VALUE", help="Override a field of the manifest; repeatable."
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        help="Short for `--set spec.model.weights=…`; `none` is seeded random weights, even if the "
        "manifest names a file of weights."
    ),
]
Args = Annotated[
    Any,
    typer.Option(
        parser=inputs.mapping,
        metavar="YAML",
        help="Arguments of MODEL, if it is package.module:callable, such as '{width: 16}'.",
    ),
]
RuntimeOption = Annotated[
    Runtime,
    typer.Option(
        help="What computes the operations: Torch, OnnxRuntime (extra onnx), or CudaGraphs on a "
        "CUDA device."
    ),
]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Short for `--set spec.logging.level=Debug`.")
]
Base = Annotated[
    Path | None,
    typer.Option(help="Where relative paths in the manifest start; its own folder if left out."),
]

Tls = Annotated[
    Path | None,
    typer.Option(
        envvar=TLS,
        help="Folder with what `splittracr certs` made, or with tls.crt, tls.key and ca.crt.",
    ),
]
TlsCert = Annotated[Path | None, typer.Option(help="This end's certificate, if not in --tls.")]
TlsKey = Annotated[Path | None, typer.Option(help="Its private key.")]
TlsCa = Annotated[Path | None, typer.Option(help="The authority that the other end belongs to.")]

ResultsFolder = Annotated[
    Path | None,
    typer.Option(help="Folder for results; new, or without records. [runs/NAME-TIME]"),
]
WithParent = Annotated[bool, typer.Option(hidden=True)]

Namespace = Annotated[
    str | None,
    typer.Option("--namespace", "-n", help="Namespace; the kubeconfig's own if left out."),
]
StudyName = Annotated[str, typer.Argument(help="A study in the cluster.", metavar="NAME")]


class Per(StrEnum):
    """The rows of a table."""

    LAYER = "layer"


class Goal(StrEnum):
    """What a plan minimises."""

    LATENCY = "latency"
    THROUGHPUT = "throughput"
    ENERGY = "energy"


def _rate(option: str, text: str, **more: Any) -> Any:
    return typer.Option(parser=quantities.rate(option), metavar="RATE", help=text, **more)


def _milliseconds(option: str, text: str, **more: Any) -> Any:
    return typer.Option(parser=quantities.milliseconds(option), metavar="TIME", help=text, **more)


def _seconds(option: str, text: str, **more: Any) -> Any:
    return typer.Option(parser=quantities.seconds(option), metavar="TIME", help=text, **more)


def _slowdown(text: str) -> Any:
    parser = quantities.number("--edge-slowdown", 0.001, quantities.MAX_SLOWDOWN)
    return typer.Option(parser=parser, metavar="FACTOR", help=text)


def _watts(option: str) -> Any:
    parser = quantities.number(option, 0.001, quantities.MAX_WATTS)
    return typer.Option(parser=parser, metavar="WATTS", help="Power of the edge; for energy.")


def output_file(names: tuple[str, ...], text: str, *suffixes: str) -> Any:
    """A file that the command writes, with one of the suffixes if there are any."""
    parser = quantities.output_file(names[0], *suffixes)
    return typer.Option(*names, parser=parser, metavar="FILE", help=text)


# run, server, serve and edge

On = Annotated[
    str | None,
    typer.Option(
        metavar="ssh://[USER@]HOST[:PORT]",
        help="Run the server on this machine instead, started by ssh.",
    ),
]
RemoteCommand = Annotated[
    str | None,
    typer.Option(
        help="With --on: the command on that machine, as its shell reads it.",
        show_default="splittracr",
    ),
]
Forward = Annotated[bool, typer.Option("--forward", help="With --on: connect through ssh.")]
ReceptionFolder = Annotated[Path | None, typer.Option(help="Folder of `serve`.", hidden=True)]
ReachedAs = Annotated[
    list[str] | None,
    typer.Option(
        help="Name or address under which edges reach this machine; repeatable. [its addresses]"
    ),
]
Listen = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Address to listen on. [spec.server.host; if the manifest has none, all]",
    ),
]
Ttl = Annotated[float, _seconds("--ttl", "How long an edge may join.", show_default="1h")]
Study = Annotated[
    str,
    typer.Argument(
        help="A manifest, or the address wss://HOST:PORT#TOKEN that `splittracr serve` prints.",
        metavar="STUDY",
    ),
]
EdgeFolder = Annotated[
    Path | None,
    typer.Option(
        help="Folder for records, environment and pictures. [with an address runs/NAME-TIME]"
    ),
]

# plan

Uplink = Annotated[float, _rate("--uplink", "Rate from edge to server.", show_default="10mbit")]
Downlink = Annotated[float | None, _rate("--downlink", "The other way. [the uplink's]")]
RoundTrip = Annotated[float, _milliseconds("--rtt", "Round-trip time.", show_default="20ms")]
Spread = Annotated[int, typer.Option(min=0, max=200, help="Per cent by which the rate varies.")]
ManifestSlowdown = Annotated[float | None, _slowdown("Edge times are multiplied. [the manifest's]")]
EdgeProfile = Annotated[
    str | None, typer.Option(help="Profile of a manifest's edge. [reference, or measured here]")
]
ServerProfile = Annotated[
    str | None, typer.Option(help="Profile of the server. [the edge's, not slowed down]")
]
Objective = Annotated[Goal, typer.Option(help="What to minimise.")]
Percentile = Annotated[int, typer.Option(min=50, max=99, help="Percentile of latency to minimise.")]
Codecs = Annotated[list[str] | None, typer.Option(help="Codecs to use; repeatable. [all]")]
Cuts = Annotated[list[str] | None, typer.Option(help="Cuts to use; repeatable. [all]")]
EdgeMemory = Annotated[
    float | None,
    typer.Option(
        parser=quantities.size("--edge-memory"),
        metavar="SIZE",
        help="Max memory on the edge, such as 64mib.",
    ),
]
AgreementShare = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=100,
        help="Min share of first classes, detections or pixels that a codec keeps, in per cent.",
    ),
]
AccuracyShare = Annotated[
    float | None,
    typer.Option(
        parser=quantities.number("--accuracy", 0, 100),
        metavar="PERCENT",
        help="Min share of the uncut model's accuracy that a candidate keeps, in per cent: by "
        "--rate, else by the profile's agreement.",
    ),
]
RateFile = Annotated[
    Path | None,
    typer.Option(
        "--rate",
        metavar="FILE",
        help="rate.json of `splittracr rate`: accuracy, and more picture codecs.",
    ),
]
CalibrationFile = Annotated[
    Path | None,
    typer.Option(
        "--calibration",
        metavar="FILE",
        help="JSON file of `splittracr calibrate --out`: its cascade is a candidate.",
    ),
]
Deadline = Annotated[float | None, _milliseconds("--deadline", "Max latency, such as 100ms.")]
ComputeWatts = Annotated[float | None, _watts("--compute-watts")]
TransmitWatts = Annotated[float | None, _watts("--transmit-watts")]
Rows = Annotated[int, typer.Option(min=1, help="Candidates to show.")]
Plot = Annotated[
    Path | None,
    output_file(("--plot",), "Draw latency over bandwidth; .png or .svg.", ".png", ".svg"),
]

# calibrate

Small = Annotated[
    Any | None,
    typer.Option(
        parser=inputs.small_model,
        metavar="MODEL",
        help="The small model: its name, or the keys of `spec.model` as YAML, such as "
        "'{name: alexnet, weightsFile: small.pt}'.",
    ),
]
ExitsFile = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Instead of a small model: exits that `splittracr exits train` made, or `Declared`.",
    ),
]
MaxDisagreement = Annotated[
    float | None,
    typer.Option(
        parser=quantities.number("--max-disagreement", 0.01, 99),
        metavar="PERCENT",
        help="Max share of the answers on the edge that disagree with the large model, in per "
        "cent: a promise.",
    ),
]
MaxKilobytes = Annotated[
    float | None,
    typer.Option(
        parser=quantities.number("--max-kilobytes", 0, 1e6),
        metavar="KILOBYTES",
        help="Instead: max kilobytes that a picture sends on average.",
    ),
]
StatisticOption = Annotated[
    Statistic | None,
    typer.Option(help="How sureness follows from scores. [Margin; MeanScore of detectors]"),
]
MatchPercent = Annotated[
    int,
    typer.Option(
        min=1, max=100, help="Answers of detectors agree if this share of detections match."
    ),
]
ClassNames = Annotated[
    Any,
    typer.Option(
        parser=inputs.class_names,
        metavar="YAML",
        help="Classes of the small model as those of the large one, such as '{kitten: cat, other: "
        "null}'. The small model must not answer with a class that is null.",
    ),
]

# exits train

At = Annotated[list[str], typer.Option("--at", metavar="CUT", help="Cut of an exit; repeatable.")]
Targets = Annotated[
    ExitTargets | None,
    typer.Option(
        help="Targets of the exits: labels, or the model's own answers. [labels if there are any]"
    ),
]
HeldOut = Annotated[
    int,
    typer.Option(min=5, max=50, help="Share of samples that only judge the exits, in per cent."),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the choice of held-out samples.")]

# rate

RateFolder = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", metavar="FOLDER", help="Folder for the files. [runs/NAME-rate-TIME]"
    ),
]
RateCuts = Annotated[
    list[str] | None,
    typer.Option("--cut", help="Cut to measure; repeatable. [six with few live bytes]"),
]
RateCodecs = Annotated[
    list[str] | None,
    typer.Option("--codec", help="Codec of the cuts; repeatable. [those of a profile]"),
]
Qualities = Annotated[
    list[int] | None,
    typer.Option(
        "--quality",
        help="Quality of JPEG, WebP and AVIF; repeatable. [5, 10, 20, 30, 50, 70 and 90]",
    ),
]
Scales = Annotated[
    list[int] | None,
    typer.Option(
        "--scale",
        help="Also pictures with this much of both sides, in per cent; repeatable. [50]",
    ),
]
Samples = Annotated[
    int | None, typer.Option(min=1, help="Samples to run. [the manifest's, or all]")
]

# simulate

Slowdown = Annotated[float, _slowdown("Edge times are multiplied by this.")]
Scale = Annotated[
    float,
    typer.Option(
        parser=quantities.number("--scale", 0.01, 1000),
        metavar="FACTOR",
        help="Rates are multiplied by this.",
    ),
]
FirstCascade = Annotated[
    Path | None,
    typer.Option(
        "--calibration",
        metavar="FILE",
        help="JSON file of `splittracr calibrate --out`: its small model or exits answer first.",
    ),
]
SmallIfItPays = Annotated[
    bool,
    typer.Option(
        "--small-if-it-pays",
        help="With --calibration: policies decide before each frame whether the small model, or "
        "exits, go first, as in mode Adaptive. Policies that cannot are left out.",
    ),
]
RateFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--rate",
        metavar="FILE",
        help="rate.json of `splittracr rate`: accuracy of its model; repeatable.",
    ),
]
JsonFile = Annotated[Path | None, output_file(("--json",), "Also write the table.")]

# dashboard

Since = Annotated[
    float | None, _seconds("--since", "Instead: from this long ago until now, such as 1h.")
]
Step = Annotated[
    float | None, _seconds("--step", "Between two points, such as 5s. [by the time range]")
]
