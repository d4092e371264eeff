"""`verify` of sets that `kdray shard` did not pack."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from kdray.data.layout import ShardColumns
from kdray.data.pack.verify import verify
from tests.data.pack.damage import told
from tests.data.pack.pictures import picture
from tests.data.shard_sets import parquet, some, write


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
