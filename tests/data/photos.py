"""JPEGs of real photographs for tests: different crops of the two that scikit-learn ships."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

QUALITY = 90


def photos(count: int, seed: int = 0, size: tuple[int, int] = (500, 375)) -> list[bytes]:
    """Return `count` JPEGs of `size` (width, height), no two alike: a crop, zoomed and maybe mirrored, a photograph.

    The same for the same `count`, `seed` and `size`; a longer list begins with the shorter one.
    """
    return [photo(seed, number, size) for number in range(count)]


def photo(seed: int, number: int, size: tuple[int, int] = (500, 375)) -> bytes:
    """Photograph `number` of `photos`."""
    options = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
    return cv2.imencode(".jpg", photo_pixels(seed, number, size)[:, :, ::-1], options)[1].tobytes()


def photo_pixels(seed: int, number: int, size: tuple[int, int] = (500, 375)) -> np.ndarray:
    """uint8 [H, W, 3] RGB of photograph `number`, before it is encoded."""
    rng = np.random.default_rng([seed, number])
    whole = _originals()[number % 2]
    width, height = size
    # The originals are 640 x 427: from nearly all of one to a half of its sides.
    fits = min(whole.shape[1] / width, whole.shape[0] / height)
    share = fits * rng.uniform(0.5, 0.98)
    w, h = max(1, int(width * share)), max(1, int(height * share))
    top, left = (int(rng.integers(side - part + 1)) for side, part in zip(whole.shape, (h, w), strict=False))
    image = cv2.resize(whole[top : top + h, left : left + w], size, interpolation=cv2.INTER_CUBIC)
    bright = image.astype(np.int16) + int(rng.integers(-20, 21))
    grain = rng.integers(-6, 7, image.shape, dtype=np.int16)  # a camera's: enlarging left the photograph smooth
    image = np.clip(bright + grain, 0, 255).astype(np.uint8)
    return cv2.flip(image, 1) if rng.random() < 0.5 else image


@cache
def _originals() -> list[np.ndarray]:
    from sklearn.datasets import load_sample_images

    return [np.asarray(image) for image in load_sample_images().images]
