"""Pictures of a search, from its facts: parallel coordinates, and the metric by epoch and by time."""

from __future__ import annotations

from typing import Any

from kdray.store import Store

KINDS = ("svg", "png")


def parallel_coordinates(search: dict[str, Any], kind: str = "svg") -> bytes:
    """A line for each trial: through its parameters' values, one axis each, to its value at the right, best on top.

    Axes of log ranges are logarithmic, choices and groups have a place each, and a line passes below the axis of a
    parameter that its trial does not have. Darker is better, thin was stopped early, dotted failed, vermilion best.
    `kind` is `svg` or `png`.
    """
    from kdray.report.parallel_picture import parallel_figure
    from kdray.report.picture import image

    return image(parallel_figure(search), kind)


def metric_over_time(search: dict[str, Any], kind: str = "svg") -> bytes:
    """Left the metric of each trial by epoch, the best in vermilion; right the best value so far by the clock."""
    from kdray.report.epochs_picture import epochs_figure
    from kdray.report.picture import image

    return image(epochs_figure(search), kind)


def write_pictures(store: Store, folder: str, search: dict[str, Any]) -> list[str]:
    """Write both pictures, each as SVG and PNG, into `folder` of the store; return their URIs."""
    from kdray.report.epochs_picture import epochs_figure
    from kdray.report.parallel_picture import parallel_figure
    from kdray.report.picture import image

    uris = []
    for name, draw in (("parallel", parallel_figure), ("epochs", epochs_figure)):
        figure = draw(search)
        for kind in KINDS:
            path = "/".join(part for part in (folder.strip("/"), f"{name}.{kind}") if part)
            store.write_bytes(path, image(figure, kind))
            uris.append(store.path_uri(path))
    return uris
