"""Where a packing stands on storage, so that it can be killed at any time and gone on with.

While it is packed, a folder holds `manifest.json.writing`, which says what is packed and makes every reader refuse the
folder, finished shards under their final names, and `manifest.json.parts/` with a record of each. `manifest.rows` and
`manifest.json` come last, then the marker and the records go. Every file is whole or absent, and the same packing
always writes the same bytes, so several packers of one thing get in nobody's way.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from kdray.data.manifest_json import MANIFEST, PACKING, WRITING
from kdray.data.pack.parts import Part
from kdray.data.pack.plan import Plan
from kdray.data.pack.rows_file import ROWS_FILE
from kdray.errors import DataError, StoreError
from kdray.store import Store, open_uri
from kdray.store.local import sync_folder, temporary_name
from kdray.store.place import parse
from kdray.store.store import explaining

log = logging.getLogger(__name__)
PARTS = "manifest.json.parts"
THREADS = 16
TRIES = 5
FRESH = "--fresh deletes it and starts over; or pack into another folder"
OTHER = "Delete it or pack into another folder"


class _Finished(DataError):
    """Another packer has finished the same set meanwhile."""


@dataclass(frozen=True)
class Destination:
    """The folder `uri` of one split; cheap to send to a task."""

    uri: str

    @property
    def store(self) -> Store:
        return Store(self.uri)

    def sizes(self) -> dict[str, int]:
        """Bytes of the files in the folder, by name; {} when there is none."""
        import pyarrow.fs as fs

        place = parse(self.uri)
        files, _ = open_uri(place.uri)
        with explaining(place.uri, "list"):
            selector = fs.FileSelector(place.path, recursive=False, allow_not_found=True)
            return {info.base_name: int(info.size) for info in files.get_file_info(selector) if info.is_file}

    def standing(self, identity: str, beside: bool = False) -> dict[str, Any] | None:
        """What is there of the packing `identity`: its manifest, its marker, or None for nothing at all. With `beside`
        files that are no shards may lie there.

        Raises:
            DataError: something else is there.
            StoreError: the storage fails.
        """
        there = visible(self.store.list()) - {PARTS}
        for name in (MANIFEST, WRITING):
            if name not in there:
                continue
            said = self.said(name)
            if _identity(said) == identity:
                return said
            whole = "a set that" if name == MANIFEST else "a packing that began and"
            problem = f"holds {whole} is not this source packed with these options"
            raise DataError(problem, where=self.uri, fix=FRESH if is_packed(said) else OTHER)
        if beside:
            there = {name for name in there if name.endswith(".parquet")}
        if there:
            some = ", ".join(sorted(there)[:3])
            raise DataError(f"holds something else: {some}", where=self.uri, fix=OTHER)
        return None

    def begin(self, marker: dict[str, Any]) -> None:
        """Say what is packed here, before anything else is written."""
        self.store.write_json(WRITING, {"format": PACKING, "version": 1} | marker)

    def check_ours(self, identity: str) -> None:
        """Raise where the marker of this packing no longer stands, or cannot be seen from here."""
        try:
            said = self.said(WRITING)
        except StoreError:
            if self.is_finished(identity):
                raise _Finished("is packed already", where=self.uri) from None
            if self.store.exists(WRITING):
                raise
            problem = "the mark that a packing set there is not to be seen from this node, or was removed"
            fix = "Use a folder that all nodes share, s3:// or gs://, or --workers 0 to pack on one machine"
            raise DataError(problem, where=self.uri, fix=fix) from None
        if _identity(said) != identity:
            raise DataError("another packing has begun there", where=self.uri, fix="Pack into folders of their own")

    def check_alone(self, shards: set[str], names: Iterable[str]) -> None:
        """Raise where, among the `names` in the folder, there are Parquet files besides `shards`: with them no reader
        would take the set. One may come late, by an upload of an older packing that was thought to be dead.
        """
        others = sorted(name for name in set(names) - shards if name.endswith(".parquet") and name[0] not in "._")
        if others:
            some = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
            fix = "Delete them or move them away, and start it again: it goes on where it stopped"
            raise DataError(f"holds Parquet files that are not of this packing: {some}", where=self.uri, fix=fix)

    def is_finished(self, identity: str) -> bool:
        """Whether the set is there, whole."""
        store = self.store
        return store.exists(MANIFEST) and _identity(self.said(MANIFEST)) == identity

    def parts(self, plan: Plan, identity: str) -> dict[int, Part]:
        """Records of the shards that are there, by number; one that does not fit its shard is left out."""
        sizes = self.sizes()
        records = set(self.store.list(PARTS))
        numbers = [n for n in range(plan.shards) if plan.name(n) in sizes and record_name(plan, n) in records]
        with ThreadPoolExecutor(THREADS) as pool:
            found = list(pool.map(lambda number: self._part(plan, number, identity), numbers))
        return {
            number: part
            for number, part in zip(numbers, found, strict=True)
            if part is not None and part.shard.bytes == sizes[plan.name(number)]
        }

    def keep(self, plan: Plan, number: int, path: str, part: Part, identity: str) -> None:
        """Put the finished shard at the local `path`, then its record, in their places."""
        self.check_ours(identity)
        name, place = plan.name(number), parse(self.uri)
        if place.scheme == "local":
            with explaining(os.path.join(place.path, name), "write"):
                os.replace(path, os.path.join(place.path, name))
                sync_folder(place.path)
        else:
            self.store.put_file(name, path)
        self.store.write_json(f"{PARTS}/{record_name(plan, number)}", part.to_json() | {"identity": identity})

    def forget(self, plan: Plan, number: int) -> None:
        """Remove the record of a shard that is to be written again."""
        self.store.delete(f"{PARTS}/{record_name(plan, number)}")

    @contextlib.contextmanager
    def scratch(self, name: str) -> Iterator[str]:
        """A local path to write a shard to, on the same file system where the folder is local; removed at the end."""
        place = parse(self.uri)
        if place.scheme == "local":
            folder = os.path.join(place.path, PARTS)
            with explaining(folder, "write"):
                os.makedirs(folder, exist_ok=True)
        else:
            folder = tempfile.gettempdir()
        path = os.path.join(folder, temporary_name(name))
        try:
            with explaining(folder, "write"):
                yield path
        finally:
            with contextlib.suppress(OSError):
                os.unlink(path)

    def finish(self, content: dict[str, Any], rows: bytes, identity: str) -> None:
        """Make the set visible: its shards, and no others, are there whole, then come `rows` and the manifest."""
        self.check_ours(identity)
        sizes = self.sizes()
        self.check_alone({shard["name"] for shard in content["shards"]}, sizes)
        for shard in content["shards"]:
            if sizes.get(shard["name"]) != shard["bytes"]:
                what = "is missing" if shard["name"] not in sizes else f"has {sizes[shard['name']]} bytes, not its own"
                fix = "Give the same command again: it writes what is missing"
                raise DataError(f"{what}, though it was written", where=f"{self.uri}/{shard['name']}", fix=fix)
        self.store.write_bytes(ROWS_FILE, rows)
        self.store.write_json(MANIFEST, content)
        self.tidy()

    def tidy(self) -> None:
        """Remove what a packing needs only while it is under way; another packer may be about to find out."""
        self.store.delete(WRITING)
        for attempt in range(TRIES):
            try:
                self.store.delete(PARTS)
            except StoreError as exc:  # another packer empties the folder too, or has just put a record there
                if attempt == TRIES - 1:
                    log.warning("%s is packed, but its leftovers stay: %s", self.uri, exc)
                time.sleep(0.1 * attempt)
            else:
                return

    def said(self, name: str) -> dict[str, Any]:
        """What the manifest or the marker `name` holds; raises `DataError` where that is damaged."""
        try:
            said = self.store.read_json(name)
        except StoreError as exc:
            if isinstance(exc.__cause__, json.JSONDecodeError):
                raise DataError("is damaged", where=f"{self.uri}/{name}", fix=OTHER) from exc
            raise
        return said if isinstance(said, dict) else {}

    def _part(self, plan: Plan, number: int, identity: str) -> Part | None:
        try:
            said = self.store.read_json(f"{PARTS}/{record_name(plan, number)}")
            return Part.from_json(said) if said["identity"] == identity else None
        except (StoreError, KeyError, TypeError, ValueError):
            return None  # it is written again, with its shard


def visible(names: Iterable[str]) -> set[str]:
    """The names that are not hidden, as `.DS_Store`; a Parquet file is read whatever its name is."""
    return {name for name in names if not name.startswith(".") or name.endswith(".parquet")}


def is_packed(said: dict[str, Any]) -> bool:
    """Whether a manifest or a marker is of `kdray shard`."""
    return said.get("format") == PACKING or isinstance(said.get("packing"), dict)


def record_name(plan: Plan, number: int) -> str:
    """File name of a shard's record."""
    return plan.name(number).removesuffix(".parquet") + ".json"


def _identity(said: dict[str, Any]) -> str | None:
    packing = said.get("packing")
    found = packing.get("identity") if isinstance(packing, dict) else said.get("identity")
    return str(found) if found else None
