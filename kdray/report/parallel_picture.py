"""Parallel coordinates: a line for each trial through its parameters, to its value."""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator

from kdray.report.picture import BEST, FRAME, GREY, bounds, dark, frameless, scaled, shades
from kdray.report.trial_text import short_names, usable, value_text, varying
from kdray.tune.distribution import Choices, Span, as_text, distribution

MOST_AXES = 12
MOST_LABELS = 14
ABSENT = -0.13  # where a line passes an axis whose parameter its trial does not have
FAILED = -0.13  # where the line of a trial without a value ends
GOLDEN = 0.6180339887  # spreads trial numbers evenly over what is between 0 and 1
PATCH = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6}  # so that lines do not cross out texts


@dataclass(frozen=True)
class Axis:
    """One parameter: heights are 0 at the bottom of its axis and 1 at the top."""

    name: str
    title: str
    scale: Span | Choices
    spread: float  # how much of a choice's room its lines take, 0 to 1

    def height(self, trial: dict[str, Any]) -> float:
        """Where the trial's line passes; lines of one choice lie beside each other, so that they can be seen."""
        spread = self.spread * ((trial["number"] * GOLDEN) % 1 - 0.5)
        if self.name not in trial["parameters"]:
            return ABSENT + 0.1 * spread
        value = trial["parameters"][self.name]
        if isinstance(self.scale, Choices):
            return (self.scale.texts.index(as_text(value)) + 0.5 + spread) / len(self.scale.texts)
        return self._share(value)

    def _share(self, value: float) -> float:
        assert isinstance(self.scale, Span)
        low, high = self.scale.place(self.scale.low), self.scale.place(self.scale.high)
        return (self.scale.place(value) - low) / (high - low) if high > low else 0.5

    def labels(self) -> list[tuple[float, str]]:
        """Heights and texts along the axis."""
        if isinstance(self.scale, Choices):
            count = len(self.scale.texts)
            every = -(-count // MOST_LABELS)
            return [
                ((place + 0.5) / count, textwrap.shorten(value_text(json.loads(text)), 18, placeholder="…"))
                for place, text in enumerate(self.scale.texts)
                if place % every == 0
            ]
        low, high = self.scale.low, self.scale.high
        if high == low:
            return [(0.5, value_text(low))]
        inner = ticks(low, high, self.scale.log)
        return [(self._share(tick), f"{tick:.4g}") for tick in inner]


def ticks(low: float, high: float, log: bool) -> list[float]:
    """Round numbers from `low` to `high`; the ends themselves where fewer than two round ones are."""
    if log:
        decades = np.log10(high / low)
        steps: Any = (1.0,) if decades > 3 else (1.0, 3.0) if decades > 1.2 else (1.0, 2.0, 5.0)
        found = LogLocator(base=10, subs=steps, numticks=20).tick_values(low, high)
    else:
        found = MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    slack = 1e-9 * (high - low)
    inside = [float(tick) for tick in found if low - slack <= tick <= high + slack]
    return inside if len(inside) > 1 else [low, high]


def parallel_figure(search: dict[str, Any]) -> Figure:
    """Draw the trials of a search; `parallel_coordinates` says how to read it."""
    trials = search["trials"]
    axes, left_out = chosen_axes(search)
    judged = [trial for trial in trials if usable(trial["value"])]
    failed = [trial for trial in trials if trial["state"] == "failed" and not usable(trial["value"])]
    low, high = bounds([trial["value"] for trial in judged], search["mode"]) if judged else (0.0, 1.0)
    figure = Figure(figsize=(max(6.5, min(22.0, 2.2 + 1.55 * (len(axes) + 1))), 5.8), layout="constrained")
    plot = figure.add_subplot()
    frameless(plot, "left", "right", "top", "bottom")
    _draw_axes(plot, axes, trials)
    _draw_value_axis(plot, len(axes), search, (low, high), bool(judged), bool(failed))
    shade = shades(search["mode"])

    def path(trial: dict[str, Any]) -> list[tuple[float, float]]:
        end = _value_height(trial["value"], low, high, search["mode"]) if usable(trial["value"]) else FAILED
        return [(float(n), axis.height(trial)) for n, axis in enumerate(axes)] + [(float(len(axes)), end)]

    crowd = min(1.0, (60 / max(1, len(judged))) ** 0.5)  # many lines are thin and let each other through
    # The better a trial, the later it is drawn, over the others.
    by_value = sorted(judged, key=lambda t: t["value"] if search["mode"] == "max" else -t["value"])
    if by_value:
        plot.add_collection(
            LineCollection(
                [path(trial) for trial in by_value],
                colors=[shade((trial["value"] - low) / (high - low)) for trial in by_value],
                linewidths=[(0.6 if trial["state"] == "stopped" else 1.8) * (0.4 + 0.6 * crowd) for trial in by_value],
                alpha=0.35 + 0.5 * crowd,
                zorder=2,
            )
        )
    if failed:
        plot.add_collection(
            LineCollection(
                [path(trial) for trial in failed], colors=GREY, linewidths=0.6, linestyles="dotted", alpha=0.8, zorder=1
            )
        )
        plot.plot([len(axes)] * len(failed), [FAILED] * len(failed), "x", color=GREY, ms=7, mew=1.5, zorder=5)
    best = [trial for trial in judged if trial["number"] == search["best"]]
    for trial in best:
        x, y = zip(*path(trial), strict=True)
        plot.plot(x, y, color=BEST, lw=3, marker="o", ms=5, zorder=4, solid_joinstyle="round")
    plot.set_xlim(-0.75, len(axes) + 0.55)
    plot.set_ylim(-0.22, 1.04)
    plot.set_title(_title(search, len(judged), left_out), fontsize=10, loc="left", pad=10)
    handles = _legend(best, judged, failed, dark(search["mode"]))
    if handles:
        plot.legend(handles=handles, loc="upper left", bbox_to_anchor=(0, -0.01), ncols=4, frameon=False, fontsize=9)
    return figure


def chosen_axes(search: dict[str, Any]) -> tuple[list[Axis], int]:
    """The parameters that have an axis, and how many have none: of too many, those that matter least."""
    trials = search["trials"]
    names = varying(search)
    shares = search.get("importance") or {}
    kept = sorted(names, key=lambda name: -shares.get(name, 0.0))[:MOST_AXES]
    short = short_names(names)
    axes = []
    for name in names:
        if name in kept:
            seen = [trial["parameters"][name] for trial in trials if name in trial["parameters"]]
            scale = distribution(search["space"].get(name), seen)
            axes.append(Axis(name, _wrapped(short[name]), scale, spread=0.5 * min(1.0, len(trials) / 100)))
    return axes, len(names) - len(axes)


def _wrapped(name: str, width: int = 17) -> str:
    """A dotted name over several lines, broken after its dots and underscores where it is long."""
    lines = [""]
    for part in name.replace(".", ".\0").replace("_", "_\0").split("\0"):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def _value_height(value: float, low: float, high: float, mode: str) -> float:
    share = min(1.0, max(0.0, (value - low) / (high - low)))
    return share if mode == "max" else 1 - share


def _draw_axes(plot: Any, axes: list[Axis], trials: list[dict[str, Any]]) -> None:
    for place, axis in enumerate(axes):
        plot.plot([place, place], [0, 1], color=FRAME, lw=1, zorder=3)
        for height, text in axis.labels():
            plot.plot([place - 0.03, place], [height, height], color=FRAME, lw=1, zorder=3)
            plot.text(place - 0.06, height, text, ha="right", va="center", fontsize=8, zorder=6, bbox=PATCH)
        if any(axis.name not in trial["parameters"] for trial in trials):
            plot.text(
                place - 0.06, ABSENT, "not there", ha="right", va="center", fontsize=8, color=GREY, zorder=6,
                bbox=PATCH,
            )  # fmt: skip
    plot.set_yticks([])
    plot.set_xticks(range(len(axes)), [axis.title for axis in axes], fontsize=9)
    plot.tick_params(axis="x", top=True, labeltop=True, bottom=False, labelbottom=False, length=0)


def _draw_value_axis(
    plot: Any, place: int, search: dict[str, Any], ends: tuple[float, float], any_value: bool, any_failed: bool
) -> None:
    factor, name = scaled(search["metric"])
    low, high = ends
    plot.set_xticks([*plot.get_xticks(), place], [*(t.get_text() for t in plot.get_xticklabels()), name], fontsize=9)
    plot.get_xticklabels()[-1].set_fontweight("bold")
    plot.plot([place, place], [0, 1], color=FRAME, lw=1, zorder=3)
    if any_value:
        strip = np.linspace(0, 1, 128)[:, None]
        where = (place + 0.02, place + 0.1, 0.0, 1.0)
        origin: Any = "lower" if search["mode"] == "max" else "upper"
        plot.imshow(
            strip,
            extent=where,
            origin=origin,
            aspect="auto",
            cmap=shades(search["mode"]),
            interpolation="none",
            zorder=3,
        )
        for tick in ticks(factor * low, factor * high, log=False):
            height = _value_height(tick / factor, low, high, search["mode"])
            plot.text(place + 0.13, height, f"{tick:.4g}", ha="left", va="center", fontsize=8)
    else:
        plot.text(place - 0.05, 0.5, "no trial has a value", ha="right", va="center", color=GREY, fontsize=11)
    if any_failed:
        plot.text(place + 0.13, FAILED, "failed", ha="left", va="center", fontsize=8, color=GREY)


def _title(search: dict[str, Any], judged: int, left_out: int) -> str:
    up = "higher" if search["mode"] == "max" else "lower"
    more = f"; {left_out} more parameters are not shown" if left_out else ""
    return f"{judged} of {len(search['trials'])} trials with a value; best on top ({up} {search['metric']}){more}"


def _legend(best: list[Any], judged: list[Any], failed: list[Any], color: Any) -> list[Line2D]:
    handles = [Line2D([], [], color=BEST, lw=3, marker="o", ms=5, label=f"best: trial {t['number']}") for t in best]
    others = [trial["state"] for trial in judged if trial not in best]
    if set(others) - {"stopped"}:
        handles.append(Line2D([], [], color=color, lw=1.8, label="in full"))
    if "stopped" in others:
        handles.append(Line2D([], [], color=color, lw=0.6, label="stopped early"))
    if failed:
        handles.append(Line2D([], [], color=GREY, lw=0.8, ls=":", marker="x", label="failed"))
    return handles
