"""What mixup and CutMix make of a set: the first mixed images of some batches, made by what training mixes with.

Only this part of `kdray data show` needs torch, and only where `data.mix` is set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kdray.data.augment import build_augment
from kdray.data.chunks import Recipe
from kdray.data.order import epoch_order
from kdray.data.reader import Rows, read_rows
from kdray.data.threads import decode_rows
from kdray.errors import DataError
from kdray.report.contact_sheet import Cell, Row, Section, fitted
from kdray.report.data_subject import Subject, Way

if TYPE_CHECKING:
    from kdray.data.mix import Mixer

BATCHES = 3
MOST_VIEWS = 2
USUAL_BATCH = 256  # where no experiment says how many images a batch has


def mixed_sections(subject: Subject, epoch: int, columns: int) -> list[Section]:
    """A section for each way that mixes: `columns` images of the first batches of `epoch`."""
    return [section for way in subject.ways if (section := _section(subject, way, epoch, columns)) is not None]


def _section(subject: Subject, way: Way, epoch: int, columns: int) -> Section | None:
    if way.data.mix is None:
        return None
    rows = subject.part.rows
    batch = way.batch or min(USUAL_BATCH, len(rows) // 16 * 16 or len(rows) // 2 * 2)
    steps = len(rows) // batch if batch else 0
    if not steps or batch // way.world < 2:
        return None  # training on so few refuses to start
    order = epoch_order(subject.manifest, rows, subject.seed, epoch, way.data.shuffle_window_bytes)
    from kdray.data.mix import Mixer

    mixer = Mixer(way.data.mix, subject.seed, batch, way.world)
    numbers = range(min(BATCHES, steps))
    # A worker's first images are paired among themselves: no other has to be read.
    index = np.stack([order.local(number, batch, 0, way.world)[: mixer.block] for number in numbers])
    read = read_rows(subject.manifest, index.ravel())
    made: list[Row] = []
    for number in numbers:
        at = slice(number * mixer.block, (number + 1) * mixer.block)
        some = Rows(read.images[at], read.labels[at], read.ids[at], read.index[at])
        made += _rows(subject, way, mixer, epoch, number, some, columns)
    name = f"{way.name}: " if way.name else ""
    some_views = f" (views 0 to {MOST_VIEWS - 1} of {way.data.views})" if way.data.views > MOST_VIEWS else ""
    return Section(f"mixed batches of epoch {epoch}: {name}{way.data.mix.in_words()}{some_views}", tuple(made))


def _rows(subject: Subject, way: Way, mixer: Mixer, epoch: int, number: int, some: Rows, columns: int) -> list[Row]:
    """A row of cells for every view of the batch `number`."""
    import torch

    from kdray.data.batching import fill_bad, to_batch

    augment = build_augment(way.data.augment, views=way.data.views)
    recipe = Recipe(subject.manifest, augment, subject.seed, epoch, way.data.views)
    title = f"batch {number}"
    try:
        chunk = decode_rows(some, recipe)
        fill_bad(chunk, recipe)
    except DataError as error:
        return [Row(title, (Cell(None, reason=error.problem),))]
    batch = to_batch(chunk, torch.device("cpu"))
    height, width = batch.images.shape[-2:]
    mixture = mixer.draw(epoch, number, (height, width))
    if mixture is None:
        mixed, lines = batch.images, ["left as it is"]
        captions = [_name(subject, row) for row in batch.index.tolist()]
    else:
        partners = mixture.partners(batch)
        mixed = mixture.apply(batch.images, partners.images)
        kind = "mixup" if mixture.box is None else "CutMix"
        lines = [kind, f"{mixture.share:.2f} of each image and {1 - mixture.share:.2f} of another"]
        pairs = zip(batch.index.tolist(), partners.index.tolist(), strict=True)
        captions = [
            f"{mixture.share:.2f} {_name(subject, one)} + {1 - mixture.share:.2f} {_name(subject, other)}"
            for one, other in pairs
        ]
    pictures = mixed.round().clamp(0, 255).to(torch.uint8) if mixed.is_floating_point() else mixed
    views = pictures.permute(0, 2, 3, 1).numpy().reshape(way.data.views, len(captions), height, width, 3)
    shown = min(columns, len(captions))
    return [
        Row(
            title if way.data.views == 1 else f"{title}, view {view}",
            tuple(Cell(fitted(np.ascontiguousarray(views[view, i])), captions[i]) for i in range(shown)),
            tuple(lines),
        )
        for view in range(min(way.data.views, MOST_VIEWS))
    ]


def _name(subject: Subject, row: int) -> str:
    return subject.class_name(int(subject.trained[row]))
