"""A contact sheet: rows of pictures with captions on one page, every pixel as it is or enlarged by a whole factor.

It knows nothing of data sets: `kdray.report.data_cells` says what stands in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from kdray.report.lettering import Colour, Letters

LARGE_CELL, SMALL_CELL, SMALL_IMAGE = 224, 160, 80  # pixels; cells are small where no image is larger than the last
MARGIN, GAP, LABEL = 20, 14, 210
LEAST_WIDTH = 900  # so that the legend has room where there are few columns
MOST_ENLARGED = 32
CAPTION_LINES, TITLE_LINES, LABEL_LINES, HEAD_LINES = 2, 3, 3, 3
PAPER: Colour = (255, 255, 255)
BED: Colour = (226, 228, 233)  # under pictures, so that white ones and black ones both have an edge
INK: Colour = (28, 30, 34)
PALE: Colour = (92, 96, 106)
RULE: Colour = (198, 202, 210)
WRONG: Colour = (176, 28, 28)
WRONG_BED: Colour = (252, 222, 222)


@dataclass(frozen=True)
class Cell:
    """A picture, uint8 [H, W, 3], with a caption; or none, with the reason. Large ones are kept as `fitted`."""

    pixels: np.ndarray | None
    caption: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Column:
    """What a column's pictures are; neighbours of one `group` stand under its name."""

    head: str
    group: str = ""


@dataclass(frozen=True)
class Row:
    """A sample: `title`, `lines` under it (each may wrap), `warnings` in red, and a cell for every column."""

    title: str
    cells: tuple[Cell, ...]
    lines: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """Rows under a title of their own, whose cells are not those of the columns."""

    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Sheet:
    """What stands on the page. `warnings` come after the `legend`, in red; `sections` after the `rows`."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    legend: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    sections: tuple[Section, ...] = ()

    @property
    def all_rows(self) -> list[Row]:
        """The rows, then those of the sections."""
        return [*self.rows, *(row for section in self.sections for row in section.rows)]


Picture = tuple[np.ndarray, int]  # pixels as they stand on the page, and the factor as in `Box`


class Box(NamedTuple):
    """Where a cell's picture stands on the page, in pixels; `factor` is how much it is enlarged, 0 where it is made
    smaller.
    """

    left: int
    top: int
    width: int
    height: int
    factor: int


@dataclass(frozen=True)
class Drawn:
    """The page, and where the picture of every cell of `Sheet.all_rows` is on it; None where a cell has none."""

    image: Image.Image
    boxes: tuple[tuple[Box | None, ...], ...]


def draw(sheet: Sheet) -> Drawn:
    """Draw the page. A picture larger than its cell is made smaller by an antialiasing filter, a smaller one larger by
    a whole factor, each pixel a square.
    """
    return _Page(sheet).draw()


def placed(pixels: np.ndarray, cell: int) -> Picture:
    """Return `pixels` uint8 [H, W, 3] as they fill a square of `cell`, and the factor as in `Box`."""
    height, width = pixels.shape[:2]
    longer = max(height, width)
    if longer > cell:
        size = max(1, round(width * cell / longer)), max(1, round(height * cell / longer))
        smaller = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
        return np.asarray(smaller), 0
    factor = min(cell // longer, MOST_ENLARGED)
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1), factor


def fitted(pixels: np.ndarray) -> np.ndarray:
    """`pixels` uint8 [H, W, 3] as the page will show them where they are larger than any cell: a sheet of photographs
    would else hold gigabytes until it is drawn.
    """
    return placed(pixels, LARGE_CELL)[0] if max(pixels.shape[:2]) > LARGE_CELL else pixels


class _Page:
    def __init__(self, sheet: Sheet) -> None:
        self.sheet = sheet
        pictures = [cell.pixels for row in sheet.all_rows for cell in row.cells if cell.pixels is not None]
        longest = max((max(pixels.shape[:2]) for pixels in pictures), default=0)
        self.cell = LARGE_CELL if longest > SMALL_IMAGE else SMALL_CELL
        self.placed = [
            [None if cell.pixels is None else placed(cell.pixels, self.cell) for cell in row.cells]
            for row in sheet.all_rows
        ]
        self.title, self.name, self.text, self.small = Letters(22), Letters(16), Letters(14), Letters(12)
        columns = max([len(sheet.columns), *(len(row.cells) for row in sheet.all_rows)])
        wanted = MARGIN + LABEL + columns * (self.cell + GAP) + MARGIN - GAP
        self.width = max(LEAST_WIDTH, wanted)
        self.left = MARGIN + LABEL

    def draw(self) -> Drawn:
        # Twice: how high the page is shows when everything has its place, and text must be laid out for that.
        height = self._lay(None)[0]
        page = Image.new("RGB", (self.width, height), PAPER)
        boxes = self._lay(page)[1]
        return Drawn(page, boxes)

    def _lay(self, page: Image.Image | None) -> tuple[int, tuple[tuple[Box | None, ...], ...]]:
        self.page = page
        self.canvas = ImageDraw.Draw(page) if page is not None else None
        y = self._head(MARGIN)
        y = self._column_heads(y)
        boxes: list[tuple[Box | None, ...]] = []
        pictures = iter(self.placed)
        for section in (None, *self.sheet.sections):
            if section is not None:
                self._rule(y)
                y = self._lines(self.name, MARGIN, y + 2 * GAP, section.title, self.width - 2 * MARGIN, 2, INK) + GAP
            for row in self.sheet.rows if section is None else section.rows:
                self._rule(y)
                y, row_boxes = self._row(row, next(pictures), y + GAP)
                y += GAP
                boxes.append(row_boxes)
        return y + MARGIN - GAP, tuple(boxes)

    def _write(self, letters: Letters, at: tuple[float, float], text: str, colour: Colour = INK) -> None:
        if self.canvas is not None:
            letters.draw(self.canvas, at, text, colour)

    def _lines(self, letters: Letters, x: float, y: int, text: str, width: float, most: int, colour: Colour) -> int:
        """Write `text` in lines and return where the next one begins."""
        for line in letters.wrap(text, width, most):
            self._write(letters, (x, y), line, colour)
            y += letters.height
        return y

    def _rule(self, y: int) -> None:
        if self.canvas is not None:
            self.canvas.line([(MARGIN, y), (self.width - MARGIN, y)], fill=RULE)

    def _head(self, y: int) -> int:
        width = self.width - 2 * MARGIN
        y = self._lines(self.title, MARGIN, y, self.sheet.title, width, TITLE_LINES, INK) + 6
        for line in self.sheet.legend:
            y = self._lines(self.text, MARGIN, y, line, width, TITLE_LINES, PALE)
        for line in self.sheet.warnings:
            y = self._lines(self.text, MARGIN, y, line, width, TITLE_LINES, WRONG)
        return y + GAP

    def _column_heads(self, y: int) -> int:
        columns = self.sheet.columns
        below = y
        first = 0
        while first < len(columns):
            group = columns[first].group
            stop = first + 1
            while stop < len(columns) and columns[stop].group == group:
                stop += 1
            if group:
                width = (stop - first) * (self.cell + GAP) - GAP
                end = self._lines(self.text, self._x(first), y, group, width, 2, INK)
                if self.canvas is not None:
                    self.canvas.line([(self._x(first), end + 2), (self._x(first) + width, end + 2)], fill=PALE)
                below = max(below, end + 8)
            first = stop
        end = below
        for number, column in enumerate(columns):
            end = max(end, self._lines(self.text, self._x(number), below, column.head, self.cell, HEAD_LINES, INK))
        return end + GAP // 2

    def _x(self, column: int) -> int:
        return self.left + column * (self.cell + GAP)

    def _row(self, row: Row, pictures: list[Picture | None], y: int) -> tuple[int, tuple[Box | None, ...]]:
        width = LABEL - GAP
        end = self._lines(self.name, MARGIN, y, row.title, width, TITLE_LINES, INK) + 2
        for line in row.lines:
            end = self._lines(self.small, MARGIN, end, line, width, LABEL_LINES, PALE)
        for line in row.warnings:
            end = self._lines(self.small, MARGIN, end, line, width, LABEL_LINES, WRONG)
        boxes: list[Box | None] = []
        under = y + self.cell + 4
        for number, (cell, picture) in enumerate(zip(row.cells, pictures, strict=True)):
            x = self._x(number)
            boxes.append(self._picture(picture, x, y) if picture is not None else None)
            if picture is None:
                self._no_picture(cell, x, y)
            end = max(end, under, self._lines(self.small, x, under, cell.caption, self.cell, CAPTION_LINES, PALE))
        return end, tuple(boxes)

    def _bed(self, x: int, y: int, colour: Colour, edge: Colour) -> None:
        if self.canvas is not None:  # the edge stands outside: no pixel of a picture is covered
            self.canvas.rectangle([(x - 1, y - 1), (x + self.cell, y + self.cell)], fill=colour, outline=edge)

    def _no_picture(self, cell: Cell, x: int, y: int) -> None:
        self._bed(x, y, WRONG_BED, WRONG)
        room = self.cell // self.small.height - 1
        self._lines(self.small, x + 8, y + 8, cell.reason, self.cell - 16, room, WRONG)

    def _picture(self, picture: Picture, x: int, y: int) -> Box:
        self._bed(x, y, BED, RULE)
        pixels, factor = picture
        height, width = pixels.shape[:2]
        left, top = x + (self.cell - width) // 2, y + (self.cell - height) // 2
        if self.page is not None:
            self.page.paste(Image.fromarray(pixels), (left, top))
        return Box(left, top, width, height, factor)
