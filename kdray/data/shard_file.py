"""One Parquet shard as kdray writes it: the only place that knows the format of the file.

Rows are `image` struct<bytes, path>, `label` int64 and, where samples have one, `id`: what Hugging Face datasets write
and read. Encoded images do not shrink, so nothing is compressed, and a row group is what a reader of one row reads.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kdray.data.layout import ShardInfo

DIGEST_BYTES = 8  # of the content of a row or a row group: enough to find damage, which nobody forges


@dataclass(frozen=True)
class ShardDigests:
    """SHA-256 of the file, and of the content of each row group; see `RowDigest`."""

    sha256: str
    row_groups: tuple[str, ...]


class RowDigest:
    """Digest of labels, ids and images, row by row."""

    def __init__(self, size: int = DIGEST_BYTES) -> None:
        self._digest = hashlib.blake2b(digest_size=size)

    def add(self, image: bytes | memoryview, label: int, key: str | int | None) -> None:
        self._digest.update(json.dumps([int(label), key, len(image)]).encode())
        self._digest.update(image)

    def hexdigest(self, more: str = "") -> str:
        """The digest of the rows so far, and of the text `more` after them."""
        digest = self._digest.copy()
        digest.update(more.encode())
        return digest.hexdigest()


def row_digest(image: bytes | memoryview, label: int, key: str | int | None) -> bytes:
    """The digest of one row alone, `DIGEST_BYTES` of it."""
    digest = RowDigest()
    digest.add(image, label, key)
    return bytes.fromhex(digest.hexdigest())


def shard_schema(class_names: tuple[str, ...] | None, id_type: pa.DataType | None) -> pa.Schema:
    """The schema of a shard, with what Hugging Face datasets want to know of it; `id_type` None: no ids."""
    fields = [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())]
    features: dict[str, Any] = {"image": {"_type": "Image"}, "label": {"dtype": "int64", "_type": "Value"}}
    if class_names:
        features["label"] = {"names": list(class_names), "_type": "ClassLabel"}
    if id_type is not None:
        fields.append(("id", id_type))
        features["id"] = {"dtype": str(id_type), "_type": "Value"}
    return pa.schema(fields).with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


class ShardWriter:
    """Writes one shard to a local path, row group by row group; a context that ends in an error closes it as it is.

    The same rows give the same bytes.
    """

    def __init__(self, path: str, schema: pa.Schema, row_group_rows: int) -> None:
        self.path, self.row_group_rows = path, row_group_rows
        self.rows = self.image_bytes = 0
        self._groups: list[int] = []
        self._digests: list[str] = []
        self._images: list[bytes] = []
        self._paths: list[str | None] = []
        self._labels: list[int] = []
        self._ids: list[str | int | None] = []
        self._closed = False
        self._writer = pq.ParquetWriter(
            path,
            schema,
            compression="none",
            use_dictionary=False,
            write_statistics=["label"],
            write_page_checksum=True,  # a reader that checks it spends 2 % of what decoding takes
        )

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._closed:
            self._closed = True
            with contextlib.suppress(OSError, pa.ArrowException):  # the first failure is the one to tell
                self._writer.close()

    def add(self, image: bytes, label: int, key: str | int | None = None, path: str | None = None) -> None:
        """Append one row."""
        self._images.append(image)
        self._labels.append(label)
        self._ids.append(key)
        self._paths.append(path)
        self.rows += 1
        self.image_bytes += len(image)
        if len(self._images) >= self.row_group_rows:
            self._flush()

    def close(self) -> tuple[ShardInfo, ShardDigests]:
        """Finish the file and see it on the disk; it is named as its path's last part."""
        if self._images:
            self._flush()
        self._closed = True
        self._writer.close()
        with open(self.path, "rb") as file:
            os.fsync(file.fileno())
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        size = os.path.getsize(self.path)
        info = ShardInfo(os.path.basename(self.path), self.rows, size, tuple(self._groups))
        return info, ShardDigests(sha256, tuple(self._digests))

    def _flush(self) -> None:
        schema, digest = self._writer.schema, RowDigest()
        for image, label, key in zip(self._images, self._labels, self._ids, strict=True):
            digest.add(image, label, key)
        images = pa.StructArray.from_arrays(
            [pa.array(self._images, pa.binary()), pa.array(self._paths, pa.string())], ["bytes", "path"]
        )
        columns = {"image": images, "label": pa.array(np.array(self._labels, np.int64))}
        if "id" in schema.names:
            columns["id"] = pa.array(self._ids, schema.field("id").type)
        self._writer.write_table(pa.table(columns, schema=schema), row_group_size=len(self._images))
        self._groups.append(len(self._images))
        self._digests.append(digest.hexdigest())
        for buffer in (self._images, self._labels, self._ids, self._paths):
            buffer.clear()  # type: ignore[attr-defined]
