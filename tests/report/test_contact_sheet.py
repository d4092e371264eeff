"""The contact sheet: pictures to the pixel, and text that stays in its place."""

from __future__ import annotations

import numpy as np
import pytest

from kdray.report.contact_sheet import (
    GAP,
    LABEL,
    LARGE_CELL,
    MARGIN,
    PAPER,
    SMALL_CELL,
    WRONG,
    WRONG_BED,
    Cell,
    Column,
    Drawn,
    Row,
    Section,
    Sheet,
    draw,
    placed,
)
from kdray.report.lettering import Letters

LONG = "a name that goes on and on, " * 20
UNBROKEN = "0123456789abcdef" * 30
NAMES = ["Straße", "花と庭園の写真", "сад и цветы", "حديقة", "🌸🌼 two flowers", "tab\tand\nline", "", LONG, UNBROKEN]


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def table(*pictures: np.ndarray, columns: int = 1) -> Sheet:
    cells = [Cell(picture, f"{picture.shape[1]} x {picture.shape[0]}") for picture in pictures]
    rows = [Row(f"row {i}", tuple(cells[i : i + columns])) for i in range(0, len(cells), columns)]
    return Sheet("a sheet", tuple(Column(f"column {i}") for i in range(columns)), tuple(rows))


def pixels_in(drawn: Drawn, row: int, column: int) -> np.ndarray:
    box = drawn.boxes[row][column]
    assert box is not None
    return np.asarray(drawn.image)[box.top : box.top + box.height, box.left : box.left + box.width]


@pytest.mark.parametrize("shape", [(32, 32), (28, 20), (1, 1), (64, 80), (224, 224), (3, 200), (112, 113)])
def test_pictures_that_fit_stand_pixel_for_pixel(shape: tuple[int, int]) -> None:
    picture = noise(*shape)
    drawn = draw(table(picture))
    box = drawn.boxes[0][0]
    assert box is not None and box.factor >= 1
    shown = pixels_in(drawn, 0, 0)
    assert shown.shape[:2] == (shape[0] * box.factor, shape[1] * box.factor)
    assert np.array_equal(shown, np.kron(picture, np.ones((box.factor, box.factor, 1), np.uint8)))


def test_small_pictures_are_enlarged_as_far_as_they_fit() -> None:
    assert placed(noise(32, 32), SMALL_CELL)[1] == 5 and placed(noise(32, 32), LARGE_CELL)[1] == 7
    assert placed(noise(113, 20), LARGE_CELL)[1] == 1 and placed(noise(112, 20), LARGE_CELL)[1] == 2
    assert placed(noise(2, 2), LARGE_CELL)[0].shape == (64, 64, 3)  # no further than can be useful


@pytest.mark.parametrize(
    ("shape", "size"),
    [((300, 400), (168, 224)), ((3000, 4000), (168, 224)), ((900, 10), (224, 2)), ((5, 9000), (1, 224))],
)
def test_large_pictures_are_made_smaller_without_aliasing(shape: tuple[int, int], size: tuple[int, int]) -> None:
    stripes = np.zeros((*shape, 3), np.uint8)
    stripes[:, ::2] = 255  # a filter that skips pixels would give black or white
    shown, factor = placed(stripes, LARGE_CELL)
    assert shown.shape[:2] == size and factor == 0
    if shape[1] > 2 * size[1]:
        assert shown.min() > 100 and shown.max() < 156


def test_cells_are_small_only_where_all_pictures_are() -> None:
    small, mixed = draw(table(noise(32, 32), noise(80, 64))), draw(table(noise(32, 32), noise(96, 96)))
    assert small.boxes[0][0] is not None and small.boxes[0][0].factor == 5
    assert mixed.boxes[0][0] is not None and mixed.boxes[0][0].factor == 7


def test_no_picture_covers_another() -> None:
    drawn = draw(table(*(noise(40, 30 + i, i) for i in range(12)), columns=4))
    covered = np.zeros((drawn.image.height, drawn.image.width), int)
    for row in drawn.boxes:
        for box in row:
            assert box is not None
            covered[box.top : box.top + box.height, box.left : box.left + box.width] += 1
    assert covered.max() == 1 and [len(row) for row in drawn.boxes] == [4, 4, 4]


def test_a_cell_without_a_picture_is_red_and_says_why() -> None:
    good = noise(100, 100)
    sheet = Sheet(
        "s", (Column("a"), Column("b")), (Row("r", (Cell(good), Cell(None, "19 B", "image file is cut off"))),)
    )
    drawn = draw(sheet)
    left, right = drawn.boxes[0]
    assert left is not None and right is None and np.array_equal(pixels_in(drawn, 0, 0)[::2, ::2], good)
    x = MARGIN + LABEL + LARGE_CELL + GAP
    cell = np.asarray(drawn.image)[left.top : left.top + LARGE_CELL - 30, x : x + LARGE_CELL]
    colours = {tuple(colour) for colour in cell.reshape(-1, 3).tolist()}
    assert tuple(cell[-1, LARGE_CELL // 2].tolist()) == WRONG_BED and WRONG in colours


@pytest.mark.parametrize("columns", [1, 6])
def test_text_of_any_length_stays_on_the_page_and_off_the_pictures(columns: int) -> None:
    pictures = [Cell(np.zeros((32, 32, 3), np.uint8), name) for name in (LONG, UNBROKEN, "32 x 32")]
    bad = Cell(None, "x", LONG)
    rows = tuple(
        Row(name, tuple([*pictures, bad, bad, bad][:columns]), (f"id {name}", UNBROKEN), (LONG,)) for name in NAMES
    )
    heads = tuple(Column(name, group) for name, group in zip(NAMES, [UNBROKEN, LONG, LONG, *"abcdef"], strict=True))
    drawn = draw(Sheet(LONG, heads[:columns], rows, (UNBROKEN, LONG), (LONG,)))
    page = np.asarray(drawn.image)
    edge = MARGIN - 3  # letters may lean out of their line by a pixel or two
    assert (page[:, :edge] == PAPER).all() and (page[:, -edge:] == PAPER).all()
    assert (page[:edge] == PAPER).all() and (page[-edge:] == PAPER).all()
    first = drawn.boxes[0][0]
    assert first is not None
    beside = page[first.top : first.top + 32, MARGIN + LABEL - GAP : MARGIN + LABEL - 1]  # between label and picture
    assert (beside == PAPER).all()
    for row in drawn.boxes:
        assert row[0] is not None
        top, height, left, width = row[0].top, row[0].height, row[0].left, row[0].width
        assert not page[top : top + height, left : left + width].any()


def test_sections_stand_below_under_their_title() -> None:
    rows = table(noise(32, 32, 1), noise(32, 32, 2)).rows
    sections = (Section(LONG, (Row("a", tuple(Cell(noise(32, 32, i)) for i in range(3, 12))),)), Section("b", ()))
    sheet = Sheet("s", (Column("stored"),), rows, sections=sections)
    drawn = draw(sheet)
    boxes = [box for row in drawn.boxes for box in row if box is not None]
    assert [len(row) for row in drawn.boxes] == [1, 1, 9] and boxes[2].top > boxes[1].top + SMALL_CELL + 40
    assert boxes[-1].left + boxes[-1].width <= drawn.image.width - MARGIN  # the page is as wide as its widest row
    assert np.array_equal(pixels_in(drawn, 2, 8)[::5, ::5], noise(32, 32, 11))


def test_a_sheet_is_the_same_every_time() -> None:
    sheet = table(noise(50, 70), noise(400, 300), columns=2)
    assert np.array_equal(np.asarray(draw(sheet).image), np.asarray(draw(sheet).image))


def test_a_sheet_without_rows_has_its_title() -> None:
    page = np.asarray(draw(Sheet("nothing", (Column("stored"),), ())).image)
    assert (page != PAPER).any()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [60, 180])
def test_lines_are_no_wider_than_asked(name: str, width: int) -> None:
    letters = Letters(14)
    lines = letters.wrap(name, width)
    assert all(letters.width(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(name.split())  # nothing is lost


def test_a_text_that_is_cut_ends_in_an_ellipsis() -> None:
    letters = Letters(14)
    lines = letters.wrap(LONG, 150, 2)
    assert len(lines) == 2 and lines[1].endswith("…") and all(letters.width(line) <= 150 for line in lines)
    assert letters.wrap("short", 150, 2) == ["short"] and letters.wrap("", 150) == []


def test_words_stay_whole_where_they_fit() -> None:
    assert Letters(14).wrap("garden of the school", 90) == ["garden of the", "school"]


def test_letters_that_no_font_has_become_question_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    from kdray.report import lettering

    monkeypatch.setattr(lettering, "INSTALLED", ())
    lettering._fonts.cache_clear()
    try:
        words = [Letters(15)._drawable(text)[0] for text in ("Straße", "crème", "花 2", "Łódź", "3 × 4", "plain")]
    finally:
        lettering._fonts.cache_clear()
    assert words == ["Strasse", "creme", "? 2", "Lodz", "3 x 4", "plain"]
