"""Sizes and channel statistics of the images of a set, exact, and added up over shards in any order."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import cv2
import numpy as np

from kdray.data.layout import ImageSizes, Triple

_EXACT = 1 << 24  # pixels that OpenCV's float32 counters still count one by one
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


@dataclass
class Tally:
    """How often every height, width and shorter side occurs; `channels` int64 [3, 256] counts every value of every
    channel, where channel statistics are asked for.
    """

    heights: Counter[int] = field(default_factory=Counter)
    widths: Counter[int] = field(default_factory=Counter)
    short_sides: Counter[int] = field(default_factory=Counter)
    channels: np.ndarray | None = None

    def add(self, size: tuple[int, int]) -> None:
        """Count one image of `size` (height, width)."""
        self.heights[size[0]] += 1
        self.widths[size[1]] += 1
        self.short_sides[min(size)] += 1

    def add_pixels(self, pixels: np.ndarray) -> None:
        """Count the pixels of one image, uint8 [H, W, 3]."""
        rows = max(1, _EXACT // pixels.shape[1])
        counts = np.zeros((3, 256), np.int64)
        for top in range(0, len(pixels), rows):
            block = pixels[top : top + rows]
            for channel in range(3):
                counts[channel] += cv2.calcHist([block], [channel], None, [256], [0, 256]).ravel().astype(np.int64)
        self.channels = counts if self.channels is None else self.channels + counts

    def merge(self, other: Tally) -> None:
        """Add what `other` has counted."""
        self.heights.update(other.heights)
        self.widths.update(other.widths)
        self.short_sides.update(other.short_sides)
        if other.channels is not None:
            self.channels = other.channels if self.channels is None else self.channels + other.channels

    def sizes(self) -> ImageSizes | None:
        """None when nothing was counted."""
        if not self.heights:
            return None
        return ImageSizes(_extent(self.heights), _extent(self.widths), _quantiles(self.short_sides))

    def mean_std(self) -> tuple[Triple, Triple] | None:
        """Mean and population standard deviation of each channel over all pixels, values in 0..1; None where no pixels
        were counted.
        """
        if self.channels is None:
            return None
        means, stds = [], []
        for counts in self.channels.tolist():  # Python's integers: exact at any number of pixels
            pixels = sum(counts)
            first = Fraction(sum(value * count for value, count in enumerate(counts)), pixels)
            second = Fraction(sum(value * value * count for value, count in enumerate(counts)), pixels)
            means.append(float(first / 255))
            stds.append(float(second - first * first) ** 0.5 / 255)
        return (means[0], means[1], means[2]), (stds[0], stds[1], stds[2])

    def to_json(self) -> dict[str, Any]:
        counted = {name: sorted(getattr(self, name).items()) for name in ("heights", "widths", "short_sides")}
        return counted | {"channels": None if self.channels is None else self.channels.tolist()}

    @staticmethod
    def from_json(said: dict[str, Any]) -> Tally:
        """Raises KeyError, TypeError or ValueError for what `to_json` did not make."""
        channels = said["channels"]
        return Tally(
            heights=_counter(said["heights"]),
            widths=_counter(said["widths"]),
            short_sides=_counter(said["short_sides"]),
            channels=None if channels is None else np.array(channels, np.int64).reshape(3, 256),
        )


def _counter(pairs: list[tuple[int, int]]) -> Counter[int]:
    return Counter({int(value): int(count) for value, count in pairs})


def _extent(counts: Counter[int]) -> tuple[int, float, int]:
    mean = Fraction(sum(value * count for value, count in counts.items()), sum(counts.values()))
    return min(counts), round(float(mean), 3), max(counts)


def _quantiles(counts: Counter[int]) -> tuple[tuple[float, int], ...]:
    values = np.array(sorted(counts))
    reached = np.cumsum([counts[int(value)] for value in values])
    at = [int(np.searchsorted(reached, part * reached[-1], side="left")) for part in QUANTILES]
    return tuple((part, int(values[place])) for part, place in zip(QUANTILES, at, strict=True))
