"""A packed set, or shards of others, read again and judged row by row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from kdray.data.footers import Found, check_numbering, find_shards
from kdray.data.layout import ColumnNames, ShardColumns
from kdray.data.manifest_json import MANIFEST, WRITING
from kdray.data.pack.check import Check, Checked, Expected, Problem, check_shard
from kdray.data.pack.claims import contradictions, disproved, unknown
from kdray.data.pack.execute import Progress
from kdray.data.pack.rows_file import KEY, ROWS_FILE, ShardRows, read_rows
from kdray.data.pack.statistics import Tally
from kdray.data.pack.tasks import run_tasks
from kdray.errors import DataError, StoreError
from kdray.store import Store

_DUPLICATES = 100  # of ids, that are told apart


@dataclass
class Verdict:
    """What a set holds and what is wrong with it, in the order of the shards; `more` problems are not told apart."""

    uri: str
    own: bool
    shards: int
    rows: int = 0
    bytes: int = 0
    class_counts: Counter[int] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)
    more: int = 0

    @property
    def good(self) -> bool:
        return not self.problems

    @property
    def found(self) -> int:
        """How many problems there are."""
        return len(self.problems) + self.more


@dataclass(frozen=True)
class _Said:
    """What is to be checked: `manifest` is what stands in a manifest.json that is kdray's, None without one; `whole`:
    all of its set was named. `problems` are those that are seen before any shard is read.
    """

    check: Check
    shards: list[Expected]
    problems: list[Problem]
    manifest: dict[str, Any] | None = None
    whole: bool = False


def verify(
    uri: str, columns: ColumnNames | None = None, *, workers: int | None = 0, progress: Progress | None = None
) -> Verdict:
    """Read every byte of the shards at `uri` again and say all that is wrong.

    Of a set with a manifest: sizes, SHA-256 and rows of every shard, what each row holds, classes and their counts,
    and all else in the manifest that can be known again.
    Of any set: Parquet structure, labels, ids, and that every image decodes.

    Args:
        columns: names of the columns in a set without a manifest.
        workers: as `tasks.run_tasks`.

    Raises:
        DataError: there are no shards, or a set that is not finished.
        StoreError: the storage fails.
    """
    found = find_shards(uri)
    said = _expectations(found, columns or ShardColumns())
    verdict = Verdict(found.uri, said.manifest is not None, len(said.shards))
    verdict.problems += said.problems
    if progress is not None:
        rows = sum(sum(shard.row_groups or ()) for shard in said.shards)
        progress.begin(f"checking {found.uri}", len(said.shards), rows, sum(shard.bytes for shard in said.shards))
    results: dict[str, Checked] = {}
    calls: Iterator[tuple[Any, ...]] = ((shard,) for shard in said.shards)
    with closing(run_tasks(check_shard, said.check, calls, workers)) as checks:
        for result in checks:
            results[result.name] = result
            if progress is not None:
                progress.part(result.rows, result.bytes, len(result.problems) + result.more, False)
    for shard in said.shards:
        result = results[shard.name]
        verdict.rows += result.rows
        verdict.bytes += result.bytes
        verdict.class_counts.update(result.class_counts)
        verdict.problems += result.problems
        verdict.more += result.more
    _check_ids([results[shard.name] for shard in said.shards], verdict)
    if said.manifest is not None and said.whole:
        _check_totals(said, said.manifest, [results[shard.name] for shard in said.shards], verdict)
    if progress is not None:
        progress.end(packed_already=False)
    return verdict


def _expectations(found: Found, columns: ColumnNames) -> _Said:
    if MANIFEST in found.others:
        try:
            said = Store(found.folder).read_json(MANIFEST)
            why = unknown(said)
            return _from_manifest(found, said) if why is None else _foreign(found, columns, [Problem(MANIFEST, why)])
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as exc:
            return _foreign(found, columns, [Problem(MANIFEST, f"is damaged: {exc!r}")])
        except StoreError as exc:
            if not isinstance(exc.__cause__, ValueError):
                raise
            return _foreign(found, columns, [Problem(MANIFEST, exc.problem)])
    elif WRITING in found.others:
        fix = "`kdray shard` goes on where it stopped"
        raise DataError("holds a set whose writing was cut off", where=found.folder, fix=fix)
    gone = [Problem(MANIFEST, f"is missing, and {ROWS_FILE} is there")] if ROWS_FILE in found.others else []
    return _foreign(found, columns, gone)


def _from_manifest(found: Found, said: dict[str, Any]) -> _Said:
    sizes = dict(found.files)
    problems = [Problem(MANIFEST, text) for text in contradictions(said)]
    rows, wrong = _rows(found, said)
    problems += wrong
    shards = []
    for shard in said["shards"]:
        name = str(shard["name"])
        if name not in sizes:
            if not found.picked:
                problems.append(Problem(name, "is missing"))
            continue
        groups = tuple(int(rows) for rows in shard["row_groups"])
        digests = tuple(str(digest) for digest in shard.get("digests", ()))
        expected = Expected(name, int(shard["bytes"]), groups, str(shard["sha256"]), digests or None, rows.get(name))
        shards.append(expected)
    strangers = sorted(set(sizes) - {str(shard["name"]) for shard in said["shards"]})
    problems += [Problem(name, f"is not in {MANIFEST}") for name in strangers]
    names = tuple(said["classes"]) if said["classes"] else None
    check = Check(found.folder, ShardColumns(**said["columns"]), int(said["num_classes"]), names)
    return _Said(check, shards, problems, said, not found.picked)


def _rows(found: Found, said: dict[str, Any]) -> tuple[dict[str, ShardRows], list[Problem]]:
    """What is written of each row, by shard, and what is wrong with it; nothing where the set is of an older kdray."""
    if KEY not in said:
        return {}, []
    if ROWS_FILE not in found.others:
        return {}, [Problem(ROWS_FILE, "is missing: what has changed is placed in its row group, not in its row")]
    try:
        return read_rows(Store(found.folder).read_bytes(ROWS_FILE), said[KEY]), []
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        return {}, [Problem(ROWS_FILE, str(exc) if type(exc) is ValueError else f"is damaged: {exc!r}")]


def _foreign(found: Found, columns: ColumnNames, problems: list[Problem]) -> _Said:
    if not found.picked:
        try:
            check_numbering(found)
        except DataError as exc:
            problems.append(Problem(found.folder, exc.problem))
    names = ShardColumns(columns.image, columns.label, columns.id)
    return _Said(Check(found.folder, names), [Expected(*file) for file in found.files], problems)


def _check_ids(results: list[Checked], verdict: Verdict) -> None:
    """Name the rows whose id an earlier row has."""
    held = [(result.name, result.ids) for result in results if result.ids is not None]
    if not held:
        return
    ids = pa.chunked_array([values for _, values in held]).combine_chunks()
    codes = ids.dictionary_encode("encode").indices.to_numpy(zero_copy_only=False)
    _, first, back = np.unique(codes, return_index=True, return_inverse=True)
    twice = (first[back] != np.arange(len(codes))) & ids.is_valid().to_numpy(zero_copy_only=False)  # null: told before
    again = np.flatnonzero(twice)
    ends = np.cumsum([len(values) for _, values in held])

    def place(index: int) -> tuple[str, int]:
        shard = int(np.searchsorted(ends, index, side="right"))
        return held[shard][0], index - (int(ends[shard - 1]) if shard else 0)

    for index in again[:_DUPLICATES].tolist():
        file, row = place(int(first[back[index]]))
        name, at = place(index)
        verdict.problems.append(Problem(name, f"has the id of {file} row {row}", at, str(ids[index].as_py())))
    verdict.more += max(0, len(again) - _DUPLICATES)


def _check_totals(said: _Said, manifest: dict[str, Any], results: list[Checked], verdict: Verdict) -> None:
    """Compare what the manifest says of the whole set with what all shards hold."""
    names = said.check.class_names
    for label, wrote in enumerate(manifest["class_counts"] or ()):
        there = verdict.class_counts[label]
        if there != wrote:
            name = f" ({names[label]})" if names and label < len(names) else ""
            verdict.problems.append(
                Problem(MANIFEST, f"class {label}{name} has {there} rows, and {wrote} were written")
            )
    if any(result.problems for result in results) or len(said.shards) != len(manifest["shards"]):
        return  # what is summed up over damaged rows is another sum, and says nothing more
    tally, ids = Tally(), set[str]()
    for result in results:
        tally.merge(result.tally)
        if manifest.get("bad_files") and result.ids is not None:
            ids.update(map(str, result.ids.to_pylist()))
    try:
        wrong = disproved(manifest, sum(result.image_bytes for result in results), tally, ids)
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        wrong = [f"is damaged: {exc!r}"]
    verdict.problems += [Problem(MANIFEST, text) for text in wrong]
