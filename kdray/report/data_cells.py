"""The rows and columns of a data set's contact sheet: what is stored, and the very pixels that networks are given."""

from __future__ import annotations

import numpy as np

from kdray.data.augment import Augment, build_augment, build_transform
from kdray.data.chunks import Recipe
from kdray.data.pack.progress import size_text
from kdray.data.reader import Rows
from kdray.data.threads import decode_rows
from kdray.errors import DataError
from kdray.experiment.explain import show
from kdray.report.contact_sheet import Cell, Column, Row, Sheet, fitted
from kdray.report.data_mixed import mixed_sections
from kdray.report.data_sample import read_header
from kdray.report.data_subject import Subject, Way

MOST_VIEWS = 8
STORED = "stored"
LEAST_MIXED = 5  # mixed images in a row, where there are fewer columns
CELLS_A_WAY = 4  # epochs times views that are aimed at; half of it where there are several ways


class Looks:
    """Computes the pictures of rows; `sizes_of` notes what sizes came out, by what is done to them."""

    def __init__(self, subject: Subject, epoch: int) -> None:
        self.subject = subject
        self.epoch = epoch
        self.evaluation = build_transform(subject.data.eval_transform)
        self.augments = [build_augment(way.data.augment, views=way.data.views) for way in subject.ways]
        self.sizes_of: dict[str, set[tuple[int, int]]] = {}

    def columns(self) -> list[Column]:
        """What the cells of a row are, in their order."""
        evaluation = [Column("evaluation")] if self.evaluation.ops else []
        columns = [Column("stored" if evaluation else "stored, and so evaluated"), *evaluation]
        for way, augment in zip(self.subject.ways, self.augments, strict=True):
            for epoch in self._epochs(way, augment):
                for view in range(min(way.data.views, MOST_VIEWS)):
                    said = f"epoch {epoch}" + (f", view {view}" if way.data.views > 1 else "")
                    columns.append(Column(said, f"training: {way.name}" if way.name else "training"))
        return columns

    def cells(self, row: Rows) -> list[Cell]:
        """The pictures of the one row that `row` holds."""
        manifest = self.subject.manifest
        header = read_header(row.images[0])
        kind = f"{header.format} {header.mode}, " if header else ""
        plain = self._pictures(STORED, row, Recipe(manifest, Augment(())))
        stored = size_text(len(row.images[0])).replace("bytes", "B")  # one line under a small picture
        cells = [_captioned(cell, f"{kind}{stored}") for cell in plain]
        if self.evaluation.ops:
            cells += self._pictures("data.eval_transform", row, Recipe(manifest, self.evaluation))
        for way, augment in zip(self.subject.ways, self.augments, strict=True):
            epochs = self._epochs(way, augment)
            for epoch in epochs:
                recipe = Recipe(manifest, augment, self.subject.seed, epoch, way.data.views)
                cells += self._pictures(way.key, row, recipe)[:MOST_VIEWS]
            if not epochs and self.evaluation.ops:  # trained on as stored, which evaluation is not
                self.sizes_of.setdefault(way.key, set()).update(self.sizes_of.get(STORED, ()))
        return cells

    def _epochs(self, way: Way, augment: Augment) -> list[int]:
        if not augment.ops and way.data.views == 1:
            return []  # as it is stored
        aim = CELLS_A_WAY if len(self.subject.ways) == 1 else CELLS_A_WAY // 2
        return list(range(self.epoch, self.epoch + (max(1, aim // way.data.views) if augment.random else 1)))

    def _pictures(self, what: str, row: Rows, recipe: Recipe) -> list[Cell]:
        """A cell for every view, by the function that the feeds decode and augment with."""
        try:
            chunk = decode_rows(row, recipe)
        except DataError as error:  # training stops there; here the other rows are worth seeing
            return [Cell(None, reason=f"{what}: {error.problem}")] * recipe.views
        if chunk.reasons[0]:
            return [Cell(None, reason=chunk.reasons[0])] * recipe.views
        pictures = [chunk.images[view, 0] for view in range(recipe.views)]
        self.sizes_of.setdefault(what, set()).update((image.shape[1], image.shape[0]) for image in pictures)
        return [Cell(fitted(image), f"{image.shape[1]} x {image.shape[0]}") for image in pictures]


def make_sheet(subject: Subject, rows: Rows, names: dict[int, str], epoch: int) -> Sheet:
    """The sheet of `rows`; `names` is what dense rows are called in the shards, see `names_of`."""
    looks = Looks(subject, epoch)
    columns = tuple(looks.columns())
    made = tuple(_row(subject, looks, _one(rows, i), names) for i in range(len(rows)))
    split = f", {subject.split}" if subject.split else ""
    return Sheet(
        title=f"{subject.name}{split}: {len(rows)} of {len(subject.part)} images",
        columns=columns,
        rows=made,
        legend=tuple(legend(subject)),
        warnings=tuple(size_warnings(subject, looks.sizes_of)),
        sections=tuple(mixed_sections(subject, epoch, max(len(columns), LEAST_MIXED))),
    )


def legend(subject: Subject) -> list[str]:
    """What is done to the images, in lines."""
    lines = [subject.manifest.uri]
    if subject.data.eval_transform:
        lines.append(f"evaluation: {transforms_text(subject.data.eval_transform)}")
    for way in subject.ways:
        lines.append(f"training{f' ({way.name})' if way.name else ''}: {way_text(way)}{_left_out(way)}")
    lines.append(f"then normalised: {normalisation_text(subject)}" + (f"; seed {subject.seed}" if subject.ways else ""))
    return lines


def _left_out(way: Way) -> str:
    return f" (views 0 to {MOST_VIEWS - 1} are shown)" if way.data.views > MOST_VIEWS else ""


def size_warnings(subject: Subject, sizes_of: dict[str, set[tuple[int, int]]]) -> list[str]:
    """What cannot be put in one batch, among what was made."""
    warnings = []
    for key, sizes in sizes_of.items():
        untouched = key == STORED and not subject.data.eval_transform
        if len(sizes) > 1 and (key != STORED or untouched):
            few = ", ".join(f"{w} x {h}" for w, h in sorted(sizes)[:4]) + (", ..." if len(sizes) > 4 else "")
            what = "images have several sizes" if untouched else f"{key}: images come out in several sizes"
            fix = (
                "a network needs one: end with random_resized_crop in augment, resize and center_crop in eval_transform"
            )
            warnings.append(f"{what} ({few}), and {fix}")
    return warnings


def way_text(way: Way) -> str:
    """What a way does to images, in a line."""
    views = f"; {way.data.views} views" if way.data.views > 1 else ""
    mix = f"; {way.data.mix.in_words()}" if way.data.mix is not None else ""
    return f"{transforms_text(way.data.augment)}{views}{mix}"


def transforms_text(entries: list[str | dict[str, dict]]) -> str:
    """A list of transforms in a line of text."""
    parts = []
    for entry in entries:
        if isinstance(entry, str):
            parts.append(entry)
            continue
        for name, parameters in entry.items():
            parts.append(f"{name}({', '.join(f'{key}: {show(value)}' for key, value in parameters.items())})")
    return ", then ".join(parts) or "as stored"


def normalisation_text(subject: Subject) -> str:
    """mean and std, and where they come from."""
    mean, std = (" ".join(f"{value:.4f}" for value in values) for values in (subject.mean, subject.std))
    return f"mean {mean}, std {std} ({subject.mean_from})"


def _row(subject: Subject, looks: Looks, row: Rows, names: dict[int, str]) -> Row:
    index, stored = int(row.index[0]), int(row.labels[0])
    label = int(subject.trained[index])
    name = subject.class_name(label)
    wrong = () if label == stored else (f"trained as label {label}; stored as {stored} ({subject.class_name(stored)})",)
    called = [f"id {row.ids[0]}"]
    if index in names:
        called = [f"id {names[index]}"] if subject.manifest.columns.id else [*called, f"file {names[index]}"]
    shard, _, position = subject.manifest.position(index).rpartition(" row ")
    return Row(
        title=name,
        cells=tuple(looks.cells(row)),
        lines=(f"label {label}", shard, f"row {position}", *called),
        warnings=wrong,
    )


def _captioned(cell: Cell, more: str) -> Cell:
    return Cell(cell.pixels, f"{cell.caption}, {more}" if cell.caption else more, cell.reason)


def _one(rows: Rows, i: int) -> Rows:
    at = np.array([i])
    return Rows([rows.images[i]], rows.labels[at], rows.ids[at], rows.index[at])
