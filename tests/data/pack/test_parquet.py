"""A folder of Parquet files: layouts, kinds of columns, names of classes, paths, damage, S3."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from kdray.data.pack.collection import BadItem, open_collections
from kdray.data.pack.command import main as shard
from kdray.data.pack.execute import pack
from kdray.data.writer import Sample, write_shards
from kdray.errors import DataError
from tests.conftest import S3
from tests.data.pack.archives import images, plant, read_all, read_source

NAMES = ["cat", "dog", "ship"]
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def table(rows: range, *, paths: bool = True, label: Any = None, names: bool = True) -> pa.Table:
    """Images number `rows` with labels row % 3, as Hugging Face writes them."""
    image = [{"bytes": images()[row], "path": f"{row}.jpg" if paths else None} for row in rows]
    labels = pa.array([row % 3 for row in rows], pa.int64()) if label is None else label
    features: dict[str, Any] = {"image": {"_type": "Image"}, "label": {"names": NAMES, "_type": "ClassLabel"}}
    made = pa.table({"image": pa.array(image, STRUCT), "label": labels})
    return made.replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})} if names else None
    )


def parquet(made: pa.Table, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(made, sink, **({"row_group_size": 2} | options))
    return sink.getvalue().to_pybytes()


def given(rows: range) -> dict[str, tuple[int, bytes]]:
    return {f"{row}.jpg": (row % 3, images()[row]) for row in rows}


def hub() -> dict[str, bytes]:
    return {
        "data/train-00000-of-00002-0123456789abcdef.parquet": parquet(table(range(4))),
        "data/train-00001-of-00002-0123456789abcdef.parquet": parquet(table(range(4, 9)), compression="zstd"),
        "data/validation-00000-of-00001.parquet": parquet(table(range(9, 12))),
        "README.md": b"x",
    }


HUB = {"train": given(range(9)), "validation": given(range(9, 12))}


def test_as_the_hub_has_it(tmp_path: Path) -> None:
    plant(tmp_path, hub())
    assert read_source(tmp_path) == HUB
    assert read_source(tmp_path / "data") == HUB
    assert read_source(tmp_path / "data" / "train-*.parquet") == {"train": HUB["train"]}
    assert read_source(tmp_path / "data" / "validation-00000-of-00001.parquet") == {"validation": HUB["validation"]}
    with open_collections(str(tmp_path), split="train") as (train,):
        assert (train.kind, train.class_names, train.has_splits, train.here) == ("parquet", tuple(NAMES), True, False)
        assert train.notes == ()
        assert train.items["block"].to_pylist() == [0, 0, 1, 1, 2, 2, 3, 3, 4]
        rows = [8, 0, 5, 5, 2]
        assert list(train.read(train.items.take(rows))) == [images()[row] for row in rows]
        assert list(train.read(train.items.slice(0, 0))) == []


def test_windows_of_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdray.data.pack.parquet_rows.WINDOW_ROWS", 4)
    plant(tmp_path, hub())
    with open_collections(str(tmp_path), split="train") as (train,):
        rows = [8, 0, 5, 1, 2, 7, 3, 4, 6]
        assert list(train.read(train.items.take(rows))) == [images()[row] for row in rows]
        monkeypatch.setattr("kdray.data.pack.parquet_rows.WINDOW_BYTES", 1)
        assert list(train.read(train.items.take(rows))) == [images()[row] for row in rows]


def test_folders_of_splits_and_our_own_shards(tmp_path: Path) -> None:
    for split, rows in (("train", range(9)), ("test", range(9, 12))):
        samples = [Sample(images()[row], row % 3, f"{row}.jpg") for row in rows]
        write_shards(samples, str(tmp_path / split), class_names=NAMES, split=split, row_group_rows=2)
    got = read_source(tmp_path)
    assert {split: list(items.values()) for split, items in got.items()} == {
        "train": list(given(range(9)).values()),
        "test": list(given(range(9, 12)).values()),
    }


def test_on_s3(s3: S3) -> None:
    plant(s3.uri("parquet/set"), hub())
    assert read_source(s3.uri("parquet/set")) == HUB
    with open_collections(s3.uri("parquet/set"), split="train") as (train,):
        import boto3

        name = "parquet/set/data/train-00000-of-00002-0123456789abcdef.parquet"
        boto3.client("s3", endpoint_url=s3.endpoint).delete_object(Bucket=s3.bucket, Key=name)
        got = read_all(train)
    assert got["0.jpg"] == (0, BadItem(f"{s3.uri(name)} is missing"))
    assert got["8.jpg"] == HUB["train"]["8.jpg"]


@pytest.mark.parametrize(
    "label",
    [
        pa.array(["ship", "cat", "dog", "ship"]),
        pa.array(["ship", "cat", "dog", "ship"]).dictionary_encode(),
        pa.array(["ship", "cat", "dog", "ship"], pa.large_string()),
    ],
)
def test_labels_that_are_names(tmp_path: Path, label: pa.Array) -> None:
    (tmp_path / "train.parquet").write_bytes(parquet(table(range(4), label=label, names=False)))
    other = table(range(4, 6), label=label.take(pa.array([0, 1])), names=False)
    (tmp_path / "test.parquet").write_bytes(parquet(other))
    with open_collections(str(tmp_path)) as (train, test):
        assert train.class_names == test.class_names == ("cat", "dog", "ship")
        assert train.items["label"].to_pylist() == [2, 0, 1, 2]
        assert test.items["label"].to_pylist() == [2, 0]
    (tmp_path / "classes.json").write_text('{"classes": ["ship", "dog", "cat"]}')
    with open_collections(str(tmp_path), split="train") as (train,):
        assert train.items["label"].to_pylist() == [0, 2, 1, 0]


def test_other_columns(tmp_path: Path) -> None:
    """As CIFAR-100 stands on the Hub: other names, two labels; bytes without a struct and without paths."""
    made = pa.table(
        {
            "img": pa.array(images()[:3], pa.large_binary()),
            "coarse_label": pa.array([5, 5, 5]),
            "fine_label": pa.array([2, 1, 0], pa.int8()),
        }
    )
    (tmp_path / "a.parquet").write_bytes(parquet(made))
    got = read_source(tmp_path)["train"]
    assert got == {f"a.parquet/{row:06d}": (2 - row, images()[row]) for row in range(3)}


def test_paths_that_do_not_tell_images_apart(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(parquet(pa.concat_tables([table(range(2)), table(range(2))])))
    with open_collections(str(tmp_path)) as (train,):
        assert train.items["path"].to_pylist() == [f"train.parquet/{row:06d}" for row in range(4)]
        assert train.notes == ("the images' paths are not there or not unique, so file name and row stand for them",)


def test_a_split_without_labels_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(parquet(table(range(4))))
    (tmp_path / "test.parquet").write_bytes(parquet(table(range(4), label=pa.array([-1] * 4))))
    with open_collections(str(tmp_path)) as (train,):
        assert train.notes == ("test has no labels and was left out",)
    with pytest.raises(DataError, match=r"row 0 of row group 0 of .*test.parquet has the label -1"):
        read_source(tmp_path, split="test")


def test_numbers_of_all_splits_are_counted_together(tmp_path: Path) -> None:
    source, dest = tmp_path / "source", str(tmp_path / "set")
    for split, rows in (("train", range(6)), ("val", range(6, 8)), ("test", range(0))):
        plant(source, {f"{split}.parquet": parquet(table(rows, names=False))})
    with open_collections(str(source), split="val") as (val,):
        assert val.num_classes == 3 and val.items["label"].to_pylist() == [0, 1]
        assert pack(val, dest, workers=0).class_counts == (1, 1, 0)
    console = Console(record=True, width=200)
    assert shard([str(source), str(tmp_path / "other"), "--split", "val", "--dry-run"], console) == 0
    assert [cell.strip() for cell in console.export_text().splitlines()[4].split("│")][1:4] == ["val", "2", "3"]


def test_rows_without_bytes_and_files_that_change(tmp_path: Path) -> None:
    made = pa.table(
        {"image": pa.array([{"bytes": None, "path": "a"}, {"bytes": b"x", "path": "b"}], STRUCT), "label": [0, 1]}
    )
    (tmp_path / "a.parquet").write_bytes(parquet(made))
    with open_collections(str(tmp_path)) as (train,):
        assert list(train.read(train.items)) == [BadItem("its row has no bytes"), b"x"]
        size = (tmp_path / "a.parquet").stat().st_size
        (tmp_path / "a.parquet").write_bytes(b"PAR1")
        reason = f"{tmp_path / 'a.parquet'} no longer reads: has 4 bytes instead of {size}: cut off or changed"
        assert list(train.read(train.items)) == [BadItem(reason)] * 2
        (tmp_path / "a.parquet").write_bytes(bytes(size))
        assert all(isinstance(got, BadItem) for got in train.read(train.items))


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"train-00001-of-00003.parquet": parquet(table(range(2)))}, "2 of 3 files of 'train' are missing"),
        ({"a.parquet": parquet(table(range(2)))[:-5]}, "a.parquet: does not read"),
        ({"a.parquet": b""}, "a.parquet: does not read"),
        ({"a.parquet": parquet(table(range(2)).drop_columns("label"))}, "no column holds class numbers or names"),
        ({"a.parquet": parquet(table(range(2)).drop_columns("image"))}, "no column holds bytes of a JPEG or PNG"),
        (
            {"a.parquet": parquet(table(range(2)).rename_columns(["image", "x"]).append_column("y", pa.array([1, 2])))},
            "several columns could be the label: x, y; it has image (struct<bytes: binary, path: string>), x (int64)",
        ),
        ({"a.parquet": parquet(table(range(2), label=pa.array([0, None])))}, "a.parquet: row 1 has no label"),
        ({"a.parquet": parquet(table(range(2), label=pa.array([0, 3])))}, "has the label 3, but labels are 0..2"),
        (
            {"a.parquet": parquet(table(range(2))), "b.parquet": parquet(table(range(2)).select(["label"]))},
            "b.parquet: no column holds bytes",
        ),
        (
            {
                "a.parquet": parquet(table(range(2))),
                "b.parquet": parquet(table(range(2), label=pa.array(["cat", "dog"]))),
            },
            "b.parquet: its columns are of another kind than those of a.parquet",
        ),
        ({"a.parquet": parquet(table(range(0)))}, "split 'train' holds no images"),
        ({"a.parquet": parquet(table(range(2), label=pa.array([-1, -1])))}, "no row of it has a label"),
    ],
)
def test_what_cannot_be_used(tmp_path: Path, files: dict[str, bytes], says: str) -> None:
    plant(tmp_path, files)
    with pytest.raises(DataError) as caught:
        read_source(tmp_path)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
