"""`verify`: a good set is found good, and every kind of damage is named."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdray.data.layout import ShardColumns
from kdray.data.manifest_json import MANIFEST, WRITING
from kdray.data.pack.changes import CHANGED
from kdray.data.pack.check import Check, Expected, check_shard
from kdray.data.pack.rows_file import KEY, ROWS_FILE, reference
from kdray.data.pack.verify import verify
from kdray.errors import DataError
from kdray.store import Store
from tests.conftest import S3
from tests.data.pack.damage import ROWS, change, rewrite, shard, told


def test_a_good_set(folder: Path) -> None:
    verdict = verify(str(folder))
    assert verdict.good and verdict.own and verdict.found == 0
    assert (verdict.rows, verdict.shards) == (ROWS, len(list(folder.glob("*.parquet"))))
    assert verdict.class_counts == {0: 30, 1: 30, 2: 30}


def test_a_set_in_a_bucket(packed: dict[str, bytes], s3: S3) -> None:
    store = Store(s3.uri("verify/set"))
    for name, data in packed.items():
        store.write_bytes(name, data)
    assert verify(store.uri).good
    name = "train-00001-of-00005.parquet"
    data = bytearray(packed[name])
    data[len(data) // 2] ^= 1
    store.write_bytes(name, bytes(data))
    told(verify(store.uri), name)


@pytest.mark.parametrize("part", range(12))
def test_a_flipped_byte_is_found_wherever_it_is(folder: Path, part: int) -> None:
    path = shard(folder)
    data = bytearray(path.read_bytes())
    data[len(data) * part // 12 + 5] ^= 0x20
    path.write_bytes(data)
    verdict = verify(str(folder))
    told(verdict, path.name)
    assert {problem.file for problem in verdict.problems} <= {path.name, MANIFEST}


def test_a_flipped_byte_of_an_image_is_placed_in_its_row(folder: Path) -> None:
    path = shard(folder)
    row = pq.read_table(path).to_pylist()[10]
    data = path.read_bytes()
    at = data.index(row["image"]["bytes"]) + len(row["image"]["bytes"]) // 2
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    verdict = verify(str(folder))
    (problem,) = verdict.problems
    assert problem.row == 10 and problem.id == row["id"]


def test_an_image_that_no_longer_decodes_is_named(folder: Path) -> None:
    path = shard(folder)
    row = pq.read_table(path).to_pylist()[10]
    data = path.read_bytes()
    path.write_bytes(data.replace(row["image"]["bytes"], bytes(len(row["image"]["bytes"]))))
    verdict = verify(str(folder))
    told(verdict, f"{path.name} row 10 ({row['id']}): its image does not decode: not an image")
    assert len(verdict.problems) == 1


@pytest.mark.parametrize("keep", [0.5, 0.99, 0.0])
def test_a_truncated_shard(folder: Path, keep: float) -> None:
    path = shard(folder)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    told(verify(str(folder)), f"{path.name}: has ", f"instead of {len(data)}: cut off", f"{path.name}: does not read")


def test_a_missing_shard_and_a_stranger(folder: Path) -> None:
    path = shard(folder)
    rows = pq.read_metadata(path).num_rows
    path.rename(folder / "other.parquet")
    verdict = verify(str(folder))
    told(verdict, f"{path.name}: is missing", f"other.parquet: is not in {MANIFEST}", "rows, and 30 were written")
    assert verdict.rows == ROWS - rows


def test_exchanged_labels(folder: Path) -> None:
    path = shard(folder)

    def exchange(rows: list[dict[str, object]]) -> None:
        other = next(i for i in range(10, 16) if rows[i]["label"] != rows[9]["label"])
        rows[9]["label"], rows[other]["label"] = rows[other]["label"], rows[9]["label"]

    size = path.stat().st_size
    rewrite(path, exchange)
    assert path.stat().st_size == size
    verdict = verify(str(folder))
    first, second = verdict.problems
    assert first.row == 9 and second.row is not None and 10 <= second.row < 16
    assert first.id == pq.read_table(path).to_pylist()[9]["id"]
    told(verdict, f"{path.name} row 9 ({first.id}): holds another label, id or image than was written")


def test_exchanged_labels_beside_another_bad_row(folder: Path) -> None:
    path = shard(folder)

    def damage(rows: list[dict[str, object]]) -> None:
        other = next(i for i in range(10, 16) if rows[i]["label"] != rows[9]["label"])
        rows[9]["label"], rows[other]["label"] = rows[other]["label"], rows[9]["label"]
        rows[8]["image"]["bytes"] = bytes(len(rows[8]["image"]["bytes"]))  # type: ignore[index]

    rewrite(path, damage)
    verdict = verify(str(folder))
    assert len(verdict.problems) == 3 and [problem.row for problem in verdict.problems[:2]] == [8, 9]
    told(verdict, f"{path.name} row 8 (", "its image does not decode")
    old(folder)
    verdict = verify(str(folder))
    assert len(verdict.problems) == 2
    told(verdict, f"{path.name} row 8: row group 1 (rows 8 to 15) holds other labels, ids or images than were written")


def old(folder: Path) -> None:
    """Make it the set of an older kdray, which kept no digests of rows."""
    said = json.loads((folder / MANIFEST).read_text())
    del said[KEY]
    (folder / MANIFEST).write_text(json.dumps(said))
    (folder / ROWS_FILE).unlink()


def test_a_set_of_an_older_kdray(folder: Path) -> None:
    old(folder)
    assert verify(str(folder)).good


def test_rows_that_were_added_or_removed_or_moved(folder: Path) -> None:
    path = shard(folder)
    table = pq.read_table(path)
    options = {"row_group_size": 8, "compression": "none", "use_dictionary": False}
    pq.write_table(pa.concat_tables([table.slice(0, 3), table.slice(5)]), path, **options)
    verdict = verify(str(folder))
    told(verdict, "rows in ", f"{path.name}: lacks 2 of the rows that were written")
    assert not [problem for problem in verdict.problems if problem.row is not None]
    other = pq.read_table(shard(folder, 2)).slice(0, 1)
    pq.write_table(pa.concat_tables([table.slice(0, 3), other, table.slice(3)]), path, **options)
    verdict = verify(str(folder))
    assert [problem.row for problem in verdict.problems if problem.reason == CHANGED] == [3]
    pq.write_table(pa.concat_tables([table.slice(1, 1), table.slice(0, 1), table.slice(2)]), path, **options)
    verdict = verify(str(folder))
    assert [problem.row for problem in verdict.problems if problem.reason == CHANGED] == [0, 1]
    pq.write_table(table, path, **(options | {"row_group_size": 5}))  # every row is there
    assert all(problem.row is None for problem in verify(str(folder)).problems)


def test_the_digests_of_the_rows_are_checked_too(folder: Path) -> None:
    data = (folder / ROWS_FILE).read_bytes()
    (folder / ROWS_FILE).write_bytes(data.replace(b'"class_counts":[[0,', b'"class_counts":[[1,', 1))
    told(verify(str(folder)), f"{ROWS_FILE}: its bytes are not those that were written")
    said = json.loads((folder / MANIFEST).read_text())
    change(folder, **{KEY: reference((folder / ROWS_FILE).read_bytes())})
    told(verify(str(folder)), f"has not the rows of each class that {ROWS_FILE} says")
    change(folder, **{KEY: reference(b"{}")})
    (folder / ROWS_FILE).write_bytes(b"{}")
    told(verify(str(folder)), f"{ROWS_FILE}: is damaged")
    change(folder, **{KEY: said[KEY]})
    (folder / ROWS_FILE).unlink()
    told(verify(str(folder)), f"{ROWS_FILE}: is missing")
    (folder / ROWS_FILE).write_bytes(data)
    assert verify(str(folder)).good
    (folder / MANIFEST).unlink()
    told(verify(str(folder)), f"{MANIFEST}: is missing, and {ROWS_FILE} is there")


def test_classes_are_counted_for_each_shard(folder: Path) -> None:
    shards = json.loads((folder / ROWS_FILE).read_text())["shards"]
    for path in sorted(folder.glob("*.parquet")):
        labels = pq.read_table(path, columns=["label"]).column("label").to_pylist()
        assert shards[path.name]["class_counts"] == [list(pair) for pair in sorted(Counter(labels).items())]
        assert len(bytes.fromhex(shards[path.name]["digests"])) == 8 * len(labels)


def test_one_wrong_label(folder: Path) -> None:
    def change(rows: list[dict[str, object]]) -> None:
        rows[3]["label"] = 2 if rows[3]["label"] == 1 else 1

    rewrite(shard(folder), change)
    told(verify(str(folder)), " row 3 (", "has 31 rows, and 30 were written", "manifest.json: class ")


def test_labels_out_of_range_and_nulls(folder: Path) -> None:
    def change(rows: list[dict[str, object]]) -> None:
        rows[0]["label"] = 3
        rows[1]["label"] = None
        rows[2]["image"] = None
        rows[3]["id"] = None

    path = shard(folder)
    key = pq.read_table(path).to_pylist()[0]["id"]
    rewrite(path, change)
    told(
        verify(str(folder)),
        f"{path.name} row 0 ({key}): has the label 3, but labels are 0..2",
        f"{path.name} row 1 ",
        "has no label",
        "has no image",
        f"{path.name} row 3: has no id",
    )


def test_ids_that_are_there_twice(folder: Path) -> None:
    first, second = shard(folder, 0), shard(folder, 2)
    key = pq.read_table(first).to_pylist()[4]["id"]

    def change(rows: list[dict[str, object]]) -> None:
        rows[11]["id"] = key

    rewrite(second, change)
    told(verify(str(folder)), f"{second.name} row 11 ({key}): has the id of {first.name} row 4")


def test_a_set_that_is_not_finished_is_refused(folder: Path) -> None:
    (folder / MANIFEST).rename(folder / WRITING)
    with pytest.raises(DataError, match="cut off"):
        verify(str(folder))
    with pytest.raises(DataError, match="does not exist"):
        verify(str(folder / "nowhere"))


@pytest.mark.parametrize("mount_point", [False, True])
def test_a_node_that_does_not_see_the_folder(tmp_path: Path, mount_point: bool) -> None:
    if mount_point:
        (tmp_path / "set").mkdir()
    with pytest.raises(DataError, match="set: is not to be seen from every node"):
        check_shard(Check(str(tmp_path / "set"), ShardColumns()), Expected("a.parquet", 10))
