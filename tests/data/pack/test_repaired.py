"""A packing that goes on takes up files that were bad and are not any more, and only those are read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdray.data.pack.destination import PARTS, Destination
from kdray.data.pack.execute import pack, plan_packing
from kdray.data.pack.options import PackOptions
from kdray.errors import DataError
from tests.data.pack.pictures import collection, contents, write_pictures
from tests.data.pack.test_resume import Died

OPTIONS = PackOptions(shard_bytes=20_000, max_bad=2)
BAD = ("0011-2.jpeg", "0042-0.jpeg")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "source", 90)


@pytest.fixture
def good(source: Path, tmp_path: Path) -> dict[str, bytes]:
    """What is packed of the source in its good days."""
    pack(collection(source), str(tmp_path / "good"), OPTIONS, workers=0)
    return contents(tmp_path / "good")


def spoil(source: Path, name: str) -> bytes:
    """Damage a file, in its size; returns what it was."""
    data = (source / name).read_bytes()
    (source / name).write_bytes(bytes(len(data)))
    return data


def stopped(source: Path, dest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All shards are packed, and the process dies before the manifest."""

    def dies(*_: object) -> None:
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(Destination, "finish", dies)
        with pytest.raises(Died):
            pack(collection(source), str(dest), OPTIONS, workers=0)


@pytest.mark.parametrize("how", ["damaged", "missing"])
def test_a_repaired_file_is_taken_up(
    source: Path, tmp_path: Path, good: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    dest, listed = tmp_path / "set", collection(source)
    data = spoil(source, BAD[0])
    if how == "missing":
        monkeypatch.setattr("tests.data.pack.test_repaired.collection", lambda _: listed)
        (source / BAD[0]).unlink()
    stopped(source, dest, monkeypatch)
    times = {path.name: path.stat().st_mtime_ns for path in dest.glob("*.parquet")}
    (source / BAD[0]).write_bytes(data)
    _, there = plan_packing(listed, str(dest), OPTIONS)
    assert there == f"begun: {len(times) - 1} shards are there"
    manifest = pack(listed, str(dest), OPTIONS, workers=0)
    assert not manifest.bad and contents(dest) == good
    assert sum((dest / name).stat().st_mtime_ns != time for name, time in times.items()) == 1


def test_what_is_still_bad_is_not_packed_again(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dest = tmp_path / "set"
    for name in BAD:
        spoil(source, name)
    stopped(source, dest, monkeypatch)
    times = {path.name: path.stat().st_mtime_ns for path in dest.glob("*.parquet")}
    manifest = pack(collection(source), str(dest), OPTIONS, workers=0)
    assert sorted(bad.path for bad in manifest.bad) == list(BAD)
    assert {path.name: path.stat().st_mtime_ns for path in dest.glob("*.parquet")} == times


def test_the_limit_counts_what_is_bad_now(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dest = tmp_path / "set"
    was = [spoil(source, name) for name in BAD]
    stopped(source, dest, monkeypatch)
    one = PackOptions(shard_bytes=20_000, max_bad=1)
    with pytest.raises(DataError, match="2 of 90 images"):
        pack(collection(source), str(dest), one, workers=0)
    (source / BAD[1]).write_bytes(was[1])
    manifest = pack(collection(source), str(dest), one, workers=0)
    assert [bad.path for bad in manifest.bad] == [BAD[0]] and manifest.num_samples == 89


def test_killed_between_a_rewritten_shard_and_its_record(
    source: Path, tmp_path: Path, good: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    dest = tmp_path / "set"
    data = spoil(source, BAD[0])
    stopped(source, dest, monkeypatch)
    records = {path.name for path in (dest / PARTS).glob("train-*.json")}
    (source / BAD[0]).write_bytes(data)

    def dies(*_: object) -> None:
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr("kdray.data.pack.parts.Part.to_json", dies)
        with pytest.raises(Died):
            pack(collection(source), str(dest), OPTIONS, workers=0)
    assert len(records - {path.name for path in (dest / PARTS).glob("train-*.json")}) == 1
    pack(collection(source), str(dest), OPTIONS, workers=0)
    assert contents(dest) == good


def test_another_packer_finds_the_file_repaired(
    source: Path, tmp_path: Path, good: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    dest, listed = tmp_path / "set", collection(source)
    data = spoil(source, BAD[0])
    plain = Destination.finish

    def later(self: Destination, *arguments: Any) -> None:
        monkeypatch.setattr(Destination, "finish", plain)
        (source / BAD[0]).write_bytes(data)
        pack(listed, str(dest), OPTIONS, workers=0)
        plain(self, *arguments)

    monkeypatch.setattr(Destination, "finish", later)
    assert not pack(listed, str(dest), OPTIONS, workers=0).bad
    assert contents(dest) == good
