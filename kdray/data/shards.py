"""The shard format in one place to import from: Parquet files of encoded images, their manifest, reading and writing.

`manifest` says what a set holds, `reader` gives rows by number, `writer` makes a set. The layout is the one that
Hugging Face datasets write (`image` struct<bytes, path>, `label` int64), so their sets read as they are, and back.
"""

from kdray.data.manifest import Manifest, ShardColumns, ShardInfo, read_manifest
from kdray.data.reader import Rows, images_at, iter_rows, read_labels, read_row_group, read_rows
from kdray.data.writer import Sample, write_shards

__all__ = [
    "Manifest",
    "Rows",
    "Sample",
    "ShardColumns",
    "ShardInfo",
    "images_at",
    "iter_rows",
    "read_labels",
    "read_manifest",
    "read_row_group",
    "read_rows",
    "write_shards",
]
