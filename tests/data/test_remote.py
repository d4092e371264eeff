"""Foreign Parquet files in object storage: what is asked for is what is needed, whatever the layout."""

from __future__ import annotations

import io
import secrets

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdray.data.manifest import read_manifest
from kdray.data.reader import read_labels, read_rows
from kdray.data.remote import GAP_BYTES, _Pieces, ranges_of, read_tail
from kdray.errors import DataError
from kdray.store import Store, read_range
from tests.conftest import S3
from tests.servers.faulty import Faulty

ROWS, GROUP = 256, 64
IMAGES = [np.random.default_rng(row).bytes(300 + row) for row in range(ROWS)]
LAYOUTS = {
    "plain": {"compression": "none", "use_dictionary": False},
    "zstd and dictionaries": {"compression": "zstd", "use_dictionary": True},
    "second pages": {"compression": "snappy", "data_page_version": "2.0", "data_page_size": 1000},
    "page index": {"compression": "none", "write_page_index": True, "write_page_checksum": True},
}


def parquet(between: int = 0, **layout: object) -> bytes:
    """Images and labels, with a column of `between` bytes a row group that lies between them."""
    columns = {"image": pa.array([{"bytes": image, "path": f"{row}.jpg"} for row, image in enumerate(IMAGES)])}
    if between:
        columns["embedding"] = pa.array([np.random.default_rng(r).bytes(between // GROUP) for r in range(ROWS)])
    columns["label"] = pa.array([row % 3 for row in range(ROWS)], pa.int32())
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, row_group_size=GROUP, **layout)
    return file.getvalue()


def put(server: S3, content: bytes) -> str:
    folder = server.uri(f"foreign/{secrets.token_hex(4)}")
    Store(folder).write_bytes("train.parquet", content)
    return folder


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_of_any_layout(real_s3: S3, layout: str) -> None:
    manifest = read_manifest(put(real_s3, parquet(**LAYOUTS[layout])))
    order = np.random.default_rng(0).permutation(ROWS)
    rows = read_rows(manifest, order)
    assert rows.images == [IMAGES[row] for row in order]
    assert rows.labels.tolist() == [row % 3 for row in order]
    assert read_labels(manifest)[0].tolist() == [row % 3 for row in range(ROWS)]


def test_a_wide_column_that_nobody_wants_is_not_fetched(proxy: Faulty, real_s3: S3) -> None:
    wide = 2 * GAP_BYTES
    manifest = read_manifest(put(real_s3, parquet(wide, compression="none", use_dictionary=False)))
    read_rows(manifest, np.arange(ROWS))
    proxy.reset()
    rows = read_rows(manifest, np.arange(GROUP))
    assert rows.images == IMAGES[:GROUP]
    spans = [tuple(map(int, str(asked.range).removeprefix("bytes=").split("-"))) for asked in proxy.asked]
    assert len(spans) == 2 and sum(end - first for first, end in spans) < GAP_BYTES


def test_near_ranges_are_one() -> None:
    known = pq.read_metadata(pa.BufferReader(parquet(GAP_BYTES // 2, compression="none", use_dictionary=False)))
    assert len(ranges_of(known, [1], ["image.bytes", "label"])) == 1
    assert len(ranges_of(known, range(4), ["label"])) == 1
    ((first, end),) = ranges_of(known, [0], ["image"])
    assert end - first == sum(known.row_group(0).column(leaf).total_compressed_size for leaf in (0, 1))


def test_what_is_not_at_hand_is_fetched(real_s3: S3) -> None:
    content = parquet(compression="none")
    uri = put(real_s3, content) + "/train.parquet"
    file = _Pieces(
        lambda first, end: read_range(uri, first, end - first).data, len(content), {(100, 200): content[100:200]}
    )
    file.seek(150)
    assert bytes(file.read(20)) == content[150:170] and file.tell() == 170
    assert bytes(file.read(100)) == content[170:270]
    file.seek(-8, io.SEEK_END)
    assert bytes(file.read()) == content[-8:] and bytes(file.read()) == b""


@pytest.mark.parametrize("content", [b"", b"PAR1", b"x" * 500, b"PAR1" + bytes(100) + b"\xff\xff\xff\x7fPAR1"])
def test_what_is_no_parquet_is_told(real_s3: S3, content: bytes) -> None:
    folder = put(real_s3, content)
    with pytest.raises(DataError, match=r"train\.parquet: is cut off, or no Parquet file"):
        read_manifest(folder)


def test_a_long_footer_takes_a_second_request(proxy: Faulty, real_s3: S3) -> None:
    file = io.BytesIO()
    table = pa.table({f"column{number}": [1] for number in range(700)})
    pq.write_table(table, file)
    uri = put(real_s3, file.getvalue()) + "/train.parquet"
    proxy.reset()
    tail = read_tail(uri, len(file.getvalue()))
    assert len(tail) > 65536 and proxy.count("GET") == 2
    assert pq.read_metadata(pa.BufferReader(tail)).num_columns == 700
