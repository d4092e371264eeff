"""How a search went: the metric of each trial by epoch, and the best found by then against the time of day."""

from __future__ import annotations

import datetime
from typing import Any

from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from kdray.report.picture import BEST, FRAME, GREY, bounds, dark, frameless, scaled, shades
from kdray.report.trial_text import better, usable

UNITS = ((2 * 3600, 3600, "hours"), (2 * 60, 60, "minutes"), (0, 1, "seconds"))  # from how many s on, s, name


def epochs_figure(search: dict[str, Any]) -> Figure:
    """Draw both panels; `metric_over_time` says how to read them."""
    figure = Figure(figsize=(11.5, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes in (left, right):
        frameless(axes, "top", "right")
        axes.tick_params(labelsize=9)
        axes.set_ylabel(scaled(search["metric"])[1])
    _by_epoch(left, search)
    _by_time(right, search)
    return figure


def curve(trial: dict[str, Any], metric: str) -> list[tuple[float, float]]:
    """(epoch, metric) of the epochs that have it."""
    return [(float(row["epoch"]), row[metric]) for row in trial["history"] if usable(row.get(metric))]


def _by_epoch(axes: Any, search: dict[str, Any]) -> None:
    factor, _ = scaled(search["metric"])
    curves = [(trial, points) for trial in search["trials"] if (points := curve(trial, search["metric"]))]
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    last = max([points[-1][0] for _, points in curves] + [float(search["max_epochs"] or 1)])
    first = min([points[0][0] for _, points in curves] + [1.0])
    axes.set_xlim(first - 0.03 * (last - first) - 0.1, last + 0.03 * (last - first) + 0.1)
    if not curves:
        _nothing(axes)
        return
    low, high = bounds([value for _, points in curves for _, value in points], search["mode"])
    axes.set_ylim(factor * low, factor * high)
    ends = [trial["value"] for trial, _ in curves if usable(trial["value"])]
    lowest, highest = bounds(ends, search["mode"]) if ends else (low, high)
    shade = shades(search["mode"])

    def color(trial: dict[str, Any]) -> Any:
        value = trial["value"]
        return shade((value - lowest) / (highest - lowest)) if usable(value) else GREY

    crowd = min(1.0, (60 / len(curves)) ** 0.5)
    scaled_curves = [(trial, [(x, factor * y) for x, y in points]) for trial, points in curves]
    # The best are drawn last, over the others.
    scaled_curves.sort(key=lambda pair: _rank(pair[0]["value"], search["mode"]))
    axes.add_collection(
        LineCollection(
            [points for _, points in scaled_curves],
            colors=[color(trial) for trial, _ in scaled_curves],
            linewidths=[(0.8 if t["state"] == "stopped" else 1.5) * (0.5 + 0.5 * crowd) for t, _ in scaled_curves],
            alpha=0.3 + 0.55 * crowd,
            zorder=2,
        )
    )
    for state, marker, size in (("stopped", "o", 16), ("failed", "x", 30)):
        tips = [(points[-1], color(t)) for t, points in scaled_curves if t["state"] == state]
        # A trial of one epoch has no line.
        dots = [
            (p[-1], color(t)) for t, p in scaled_curves if state == "stopped" and t["state"] != state and len(p) == 1
        ]
        if tips + dots:
            (x, y), colors = zip(*(tip for tip, _ in tips + dots), strict=True), [c for _, c in tips + dots]
            axes.scatter(x, y, s=size * (0.4 + 0.6 * crowd), c=colors, marker=marker, linewidths=1.2, zorder=3)
    best = [(trial, points) for trial, points in scaled_curves if trial["number"] == search["best"]]
    for trial, points in best:
        x, y = zip(*points, strict=True)
        axes.plot(x, y, color=BEST, lw=2.8, zorder=4, marker="o" if len(points) == 1 else None)
        if trial["best_epoch"] is not None:
            peak = [point for point in points if point[0] == trial["best_epoch"]]
            axes.plot(*zip(*peak, strict=True), "*", color=BEST, ms=13, mec="white", zorder=5)
    beyond = _beyond([value for _, points in curves for _, value in points], low, high)
    axes.set_title(f"{len(curves)} trial{'s' if len(curves) > 1 else ''} by epoch{beyond}", fontsize=10, loc="left")
    axes.legend(handles=_legend(best, curves, dark(search["mode"])), fontsize=8, frameon=False, loc="best")


def _by_time(axes: Any, search: dict[str, Any]) -> None:
    factor, _ = scaled(search["metric"])
    moments = ended_at(search["trials"])
    if not moments:
        axes.set_xlabel("time since the first trial started")
        _nothing(axes)
        return
    longest = max(seconds for seconds, _ in moments)
    unit_s, unit = next((per, name) for least, per, name in UNITS if longest >= least)
    axes.set_xlabel(f"{unit} since the first trial started")
    x = [seconds / unit_s for seconds, _ in moments]
    values = [trial["value"] for _, trial in moments]
    low, high = bounds(values, search["mode"])
    axes.set_ylim(factor * low, factor * high)
    axes.set_xlim(0, 1.03 * longest / unit_s or 1)
    for stopped, label in ((False, "a trial"), (True, "stopped early")):
        some = [
            (a, factor * t["value"])
            for a, (_, t) in zip(x, moments, strict=True)
            if (t["state"] == "stopped") == stopped
        ]
        if some:
            axes.scatter(
                *zip(*some, strict=True), s=14, facecolors="none" if stopped else FRAME, edgecolors=FRAME,
                linewidths=0.8, alpha=min(0.8, 0.3 + 30 / len(moments)), zorder=2, label=label,
            )  # fmt: skip
    steps, best = [], None
    for value in values:
        best = value if best is None or better(value, best, search["mode"]) else best
        steps.append(factor * best)
    end = 1.03 * longest / unit_s
    axes.step([*x, end], [*steps, steps[-1]], where="post", color=BEST, lw=2.4, zorder=3, label="best so far")
    axes.set_title(f"best value so far{_beyond(values, low, high)}", fontsize=10, loc="left")
    axes.legend(fontsize=8, frameon=False, loc="best")


def ended_at(trials: list[dict[str, Any]]) -> list[tuple[float, dict[str, Any]]]:
    """Seconds from the first start to each end, for the trials with a value and both times, in their order."""
    starts = [_seconds(trial["started"]) for trial in trials if trial["started"]]
    ended = [trial for trial in trials if usable(trial["value"]) and trial["started"] and trial["finished"]]
    found = [(max(0.0, _seconds(trial["finished"]) - min(starts)), trial) for trial in ended]
    return sorted(found, key=lambda pair: (pair[0], pair[1]["number"]))


def _seconds(moment: str) -> float:
    return datetime.datetime.fromisoformat(moment).timestamp()


def _rank(value: float | None, mode: str) -> float:
    if not usable(value):
        return float("-inf")
    assert value is not None
    return value if mode == "max" else -value


def _nothing(axes: Any) -> None:
    axes.set_yticks([])
    axes.text(0.5, 0.5, "no trial has a value", ha="center", va="center", color=GREY, transform=axes.transAxes)


def _beyond(values: list[float], low: float, high: float) -> str:
    """How many values the axis does not reach, as the end of a title."""
    count = sum(not low <= value <= high for value in values)
    return f" ({count} far worse value{'s' if count > 1 else ''} beyond the edge)" if count else ""


def _legend(best: list[Any], curves: list[Any], color: Any) -> list[Line2D]:
    chosen = [trial for trial, _ in best]
    states = {trial["state"] for trial, _ in curves if trial not in chosen}
    handles = [Line2D([], [], color=BEST, lw=2.8, label=f"best: trial {trial['number']}") for trial, _ in best]
    if states - {"stopped", "failed"}:
        handles.append(Line2D([], [], color=color, lw=1.5, label="in full"))
    if "stopped" in states:
        handles.append(Line2D([], [], color=color, lw=0.8, marker="o", ms=4, label="stopped early"))
    if "failed" in states:
        handles.append(Line2D([], [], color=GREY, lw=0.8, marker="x", ms=5, label="failed"))
    return handles
