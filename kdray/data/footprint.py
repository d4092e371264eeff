"""How much memory decoded images take, before they are decoded."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from kdray.data.decode import BadImage, decode
from kdray.data.manifest import Manifest
from kdray.data.reader import read_rows

_SAMPLE_ROWS = 4
_SMALL_IMAGE_BYTES = 32 * 32 * 3


def decoded_bytes(manifest: Manifest) -> float:
    """Estimate the bytes of all images decoded, from a few of them; at least, where only a declaration is there."""
    if not manifest.image_bytes:
        return float(manifest.num_samples * _SMALL_IMAGE_BYTES)
    return _decoded_bytes(manifest)


@lru_cache(maxsize=16)
def _decoded_bytes(manifest: Manifest) -> float:
    rows = np.unique(np.linspace(0, manifest.num_samples - 1, _SAMPLE_ROWS).astype(np.int64))
    sizes = []
    for encoded in read_rows(manifest, rows).images:
        try:
            sizes.append(decode(encoded).nbytes)
        except BadImage:
            continue  # a feed tells of it when it comes to it
    return manifest.num_samples * float(np.mean(sizes or [_SMALL_IMAGE_BYTES]))
