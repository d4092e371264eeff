"""Text in a picture: Pillow's built-in letters, cut and wrapped to a width, whatever language a class name is in.

The built-in font has little more than ASCII. A text with other letters is drawn in a font of this machine that has them
all; where there is none, accents are dropped and what is left is written as question marks.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from functools import cache

from PIL import ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Colour = tuple[int, int, int]

INSTALLED = (  # wide ones first; Pillow looks for them where the system keeps its fonts
    "NotoSansCJK-Regular.ttc",
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "Arial Unicode.ttf",
    "arialuni.ttf",
    "msyh.ttc",
)
MISSING = "\uffff"  # no font has it: it looks as everything that the font lacks
_PIECES = re.compile(r"[^\s/_,;-]*[\s/_,;-]+|[^\s/_,;-]+")
_PLAIN = str.maketrans({"ł": "l", "Ł": "L", "ø": "o", "Ø": "O", "ß": "ss", "æ": "ae", "œ": "oe", "×": "x", "–": "-"})


class Letters:
    """Draws lines of `size` pixels; `height` is from one line to the next."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.height = round(size * 1.35)

    def width(self, text: str) -> float:
        """Pixels that `text` takes in one line."""
        words, font = self._drawable(text)
        return font.getlength(words)

    def wrap(self, text: str, width: float, most: int = 100) -> list[str]:
        """Break `text` into at most `most` lines of at most `width` pixels; one that is cut ends in an ellipsis."""
        lines: list[str] = []
        line = ""
        for piece in _PIECES.findall(" ".join(text.split())):
            if self._fits(line + piece, width):
                line += piece
                continue
            if line:
                lines.append(line)
            line = piece
            while len(lines) <= most and len(line) > 1 and not self._fits(line, width):
                fits = bisect_left(range(2, len(line)), True, key=lambda n: not self._fits(line[:n], width)) + 1
                lines.append(line[:fits])
                line = line[fits:]
            if len(lines) > most:
                break
        lines = [line.rstrip() for line in [*lines, line] if line.strip()]
        if len(lines) > most:
            last = lines[most - 1]
            while last and not self._fits(last + "…", width):
                last = last[:-1]
            lines = [*lines[: most - 1], last.rstrip() + "…"]
        return lines

    def _fits(self, text: str, width: float) -> bool:
        return self.width(text.rstrip()) <= width

    def draw(self, canvas: ImageDraw.ImageDraw, at: tuple[float, float], text: str, colour: Colour) -> None:
        """Write one line whose upper left corner is `at`."""
        words, font = self._drawable(text)
        canvas.text((at[0], at[1] + self.size), words, fill=colour, font=font, anchor="ls")

    def _drawable(self, text: str) -> tuple[str, Font]:
        """`text` as it can be written, and the font for it."""
        text = "".join(c for c in text if c.isprintable())
        fonts = _fonts(self.size)
        built_in = fonts[0]
        if text.isascii() or _lacks(built_in, text) == set():
            return text, built_in
        for font in fonts[1:]:
            if not _lacks(font, text):
                return text, font
        plain = "".join(
            c for c in unicodedata.normalize("NFKD", text.translate(_PLAIN)) if not unicodedata.combining(c)
        )
        lost = _lacks(built_in, plain)
        return "".join("?" if c in lost else c for c in plain), built_in


@cache
def _fonts(size: int) -> list[Font]:
    fonts: list[Font] = [ImageFont.load_default(size)]
    for name in INSTALLED:
        try:
            fonts.append(ImageFont.truetype(name, size))
        except OSError:
            continue  # not on this machine
    return fonts


def _lacks(font: Font, text: str) -> set[str]:
    return {c for c in set(text) if not c.isspace() and _glyph(font, c) == _glyph(font, MISSING)}


@cache
def _glyph(font: Font, character: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(character)
    return mask.size, bytes(mask)
