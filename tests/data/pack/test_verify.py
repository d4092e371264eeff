"""`verify`: a good set is found good, and every kind of damage is named."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdray.data.layout import ShardColumns
from kdray.data.manifest_json import MANIFEST, WRITING
from kdray.data.pack.changes import CHANGED
from kdray.data.pack.check import Check, Expected, check_shard
from kdray.data.pack.execute import pack
from kdray.data.pack.options import PackOptions
from kdray.data.pack.rows_file import KEY, ROWS_FILE, reference
from kdray.data.pack.verify import Verdict, verify
from kdray.errors import DataError
from kdray.store import Store
from tests.conftest import S3
from tests.data.pack.pictures import collection, contents, picture, write_pictures
from tests.data.shard_sets import parquet, some, write

ROWS = 90


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("packed")
    source = write_pictures(folder / "source", ROWS)
    pack(collection(source), str(folder / "set"), PackOptions(shard_bytes=40_000, row_group_rows=8), workers=0)
    return contents(folder / "set")


@pytest.fixture
def folder(packed: dict[str, bytes], tmp_path: Path) -> Path:
    """A packed set to damage."""
    (tmp_path / "set").mkdir()
    for name, data in packed.items():
        (tmp_path / "set" / name).write_bytes(data)
    return tmp_path / "set"


def shard(folder: Path, number: int = 1) -> Path:
    return sorted(folder.glob("*.parquet"))[number]


def rewrite(path: Path, change: Callable[[list[dict[str, object]]], None]) -> None:
    """Write a shard anew with changed rows, as another program would, in the same row groups and bytes a row."""
    table = pq.read_table(path)
    rows = table.to_pylist()
    change(rows)
    whole = pa.Table.from_pylist(rows, table.schema)
    pq.write_table(
        whole,
        path,
        row_group_size=8,
        compression="none",
        use_dictionary=False,
        write_statistics=["label"],
        write_page_checksum=True,
    )


def told(verdict: Verdict, *texts: str) -> None:
    problems = "\n".join(map(str, verdict.problems))
    assert not verdict.good
    for text in texts:
        assert text in problems, problems


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


def test_a_manifest_that_is_wrong(folder: Path) -> None:
    path = folder / MANIFEST
    said = json.loads(path.read_text())
    said["class_counts"] = [29, 31, 30]
    path.write_text(json.dumps(said))
    told(verify(str(folder)), "class 0 (cat) has 30 rows, and 29 were written")
    path.write_text("{")
    verdict = verify(str(folder))
    told(verdict, f"{MANIFEST}: is not JSON")
    assert verdict.rows == ROWS and not verdict.own
    path.write_text('{"format": "kdray_shards", "version": 1}')
    told(verify(str(folder)), f"{MANIFEST}: is damaged")


def change(folder: Path, **keys: object) -> None:
    path = folder / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"digest": "0" * 32}, "was changed: its digest"),
        ({"rows": ROWS + 1}, f"says {ROWS + 1} rows, and {ROWS} of its shards"),
        ({"image_bytes": 5}, "says 5 bytes of images, and there are "),
        ({"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}, "was changed: its digest"),
        ({"mean": [0.5, 0.5, 1.5], "std": [0.2, 0.2, 0.2]}, "says mean [0.5, 0.5, 1.5], which is not three numbers"),
        ({"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.0]}, "says std [0.2, 0.2, 0.0], which is not three numbers"),
        ({"mean": [0.5, 0.5, 0.5]}, "says std None"),
        ({"mean": [0.5, 0.5, 0.5], "std": [0.2, float("nan"), 0.2]}, "says std [0.2, nan, 0.2]"),
        ({"num_classes": 4}, "names 3 classes, and says 4"),
        ({"class_counts": [90]}, "counts the rows of 1 classes, and says 3"),
        ({"classes": ["cat", "dog", "cow"]}, "was changed: its digest"),
        ({"image_sizes": {"height": [1, 2.0, 3], "width": [1, 2.0, 3], "short_side": []}}, "says other image sizes"),
        ({"image_sizes": 3}, "is damaged"),
        ({"bad_files": [{"path": "x", "reason": "r"}] * 2}, "lists a bad file twice"),
        ({"version": 2}, "is of version 2"),
        ({"format": "mine"}, "is no manifest of kdray's: its format is 'mine'"),
    ],
)
def test_all_that_a_manifest_says_is_checked(folder: Path, keys: dict[str, object], said: str) -> None:
    change(folder, **keys)
    verdict = verify(str(folder))
    told(verdict, f"{MANIFEST}: {said}")
    assert verdict.rows == ROWS and {problem.file for problem in verdict.problems} <= {
        MANIFEST,
        *(path.name for path in folder.glob("*.parquet") if "classes" in keys),
    }


def test_a_row_that_the_manifest_calls_bad(folder: Path) -> None:
    key = pq.read_table(shard(folder)).to_pylist()[4]["id"]
    change(folder, bad_files=[{"path": key, "reason": "not an image"}])
    told(verify(str(folder)), f"lists 1 as bad that are there, such as {key}")


def test_a_part_of_a_set_is_not_held_to_its_totals(folder: Path) -> None:
    verdict = verify(str(shard(folder)))
    assert verdict.good and verdict.own and verdict.rows < ROWS


def test_a_set_with_its_mean_is_good(tmp_path: Path) -> None:
    source = write_pictures(tmp_path / "source", 30)
    sorted(source.iterdir())[7].write_bytes(b"no image")
    options = PackOptions(row_group_rows=8, mean_std=True, max_bad=1, short_side=16)
    manifest = pack(collection(source), str(tmp_path / "set"), options, workers=0)
    assert manifest.mean is not None and len(manifest.bad) == 1
    assert verify(str(tmp_path / "set")).good


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


def test_sets_of_write_shards(tmp_path: Path) -> None:
    write(some(40, ids="int"), tmp_path / "set")  # its images are random bytes
    verdict = verify(str(tmp_path / "set"))
    assert verdict.found == 40 and all("does not decode" in problem.reason for problem in verdict.problems)
    assert {problem.id for problem in verdict.problems} == {str(7 * row + 3) for row in range(40)}


class TestForeign:
    def columns(self, count: int) -> dict[str, object]:
        rng = np.random.default_rng(0)
        images = [{"bytes": picture(rng, 8, 8, "PNG"), "path": None} for _ in range(count)]
        return {"img": images, "fine": [number % 3 for number in range(count)], "key": list(range(count))}

    def test_a_good_one(self, tmp_path: Path) -> None:
        parquet(tmp_path / "train-00000-of-00001.parquet", self.columns(10), compression="zstd")
        verdict = verify(str(tmp_path), ShardColumns("img", "fine", "key"))
        assert verdict.good and not verdict.own and verdict.rows == 10
        told(verify(str(tmp_path)), "has no column 'image'")

    def test_what_is_wrong_in_it(self, tmp_path: Path) -> None:
        columns = self.columns(10)
        columns["fine"][3] = -1  # type: ignore[index]
        columns["key"][5] = 4  # type: ignore[index]
        columns["img"][6]["bytes"] = b"no image"  # type: ignore[index]
        parquet(tmp_path / "train-00000-of-00002.parquet", columns)
        (tmp_path / "a.parquet").write_bytes(b"PAR1 no Parquet PAR1")
        verdict = verify(str(tmp_path), ShardColumns("img", "fine", "key"))
        name = "train-00000-of-00002.parquet"
        told(
            verdict,
            "1 of 2 shards of 'train' are missing",
            "a.parquet: does not read",
            f"{name} row 3 (3): has the label -1",
            f"{name} row 5 (4): has the id of {name} row 4",
            f"{name} row 6 (6): its image does not decode",
        )
        assert len(verdict.problems) == 5

    def test_a_row_group_that_does_not_read(self, tmp_path: Path) -> None:
        path = parquet(tmp_path / "a.parquet", self.columns(12), compression="zstd")
        at = pq.read_metadata(path).row_group(1).column(0).data_page_offset
        data = path.read_bytes()
        path.write_bytes(data[:at] + b"\xff" * 60 + data[at + 60 :])
        verdict = verify(str(path), ShardColumns("img", "fine", "key"))
        told(verdict, "a.parquet row 4: row group 1 (rows 4 to 7) does not read")
        assert len(verdict.problems) == 1 and verdict.class_counts.total() == 8

    def test_many_problems_are_counted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("kdray.data.pack.check.KEPT", 3)
        parquet(tmp_path / "a.parquet", {"image": [b"x"] * 10, "label": [0] * 10})
        verdict = verify(str(tmp_path))
        assert len(verdict.problems) == 3 and verdict.found == 10
