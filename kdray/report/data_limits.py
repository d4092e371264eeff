"""Which images training or evaluation would refuse because a transform makes them too large, told by their headers."""

from __future__ import annotations

from kdray.data.augment import Augment, build_augment, build_transform
from kdray.data.decode import MAX_PIXELS
from kdray.data.ops import Size
from kdray.data.transforms import RandomResizedCrop, Resize
from kdray.report.data_sample import Look
from kdray.report.data_subject import Subject


def too_large(subject: Subject, look: Look) -> dict[str, dict[int, tuple[int, int]]]:
    """By the transforms' key: dense rows, each with the width and height that it would be brought to."""
    steps = [("data.eval_transform", build_transform(subject.data.eval_transform), 1)]
    steps += [(way.key, build_augment(way.data.augment, views=way.data.views), way.data.views) for way in subject.ways]
    found: dict[str, dict[int, tuple[int, int]]] = {}
    sizes = {(header.height, header.width) for header in look.headers.values()}
    for key, augment, views in steps:
        refused = {size: to for size in sizes if (to := _refused(augment, size, views)) is not None}
        for row, header in look.headers.items() if refused else ():
            to = refused.get((header.height, header.width))
            if to is not None:
                found.setdefault(key, {})[row] = to[1], to[0]
    return found


def _refused(augment: Augment, size: Size, views: int) -> Size | None:
    """The size, above the limit, that a view of an image of `size` is to be resized to."""
    if size[0] * size[1] > MAX_PIXELS:
        return None  # it is not even decoded
    for view in range(views):
        at: Size | None = size
        for op, _ in augment.chain(view):
            at = op.output_size(at)
            if at is None:
                break
            if isinstance(op, Resize | RandomResizedCrop) and at[0] * at[1] > MAX_PIXELS:
                return at
    return None
