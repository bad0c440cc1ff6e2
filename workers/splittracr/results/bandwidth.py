"""The figure of a plan: latency over bandwidth."""

from collections.abc import Sequence

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from splittracr.planning.cost import Array, Candidates
from splittracr.planning.estimate import Beliefs
from splittracr.planning.plan import Stretch
from splittracr.results.plots import EDGE, FAINT, INK, SERVER, STYLE, WIDTH, Plot

_SPLIT = "#009e73"


def over_bandwidth(
    candidates: Candidates, beliefs: Beliefs, stretches: Sequence[Stretch], heading: str
) -> Plot:
    """Predicted latency of the edge alone, of full offload and of the best split.

    A kind that may not be used is left out.
    """
    rates = np.geomspace(*_range(stretches), 200)
    latencies = np.array([candidates.latency_ms(beliefs.with_uplink(rate)) for rate in rates])
    alone = candidates.bytes_up == 0
    whole = ~alone & (candidates.cut == 0)
    kinds = (
        ("edge only", alone, EDGE, "--"),
        ("server only", whole, SERVER, "-."),
        ("best split", ~alone & ~whole, _SPLIT, "-"),
    )
    with style.context(["default", STYLE]):
        figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
        axes = figure.add_subplot()
        for name, chosen, colour, dash in kinds:
            if chosen.any():
                best: Array = latencies[:, chosen].min(axis=1)
                axes.plot(rates, best, color=colour, ls=dash, lw=1.6, label=name)
        axes.plot(rates, latencies.min(axis=1), color=INK, lw=5, alpha=0.15, label="best of all")
        axes.set_xscale("log")
        axes.set_yscale("log")
        for stretch in stretches[1:]:
            axes.axvline(stretch.begins, color=FAINT, lw=0.8, zorder=0)
        axes.axvline(beliefs.up.bits_per_second, color=INK, lw=0.8, ls=":", label="this link")
        axes.set_ylim(top=min(float(latencies.max()), 30 * float(latencies.min(axis=1).max())))
        for axis, text in ((axes.xaxis, _rate), (axes.yaxis, _time)):
            axis.set_major_formatter(FuncFormatter(text))
            axis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("uplink")
        axes.set_ylabel("predicted latency of a frame")
        figure.legend(loc="outside upper center", ncols=5, handlelength=2.2)
    caption = f"{heading} Vertical lines: where another candidate takes over."
    alt = "Lines over bandwidth. " + "; ".join(
        f"up to {_rate(stretch.ends)}: {stretch.title}" for stretch in stretches
    )
    return Plot("bandwidth", caption, alt, figure)


def _range(stretches: Sequence[Stretch]) -> tuple[float, float]:
    """Rates that show every change of the winner, 0.1 to 1,000 Mbit/s at least."""
    changes = [stretch.begins for stretch in stretches[1:]] or [1e6]
    return max(1e3, min(1e5, min(changes) / 3)), min(1e11, max(1e9, max(changes) * 3))


def _rate(bits: float, _: int = 0) -> str:
    for unit, factor in (("Gbit/s", 1e9), ("Mbit/s", 1e6), ("kbit/s", 1e3)):
        if bits >= factor * 0.999:
            return f"{bits / factor:.3g} {unit}"
    return f"{bits:.3g} bit/s"


def _time(ms: float, _: int = 0) -> str:
    return f"{ms / 1e3:g} s" if ms >= 1e3 else f"{ms:g} ms"
