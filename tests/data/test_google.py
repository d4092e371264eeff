"""A set of shards in Google Cloud Storage, which pyarrow reaches: written, opened and read."""

from __future__ import annotations

import secrets

import numpy as np
import pytest

from kdray.data.manifest import read_manifest
from kdray.data.reader import read_labels, read_rows
from kdray.data.shards import write_shards
from kdray.data.writer import Sample
from kdray.errors import DataError
from kdray.store import Store


def test_shards_are_written_and_read(gcs: str) -> None:
    folder = f"{gcs}/shards/{secrets.token_hex(4)}"
    images = [np.random.default_rng(row).bytes(500 + row) for row in range(100)]
    samples = [Sample(image, row % 5, row) for row, image in enumerate(images)]
    written = write_shards(samples, folder, shard_bytes=20_000, row_group_rows=8)
    assert len(written.shards) > 1
    manifest = read_manifest(folder)
    assert manifest.fingerprint == written.fingerprint
    assert read_labels(manifest)[0].tolist() == [row % 5 for row in range(100)]
    order = np.random.default_rng(0).permutation(100)
    rows = read_rows(manifest, order)
    assert rows.images == [images[row] for row in order] and rows.ids.tolist() == order.tolist()
    by_footers = read_manifest(f"{folder}/*.parquet")
    assert by_footers.num_samples == 100

    first = manifest.shards[0].name
    whole = Store(folder).read_bytes(first)
    Store(folder).write_bytes(first, whole[:-100])
    with pytest.raises(DataError, match="cut off or changed"):
        read_rows(manifest, np.array([0]))
    Store(folder).delete(first)
    with pytest.raises(DataError, match="is missing"):
        read_rows(manifest, np.array([9]))
