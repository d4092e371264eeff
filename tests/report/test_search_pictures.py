"""Pictures of a search: what is drawn where, from one trial to a thousand, and that they come out the same twice."""

from __future__ import annotations

import io
import random
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from kdray.report.epochs_picture import ended_at, epochs_figure
from kdray.report.parallel_picture import ABSENT, MOST_AXES, chosen_axes, parallel_figure, ticks
from kdray.report.picture import BEST, bounds, image, shades
from kdray.report.search_pictures import metric_over_time, parallel_coordinates, write_pictures
from kdray.store import Store
from tests.report.searches import facts, search, trial

PARAMETERS = [
    {"method": "kd", "kd.weight": 0.1, "lr": 0.01},
    {"method": "mcld", "lr": 0.1},
    {"method": "kd", "kd.weight": 2.1, "lr": 1.0},
    {"method": "mcld", "lr": 0.001},
]
SMALL = facts(
    [
        trial(0, "done", [0.2, 0.4], parameters=PARAMETERS[0]),
        trial(1, "stopped", [0.3], parameters=PARAMETERS[1]),
        trial(2, "done", [0.3, 0.6], parameters=PARAMETERS[2]),
        trial(3, "failed", parameters=PARAMETERS[3]),
    ],
    space={"method": "choice(kd, mcld)", "kd.weight": "uniform(0.1, 2.1)", "lr": "loguniform(0.001, 1)"},
)


def texts(figure: Figure) -> list[str]:
    return [text for part in figure.findobj(match=lambda p: hasattr(p, "get_text")) if (text := part.get_text())]


def collections(figure: Figure, axes: int = 0) -> list[LineCollection]:
    return [part for part in figure.axes[axes].collections if isinstance(part, LineCollection)]


def drawn_in(figure: Figure, color: str, axes: int = 0) -> list[np.ndarray]:
    return [line.get_xydata() for line in figure.axes[axes].lines if to_hex(line.get_color()) == color]


def test_a_line_goes_through_its_parameters_to_its_value() -> None:
    figure = parallel_figure(SMALL)
    (best,) = drawn_in(figure, BEST)
    low, high = bounds([0.3, 0.4, 0.6], "max")
    top = (0.6 - low) / (high - low)
    assert best == pytest.approx(np.array([[0, 0.25], [1, 1], [2, 1], [3, top]]), abs=0.02)
    judged, failed = collections(figure)
    heights = [segment[:, 1] for segment in judged.get_segments()]
    assert heights[0] == pytest.approx([0.75, ABSENT, 2 / 3, (0.3 - low) / (high - low)], abs=0.02)  # worst first
    assert heights[1] == pytest.approx([0.25, 0, 1 / 3, (0.4 - low) / (high - low)], abs=0.02)
    assert failed.get_segments()[0][:, 1] == pytest.approx([0.75, ABSENT, 0, ABSENT], abs=0.02)
    widths = judged.get_linewidths()
    assert widths[0] < widths[1]  # stopped early is thin


def test_what_stands_at_the_axes() -> None:
    said = texts(parallel_figure(SMALL))
    for text in ("method", "weight", "lr", "val/top1 (%)", "kd", "mcld", "0.1", "0.01", "not there", "failed"):
        assert text in said, text
    assert "best: trial 2" in said and "stopped early" in said
    assert "3 of 4 trials with a value; best on top (higher val/top1)" in said


def test_of_a_loss_the_lowest_is_on_top_and_dark() -> None:
    some = facts([trial(n, parameters={"a": n}, value=v) for n, v in enumerate([3.0, 1.0, 2.0])], mode="min", best=1)
    figure = parallel_figure(some | {"metric": "val/nll"})
    (best,) = drawn_in(figure, BEST)
    assert best[-1, 1] > 0.9
    (lines,) = collections(figure)
    brightness = [sum(color[:3]) for color in lines.get_colors()]
    assert (
        brightness == sorted(brightness, reverse=True) and brightness[0] > 2 * brightness[-1]
    )  # the best is drawn last
    assert [sum(shades("max")(x)[:3]) > sum(shades("max")(1.0)[:3]) for x in (0.0, 0.5)] == [True, True]


def test_of_too_many_parameters_the_important_have_axes() -> None:
    rng = random.Random(0)
    names = [f"part_{n}.weight_of_something_long" for n in range(20)]
    some = facts(
        [trial(n, "done", [0.5], parameters={name: rng.random() for name in names}) for n in range(9)], space={}
    )
    axes, left_out = chosen_axes(some | {"importance": {name: n / 190 for n, name in enumerate(names)}})
    assert [axis.name for axis in axes] == names[-MOST_AXES:] and left_out == 20 - MOST_AXES
    assert max(len(line) for axis in axes for line in axis.title.splitlines()) <= 17
    assert "8 more parameters are not shown" in " ".join(texts(parallel_figure(some)))


def test_the_metric_by_epoch() -> None:
    figure = epochs_figure(SMALL)
    best, star = drawn_in(figure, BEST)
    assert best.tolist() == [[1, 30], [2, 60]] and star.tolist() == [[2, 60]]
    (lines,) = collections(figure)
    assert lines.get_segments()[0].tolist() == [[1, 30]]
    (stopped,) = [part for part in figure.axes[0].collections if isinstance(part, PathCollection)]
    assert stopped.get_offsets().tolist() == [[1, 30]]
    assert "3 trials by epoch" in texts(figure) and "stopped early" in texts(figure)


def test_the_best_so_far_by_the_clock() -> None:
    figure = epochs_figure(SMALL)
    # Trials start every 30 s and an epoch takes 11 s.
    assert [seconds for seconds, _ in ended_at(SMALL["trials"])] == [22, 41, 82]
    (line,) = drawn_in(figure, BEST, axes=1)
    assert line.tolist() == pytest.approx(np.array([[22, 40], [41, 40], [82, 60], [1.03 * 82, 60]]))
    assert "seconds since the first trial started" in texts(figure)
    late = [trial(n, "done", [0.1], finished=f"2026-01-0{n + 1}T06:00:00+00:00") for n in range(2)]
    assert "hours since the first trial started" in texts(epochs_figure(facts(late)))


def test_epochs_without_the_metric_are_left_out() -> None:
    some = facts([trial(0, "done", [0.2, 0.4, 0.5])])
    del some["trials"][0]["history"][1]["val/top1"]
    (lines,) = collections(epochs_figure(some))
    assert lines.get_segments()[0].tolist() == [[1, 20], [3, 50]]


def test_values_far_worse_than_most_do_not_hide_the_others() -> None:
    values = [1.0, 1.1, 1.2, 1.3, 1.4, 1e6]
    assert bounds(values, "min")[1] < 3
    trials = [trial(n, value=v, parameters={"a": n}) for n, v in enumerate(values)]
    for each in trials:
        each["history"] = [{"epoch": 1, "val/nll": each["value"]}]
    some = facts(trials, metric="val/nll", mode="min", best=0)
    figure = epochs_figure(some)
    assert figure.axes[0].get_ylim()[1] < 3
    assert "6 trials by epoch (1 far worse value beyond the edge)" in texts(figure)
    lowest = min(segment[-1, 1] for segment in collections(parallel_figure(some))[0].get_segments())
    assert lowest == 0  # the end of its axis, not beyond


@pytest.mark.parametrize(
    "some",
    [facts([]), facts([trial(0, "waiting"), trial(1, "failed"), trial(2, "running")], space={})],
    ids=["no trials", "no values"],
)
def test_without_a_value_it_says_so(some: dict[str, Any]) -> None:
    assert "no trial has a value" in texts(parallel_figure(some))
    assert texts(epochs_figure(some)).count("no trial has a value") == 2
    for draw in (parallel_coordinates, metric_over_time):
        ElementTree.fromstring(draw(some))


def test_one_trial_without_parameters() -> None:
    some = facts([trial(0, "done", [0.5], parameters={})])
    (best,) = drawn_in(parallel_figure(some), BEST)
    assert best.tolist() == [[0, 0.5]]


def test_the_same_search_is_the_same_picture_whatever_was_drawn_before() -> None:
    for draw in (parallel_coordinates, metric_over_time):
        once = draw(SMALL)
        epochs_figure(search(5))
        assert draw(SMALL) == once
        for word in (b"<dc:date>", b"matplotlib.org"):
            assert word not in once
        root = ElementTree.fromstring(once)
        said = {"".join(part.itertext()) for part in root.iter("{http://www.w3.org/2000/svg}text")}
        assert "val/top1 (%)" in said  # as text, that can be searched and copied


def test_dollars_in_a_value_are_no_formula(tmp_path: Path) -> None:
    odd = [r"a$\wrong{$", "$", "b"]
    trials = [trial(n, tops=[0.1 * n + 0.1], parameters={"g$x$": each}) for n, each in enumerate(odd)]
    (svg, *_) = [Path(uri) for uri in write_pictures(Store(str(tmp_path)), "run", facts(trials)) if uri.endswith("svg")]
    drawn = " ".join(ElementTree.fromstring(svg.read_text()).itertext())
    assert "g$x$" in drawn and all(each in drawn for each in odd)


def test_a_thousand_trials() -> None:
    some = search(1000)
    figure = parallel_figure(some)
    judged, failed = collections(figure)
    count = sum(one["value"] is not None for one in some["trials"])
    assert len(judged.get_segments()) == count and len(failed.get_segments()) == 1000 - count
    assert len(image(figure, "svg")) < 1_000_000
    assert len(collections(epochs_figure(some))[0].get_segments()) == count


def test_pictures_are_written_into_the_store(tmp_path: Path) -> None:
    store = Store(tmp_path)
    uris = write_pictures(store, "searches/x/", SMALL)
    assert uris == [
        str(tmp_path / "searches/x" / name) for name in ("parallel.svg", "parallel.png", "epochs.svg", "epochs.png")
    ]
    for uri in uris:
        data = Path(uri).read_bytes()
        if uri.endswith("png"):
            picture = Image.open(io.BytesIO(data)).convert("RGB")
            assert (213, 94, 0) in {color for _, color in picture.getcolors(1 << 20) or []}  # the best is there
        else:
            assert data.startswith(b"<?xml") and BEST.encode() in data


def test_no_figure_is_left_in_the_process() -> None:
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    parallel_coordinates(SMALL)
    assert pyplot.get_fignums() == before


@pytest.mark.parametrize(
    "low, high, log, found",
    [
        (0.001, 1, True, [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1]),
        (1e-6, 1, True, [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1]),
        (0.5, 4, True, [0.5, 1, 2]),
        (0.31, 0.36, True, [0.31, 0.32, 0.33, 0.34, 0.35, 0.36]),
        (0, 1, False, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (2, 8, False, [2, 4, 6, 8]),
    ],
)
def test_ticks_are_round_numbers(low: float, high: float, log: bool, found: list[float]) -> None:
    assert ticks(low, high, log) == pytest.approx(found)
