"""Sizes and channel statistics: exact, and the same however they are added up."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kdray.data.pack.statistics import Tally


def tally(images: list[np.ndarray]) -> Tally:
    made = Tally()
    for image in images:
        made.add((image.shape[0], image.shape[1]))
        made.add_pixels(image)
    return made


@pytest.fixture
def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*rng.integers(5, 60, 2), 3), dtype=np.uint8) for _ in range(40)]


def test_parts_add_up_to_the_whole(images: list[np.ndarray]) -> None:
    whole, merged = tally(images), Tally()
    for start in (30, 0, 10, 20):  # in any order, and by way of their records
        part = Tally.from_json(json.loads(json.dumps(tally(images[start : start + 10]).to_json())))
        merged.merge(part)
    assert merged.sizes() == whole.sizes() and merged.mean_std() == whole.mean_std()


def test_mean_and_std(images: list[np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    found = tally(images).mean_std()
    pixels = np.concatenate([image.reshape(-1, 3) for image in images]) / 255.0
    np.testing.assert_allclose(found, [pixels.mean(axis=0), pixels.std(axis=0)], rtol=1e-12)
    monkeypatch.setattr("kdray.data.pack.statistics._EXACT", 100)  # in blocks of a row or two
    assert tally(images).mean_std() == found


def test_sizes(images: list[np.ndarray]) -> None:
    sizes = tally(images).sizes()
    heights = [image.shape[0] for image in images]
    short = sorted(min(image.shape[:2]) for image in images)
    assert sizes is not None
    assert sizes.height == (min(heights), round(sum(heights) / 40, 3), max(heights))
    assert dict(sizes.short_side) == {q: short[max(0, int(np.ceil(q * 40)) - 1)] for q in dict(sizes.short_side)}


def test_nothing_counted() -> None:
    assert Tally().sizes() is None and Tally().mean_std() is None
