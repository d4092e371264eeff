"""Members of a zip archive, by byte ranges: its directory is read once, nothing is unpacked."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from kdray.data.pack.collection import BadItem, Collection
from kdray.data.pack.fetch import stream
from kdray.data.pack.listing import size_of
from kdray.data.pack.ranges import read_ranges
from kdray.errors import DataError

_STORED, _DEFLATED, _HEADER = 0, 8, 30


@dataclass(frozen=True)
class ZipIndex:
    """Files of a zip: `names`, and the columns that `ZipMembers` reads by."""

    uri: str
    names: pa.StringArray
    columns: dict[str, np.ndarray]

    def read(self, name: str) -> bytes:
        """The content of one member; raises `DataError` when it is not there or damaged."""
        row = self.names.index(name).as_py()
        if row < 0:
            raise DataError(f"lacks {name}", where=self.uri, fix="Fetch it again, whole")
        (got,) = read_members(self.uri, pa.table({key: column[row : row + 1] for key, column in self.columns.items()}))
        if isinstance(got, BadItem):
            raise DataError(f"{name} does not read: {got.reason}", where=self.uri, fix="Fetch it again, whole")
        return got


class ZipMembers(Collection):
    """Items are members of the zip at `archive`."""

    def __init__(self, items: pa.Table, archive: str, **given: Any) -> None:
        self.archive = archive
        super().__init__(items, **given)

    def read(self, items: pa.Table) -> Iterator[bytes | BadItem]:
        return read_members(self.archive, items)


def index_zip(uri: str) -> ZipIndex:
    """Raises `DataError` for a file that is no zip, cut off or encrypted."""
    try:
        with stream(uri, size_of(uri)) as file, zipfile.ZipFile(file) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            end = archive.start_dir
    except (zipfile.BadZipFile, ValueError) as exc:
        raise DataError("is no zip archive, or is cut off", where=uri, fix="Fetch it again, whole") from exc
    odd = [member.filename for member in members if member.compress_type not in (_STORED, _DEFLATED)]
    if odd or any(member.flag_bits & 1 for member in members):
        problem = "is encrypted or compressed in a way that is not known"
        raise DataError(problem, where=uri, fix="Unpack it and name the folder")
    start = np.array([member.header_offset for member in members], np.int64)
    bounds = np.sort(np.append(start, end))
    columns = {
        "offset": start,
        "span": bounds[np.searchsorted(bounds, start, side="right").clip(max=len(bounds) - 1)] - start,
        "packed": np.array([member.compress_size for member in members], np.int64),
        "bytes": np.array([member.file_size for member in members], np.int64),
        "crc": np.array([member.CRC for member in members], np.int64),
        "deflated": np.array([member.compress_type == _DEFLATED for member in members], bool),
    }
    return ZipIndex(uri, pa.array([member.filename for member in members], pa.string()), columns)


def read_members(uri: str, items: pa.Table) -> Iterator[bytes | BadItem]:
    columns = {name: items.column(name).to_numpy() for name in ("offset", "span", "packed", "bytes", "crc", "deflated")}
    # Up to the next member: how long the header before the data is, only the header itself says.
    whole = read_ranges([uri], np.zeros(items.num_rows, np.int32), columns["offset"], columns["span"])
    for row, got in enumerate(whole):
        if isinstance(got, BadItem):
            yield got
        else:
            facts = (int(columns[name][row]) for name in ("packed", "bytes", "crc", "deflated"))
            yield _content(got, *facts)


def _content(data: bytes, packed: int, size: int, crc: int, deflated: int) -> bytes | BadItem:
    if len(data) < _HEADER or data[:4] != b"PK\3\4":
        return BadItem("its place in the archive holds something else")
    start = _HEADER + sum(struct.unpack("<HH", data[26:30]))
    content = data[start : start + packed]
    if deflated:
        try:
            content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, size + 1)
        except zlib.error as exc:
            return BadItem(f"does not inflate: {exc}")
    return content if len(content) == size and zlib.crc32(content) == crc else BadItem("its checksum is wrong")
