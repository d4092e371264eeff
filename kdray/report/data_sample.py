"""Which rows of a set a person is shown, and what a look at some of its images finds.

All choices are functions of the data alone: who looks again sees the same images. Only a few row groups are read, so a
set of any size on any storage takes seconds.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from kdray.data.decode import FORMATS, MAX_PIXELS, BadImage, decode_many
from kdray.data.draws import unit_hash
from kdray.data.manifest import Manifest
from kdray.data.reader import Rows, read_rows
from kdray.data.threads import cpus
from kdray.store import open_uri
from kdray.store.store import explaining

READ_BYTES, READ_ROWS = 64 * 1024**2, 8192  # encoded, beside the rows on the sheet; a set below both is read whole
DECODED_ROWS, DECODED_PIXELS = 512, 64 * 1024**2  # a second or two of decoding
_CHOICE, _SEED = 8, 20250  # tag and seed of the draw of rows: never the experiment's seed
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Header:
    """What a file says of its image before it is decoded; `turned` is an orientation that decoding does not apply."""

    width: int
    height: int
    format: str
    mode: str
    turned: bool


@dataclass(frozen=True)
class Look:
    """What was found in the images of `rows`: all of a set (`whole`), or some of its row groups.

    `headers`, by dense row, are those of the images that have one. `decoded` says how many were tried, `bad` gives the
    dense row and reason of those that did not decode, and `mean_decoded` the mean bytes of the others. `twins` are
    groups of dense rows with the same bytes.
    """

    rows: int
    whole: bool
    headers: dict[int, Header]
    decoded: int
    bad: dict[int, str]
    mean_decoded: float | None
    twins: list[list[int]]

    @property
    def kinds(self) -> Counter[str]:
        """How many images are of each format and colour mode, the most frequent first."""
        return Counter(f"{header.format} {header.mode}" for header in self.headers.values())


def spread_rows(rows: np.ndarray, labels: np.ndarray, ids: np.ndarray, count: int) -> np.ndarray:
    """Choose `count` of the dense `rows` int64 [n], spread over the classes: int64, by class and then by row.

    `labels` and `ids` int64 [N] are those of the whole set. Of each class come the rows with the lowest hash of their
    id; with fewer rows than classes the classes are evenly spaced.
    """
    order = np.lexsort((unit_hash(_SEED, ids[rows], _CHOICE), labels[rows]))
    _, first, sizes = np.unique(labels[rows][order], return_index=True, return_counts=True)
    turn = np.arange(len(rows)) - np.repeat(first, sizes)  # the row's place in its class
    chosen: list[int] = []
    for number in range(int(sizes.max(initial=0))):
        there = order[turn == number]  # one of each class that has so many, in the order of classes
        room = count - len(chosen)
        if len(there) >= room:
            chosen += there[np.linspace(0, len(there) - 1, room).round().astype(np.int64)].tolist()
            break
        chosen += there.tolist()
    picked = rows[np.array(chosen, dtype=np.int64)]
    return picked[np.lexsort((picked, labels[picked]))]


def look(manifest: Manifest, rows: np.ndarray, shown: np.ndarray) -> tuple[Rows, Look]:
    """Read the dense rows `shown` int64 [m], and with them others of `rows` int64 [n], and look at all of these."""
    sample = _rows_to_read(manifest, rows, shown)
    read = read_rows(manifest, np.concatenate([shown, sample]))
    first = slice(len(shown))
    on_sheet = Rows(read.images[first], read.labels[first], read.ids[first], read.index[first])
    looked = dict(zip(read.index.tolist(), read.images, strict=True))
    return on_sheet, _look(looked, len(looked) == len(rows))


def names_of(manifest: Manifest, shown: np.ndarray) -> dict[int, str]:
    """What the dense rows `shown` int64 [m] are called in the shards, by row: their id as it is written there (a text
    is read as a number, which tells a person nothing), else the path of their file, where a set tells it.
    """
    columns = manifest.columns
    if columns.id is None and columns.image_kind != "struct":
        return {}
    names: dict[int, str] = {}
    groups = manifest.group_of(shown)
    for number in np.unique(groups).tolist():
        group = manifest.group(number)
        uri = manifest.shard_uri(group.shard)
        files, path = open_uri(uri)
        with explaining(uri, "read"), files.open_input_file(path) as source, pq.ParquetFile(source) as shard:
            column = columns.id or f"{columns.image}.path"
            if columns.id is None and not any(field.path == column for field in shard.schema):
                return {}
            values = shard.read_row_group(group.row_group, columns=[column]).column(0)
        for row in shown[groups == number].tolist():
            value = values[row - group.start].as_py()
            value = value if columns.id else (value or {}).get("path")
            if value is not None:
                names[row] = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return names


def _rows_to_read(manifest: Manifest, rows: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Those of `rows` that lie in the row groups of `shown` and in others, evenly spaced, as far as the limits go."""
    group = manifest.group_of(rows)
    there, sizes = np.unique(group, return_counts=True)
    first = np.isin(there, manifest.group_of(shown))
    mean_bytes = max(1.0, manifest.image_bytes / max(1, manifest.num_samples))
    most = int(min(READ_ROWS, READ_BYTES / mean_bytes))
    spread = np.argsort(np.arange(len(there)) * 0.6180339887498949 % 1.0, kind="stable")  # any beginning is spread out
    order = np.concatenate([np.flatnonzero(first), spread[~first[spread]]])
    # The whole of a set below the limits; else as many groups as fit, at least those that are read anyhow.
    fits = np.cumsum(sizes[order]) <= most
    fits[: int(first.sum())] = True
    sample = rows[np.isin(group, there[order[fits]])]
    if len(sample) > most:
        sample = sample[np.linspace(0, len(sample) - 1, most).round().astype(np.int64)]
    return sample


def _look(images: dict[int, bytes], whole: bool) -> Look:
    rows = sorted(images)
    headers = {row: header for row in rows if (header := read_header(images[row])) is not None}
    tried = _affordable(rows, headers)
    decoded = decode_many([images[row] for row in tried], cpus())
    bad = {row: str(image) for row, image in zip(tried, decoded, strict=True) if isinstance(image, BadImage)}
    sizes = [image.nbytes for image in decoded if not isinstance(image, BadImage)]
    same: dict[bytes, list[int]] = {}
    for row in rows:
        same.setdefault(hashlib.blake2b(images[row], digest_size=16).digest(), []).append(row)
    return Look(
        rows=len(rows),
        whole=whole,
        headers=headers,
        decoded=len(tried),
        bad=bad,
        mean_decoded=float(np.mean(sizes)) if sizes else None,
        twins=[group for group in same.values() if len(group) > 1],
    )


def _affordable(rows: list[int], headers: dict[int, Header]) -> list[int]:
    """Some of `rows`, evenly spaced, that decode in little time, and all that cost none: without a header, or refused
    for their size.
    """
    areas = [headers[row].width * headers[row].height if row in headers else 0 for row in rows]
    pixels = np.array([0 if area > MAX_PIXELS else area for area in areas], dtype=np.int64)
    share = max(1.0, len(rows) / DECODED_ROWS, float(pixels.sum()) / DECODED_PIXELS)
    evenly = set(np.unique((np.arange(0, len(rows) / share) * share).astype(np.int64)).tolist())
    return [row for at, row in enumerate(rows) if at in evenly or not pixels[at]]


def read_header(data: bytes) -> Header | None:
    """What Pillow reads at the beginning of an image file; None where it knows no such file."""
    try:
        with warnings.catch_warnings():
            # Of sizes that decoding refuses anyhow.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        with image:
            # A TIFF is turned by Pillow itself.
            turned = image.format != "TIFF" and image.getexif().get(_ORIENTATION, 1) not in (0, 1)
            return Header(image.width, image.height, image.format or "?", image.mode, turned)
    except Exception as error:  # as in kdray.data.decode: Pillow's plugins raise whatever a damaged file leads them to
        if isinstance(error, MemoryError):
            raise
        return None
