"""What pictures of searches share: how a figure becomes bytes, and which colours mean what.

Told apart by the colour-blind too: cividis (Nuñez, Anderton, Renslow, PLOS ONE 2018) for values, vermilion of Okabe
and Ito's palette (https://jfly.uni-koeln.de/color/) for the best.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.text import Text

from kdray.report.trial_text import SHARES

BEST = "#d55e00"
GREY = "#8a8a8a"
FRAME = "#404040"
PNG_DPI = 110


def image(figure: Figure, kind: str) -> bytes:
    """The figure as `svg` or `png`; the same figure is the same bytes."""
    out = io.BytesIO()
    FigureCanvasAgg(figure)  # not pyplot: no figure is left in the process, and no display is asked for
    settings = {"svg.hashsalt": "kdray", "svg.fonttype": "none", "font.family": "sans-serif", "text.parse_math": False}
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # type: ignore[attr-defined]  # two dollars in a value are no formula
    with matplotlib.rc_context(settings):  # type: ignore[arg-type]
        if kind == "svg":
            figure.savefig(out, format="svg", metadata={"Date": None, "Creator": "kdray"})
        else:
            figure.savefig(out, format=kind, dpi=PNG_DPI, metadata={"Software": None})
    return out.getvalue()


def shades(mode: str) -> LinearSegmentedColormap:
    """From light for the worst to dark for the best value: on white, what is good stands out."""
    colors = matplotlib.colormaps["cividis"](_ramp(0.92, 0.0) if mode == "max" else _ramp(0.0, 0.92))
    return LinearSegmentedColormap.from_list("kdray", list(colors))


def dark(mode: str) -> Any:
    """The colour of a good value."""
    return shades(mode)(0.85 if mode == "max" else 0.15)


def _ramp(start: float, end: float) -> list[float]:
    return [start + (end - start) * step / 63 for step in range(64)]


def bounds(values: Sequence[float], mode: str) -> tuple[float, float]:
    """Lowest and highest of the values to be shown: those far worse than most are left beyond the edge."""
    from kdray.tune.importance import fenced

    shown = fenced(list(values), mode) if len(values) > 1 else list(values)
    low, high = min(shown), max(shown)
    margin = 0.04 * (high - low) or 0.05 * abs(high) or 0.5
    return low - margin, high + margin


def scaled(metric: str) -> tuple[float, str]:
    """By how much values of a metric are multiplied for an axis, and the axis's name."""
    return (100.0, f"{metric} (%)") if metric in SHARES else (1.0, metric)


def frameless(axes: Any, *sides: str) -> None:
    """Take the frame's `sides` away."""
    for side in sides:
        axes.spines[side].set_visible(False)
