"""Shards that are damaged or do not fit end in one line that names the key, the file and the row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdray.data.digits import digit_samples
from kdray.data.writer import Sample, write_shards
from tests.pipeline.refused import refused
from tests.tiny import Lab

pytestmark = pytest.mark.usefixtures("nothing_runs")


def own_data(lab: Lab) -> dict[str, Any]:
    """Digits as shards of one's own in lab.folder / set."""
    for split in ("train", "test"):
        write_shards(list(digit_samples(split))[:96], str(lab.folder / "set" / split), split=split)
    places = {split: str(lab.folder / "set" / split) for split in ("train", "test")}
    return {"data": {"source": None, "root": None, **places}}


def shard(lab: Lab, split: str = "train") -> Path:
    (path,) = (lab.folder / "set" / split).glob("*.parquet")
    return path


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_truncated_shard(lab: Lab, split: str) -> None:
    data = own_data(lab)
    path = shard(lab, split)
    whole = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-99])
    said = refused(lab, data)
    assert f"data.{split} {path}: has {whole - 99} bytes instead of {whole}" in said and "Copy the set again" in said
    (path.parent / "manifest.json").unlink()
    assert f"data.{split} {path}: is cut off, or no Parquet file. Copy or write it again" in refused(lab, data)


def test_a_missing_shard(lab: Lab) -> None:
    data = own_data(lab)
    path = shard(lab)
    path.unlink()
    assert f"data.train {path.parent}: holds no *.parquet file" in refused(lab, data)


def relabel(path: Path, label: int | None) -> None:
    table = pq.read_table(path)
    labels = table.column("label").to_pylist()
    labels[3] = label
    (path.parent / "manifest.json").unlink()
    kept = {name: table.column(name) for name in table.column_names} | {"label": pa.array(labels, pa.int64())}
    pq.write_table(pa.table(kept), path)


def test_a_label_out_of_range(lab: Lab) -> None:
    data = own_data(lab)
    relabel(shard(lab), 10)
    relabel(shard(lab, "test"), 0)
    said = refused(lab, {"data": data["data"] | {"classes": 10}})
    assert "data.train " in said and "a label is 10, but 10 classes are expected, so labels are 0..9" in said


def test_a_label_that_is_missing(lab: Lab) -> None:
    data = own_data(lab)
    relabel(shard(lab), None)
    said = refused(lab, {"data": data["data"] | {"classes": 10}})
    assert f"data.train {shard(lab)}: row 3 has no value in column 'label'" in said


def test_train_and_test_of_different_sets(lab: Lab) -> None:
    data = own_data(lab)
    few = lab.folder / "few"
    write_shards([Sample(s.image, s.label % 3, s.id) for s in list(digit_samples("test"))[:64]], str(few))
    said = refused(lab, {"data": data["data"] | {"test": str(few)}})
    assert f"data.test {few}: the data has 3 classes, but 10 are expected" in said


def test_a_missing_column(lab: Lab) -> None:
    data = own_data(lab)
    said = refused(lab, {"data": data["data"] | {"columns": {"label": "lable"}}})
    assert "data.train " in said and "has no column 'lable' as label" in said and "data.columns.label" in said
