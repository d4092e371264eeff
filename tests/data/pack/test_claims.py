"""`verify` holds all that a manifest says of a set against itself and against what was read."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from kdray.data.manifest_json import MANIFEST
from kdray.data.pack.execute import pack
from kdray.data.pack.options import PackOptions
from kdray.data.pack.verify import verify
from tests.data.pack.damage import ROWS, change, shard, told
from tests.data.pack.pictures import collection, write_pictures


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
