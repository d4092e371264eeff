"""Packing: what comes out is what went in, checked, described, and readable by others."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from kdray.data.decode import decode
from kdray.data.manifest import read_manifest
from kdray.data.manifest_json import MANIFEST
from kdray.data.pack.execute import pack
from kdray.data.pack.options import PackOptions
from kdray.data.pack.reencode import encode
from kdray.data.pack.rows_file import ROWS_FILE
from kdray.data.reader import read_labels, read_rows
from kdray.errors import DataError, StoreError
from kdray.store import Store
from tests.conftest import S3
from tests.data.pack.pictures import NAMES, collection, contents, picture, write_pictures
from tests.data.photos import photos

SMALL = PackOptions(shard_bytes=60_000, row_group_rows=16)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures") / "source", 150)


def stored(uri: str) -> dict[str, bytes]:
    """The images of a packed set by their ids."""
    rows = {}
    for name in Store(uri).list():
        if name.endswith(".parquet"):
            for row in pq.read_table(Path(uri) / name).to_pylist():
                assert row["image"]["path"] == row["id"] and row["id"] not in rows
                rows[row["id"]] = row["image"]["bytes"]
    return rows


class TestOriginalBytes:
    def test_every_file_is_in_it_as_it_was(self, source: Path, tmp_path: Path) -> None:
        manifest = pack(collection(source), str(tmp_path / "set"), SMALL, workers=0)
        assert stored(manifest.uri) == contents(source)
        assert read_manifest(manifest.uri) == manifest
        assert sorted(contents(tmp_path / "set")) == sorted(
            [MANIFEST, ROWS_FILE, *(shard.name for shard in manifest.shards)]
        )
        assert manifest.num_samples == 150 and len(manifest.shards) > 3 and manifest.class_counts == (50, 50, 50)
        labels, ids = read_labels(manifest)
        assert np.bincount(labels).tolist() == [50, 50, 50] and len(set(ids.tolist())) == 150
        rows = read_rows(manifest, np.arange(20))
        assert all(image in contents(source).values() for image in rows.images)

    def test_the_layout(self, source: Path, tmp_path: Path) -> None:
        manifest = pack(collection(source, "val"), str(tmp_path / "set"), SMALL, workers=0)
        shard = manifest.shards[0]
        assert shard.name == f"val-00000-of-{len(manifest.shards):05d}.parquet"
        file = pq.ParquetFile(tmp_path / "set" / shard.name)
        assert set(shard.row_groups[:-1]) == {16}
        assert {file.metadata.row_group(0).column(i).compression for i in range(4)} == {"UNCOMPRESSED"}
        features = json.loads(file.schema_arrow.metadata[b"huggingface"])["info"]["features"]
        assert features == {
            "image": {"_type": "Image"},
            "label": {"names": list(NAMES), "_type": "ClassLabel"},
            "id": {"dtype": "string", "_type": "Value"},
        }
        # Without the manifest the footers tell the same.
        (tmp_path / "set" / MANIFEST).unlink()
        foreign = read_manifest(manifest.uri)
        assert foreign.shards == manifest.shards and foreign.class_names == NAMES

    def test_classes_without_names(self, source: Path, tmp_path: Path) -> None:
        manifest = pack(collection(source, names=None), str(tmp_path / "set"), SMALL, workers=0)
        assert (manifest.num_classes, manifest.class_names) == (3, None)

    def test_what_the_manifest_tells(self, source: Path, tmp_path: Path) -> None:
        options = PackOptions(shard_bytes=60_000, mean_std=True)
        manifest = pack(collection(source), str(tmp_path / "set"), options, workers=0)
        images = [decode(data) for data in contents(source).values()]
        heights, widths = ([image.shape[axis] for image in images] for axis in (0, 1))
        assert manifest.sizes is not None
        assert manifest.sizes.height == (min(heights), round(float(np.mean(heights)), 3), max(heights))
        assert manifest.sizes.width == (min(widths), round(float(np.mean(widths)), 3), max(widths))
        short = sorted(min(pair) for pair in zip(heights, widths, strict=True))
        assert dict(manifest.sizes.short_side)[0.5] == short[74] and dict(manifest.sizes.short_side)[0.99] == short[148]
        pixels = np.concatenate([image.reshape(-1, 3) for image in images]) / 255.0
        np.testing.assert_allclose(manifest.mean or (), pixels.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(manifest.std or (), pixels.std(axis=0), rtol=1e-10)
        assert manifest.packing is not None
        assert (manifest.packing.kind, manifest.packing.order) == ("imagefolder", "mixed")
        assert manifest.packing.source_bytes == manifest.image_bytes == sum(map(len, contents(source).values()))
        assert str(source) not in json.dumps(json.loads((tmp_path / "set" / MANIFEST).read_text()))

    def test_an_older_manifest_still_opens(self, source: Path, tmp_path: Path) -> None:
        manifest = pack(collection(source), str(tmp_path / "set"), SMALL, workers=0)
        path = tmp_path / "set" / MANIFEST
        said = json.loads(path.read_text())
        for key in ("image_sizes", "packing", "bad_files"):
            del said[key]
        for shard in said["shards"]:
            del shard["digests"]
        path.write_text(json.dumps(said))
        older = read_manifest(manifest.uri)
        assert older.shards == manifest.shards and older.sizes is None and older.packing is None


class TestBadImages:
    @pytest.fixture
    def spoiled(self, tmp_path: Path) -> Path:
        folder = write_pictures(tmp_path / "source", 60)
        whole = (folder / "0007-1.jpeg").read_bytes()
        (folder / "0007-1.jpeg").write_bytes(whole[: len(whole) // 2])
        (folder / "0010-1.jpeg").write_bytes(b"no image")
        return folder

    def test_they_are_left_out_and_listed(self, spoiled: Path, tmp_path: Path) -> None:
        listed = collection(spoiled)
        (spoiled / "0020-2.jpeg").unlink()
        manifest = pack(listed, str(tmp_path / "set"), PackOptions(shard_bytes=30_000, max_bad=3), workers=0)
        reasons = {bad.path: bad.reason for bad in manifest.bad}
        assert set(reasons) == {"0007-1.jpeg", "0010-1.jpeg", "0020-2.jpeg"}
        assert "not an image" in reasons["0010-1.jpeg"] and reasons["0020-2.jpeg"] == "is gone"
        assert manifest.num_samples == 57 and not set(stored(manifest.uri)) & set(reasons)
        assert read_manifest(manifest.uri).bad == manifest.bad

    @pytest.mark.parametrize("limit", [0.001, 1, 0])
    def test_too_many_stop_it_and_what_is_done_stays(self, spoiled: Path, tmp_path: Path, limit: float) -> None:
        with pytest.raises(DataError) as error:
            pack(collection(spoiled), str(tmp_path / "set"), PackOptions(shard_bytes=10_000, max_bad=limit), workers=0)
        text = str(error.value)
        assert "of 60 images" in text and "--max-bad" in text and "\n" not in text
        assert "0007-1.jpeg" in text or "0010-1.jpeg (not an image" in text
        with pytest.raises(DataError, match="cut off"):
            read_manifest(str(tmp_path / "set"))
        manifest = pack(
            collection(spoiled), str(tmp_path / "set"), PackOptions(shard_bytes=10_000, max_bad=2), workers=0
        )
        other = pack(
            collection(spoiled), str(tmp_path / "other"), PackOptions(shard_bytes=10_000, max_bad=9), workers=0
        )
        assert len(manifest.bad) == 2 and manifest.fingerprint == other.fingerprint
        assert contents(tmp_path / "set") == contents(tmp_path / "other")

    def test_a_shard_of_bad_images_alone_is_empty(self, tmp_path: Path) -> None:
        folder = write_pictures(tmp_path / "source", 9)
        (folder / "0004-1.jpeg").write_bytes(b"no image" * 1000)  # so large that it fills one
        manifest = pack(collection(folder), str(tmp_path / "set"), PackOptions(shard_bytes=1, max_bad=1), workers=0)
        assert 0 in [shard.rows for shard in manifest.shards]
        assert len(read_labels(read_manifest(manifest.uri))[0]) == 8

    def test_nothing_but_bad_images(self, tmp_path: Path) -> None:
        folder = tmp_path / "source"
        folder.mkdir()
        (folder / "a-0.jpeg").write_bytes(b"no image")
        with pytest.raises(DataError, match="no image of it can be used"):
            pack(collection(folder), str(tmp_path / "set"), PackOptions(max_bad=1.0), workers=0)


class TestReencoding:
    def test_larger_images_become_smaller_jpegs(self, tmp_path: Path) -> None:
        folder = tmp_path / "source"
        folder.mkdir()
        for number, data in enumerate(photos(6)):
            (folder / f"{number}-0.jpeg").write_bytes(data)
        manifest = pack(collection(folder), str(tmp_path / "set"), PackOptions(short_side=256, quality=90), workers=0)
        for key, data in stored(manifest.uri).items():
            image = Image.open(io.BytesIO(data))
            assert (image.format, image.size, image.mode) == ("JPEG", (341, 256), "RGB")
            assert image.layer[0][1:3] == (2, 2)  # type: ignore[attr-defined]  # 4:2:0
            original = Image.open(folder / key).convert("RGB").resize((341, 256), Image.Resampling.BILINEAR)
            loss = np.abs(np.asarray(original, np.int16) - np.asarray(image, np.int16)).mean()
            assert loss < 6, loss
        assert manifest.packing is not None and manifest.packing.reencoded == 6
        assert (manifest.packing.short_side, manifest.packing.quality) == (256, 90)
        assert manifest.image_bytes < manifest.packing.source_bytes

    def test_the_pixels_are_those_of_torchvision(self) -> None:
        import torch
        from torchvision.transforms.v2.functional import resize

        from kdray.data.pack.reencode import target_size

        pixels = decode(photos(1)[0])
        for height, width in ((375, 500), (500, 375), (300, 300), (257, 999)):
            image = np.ascontiguousarray(np.resize(pixels, (height, width, 3)))
            theirs = resize(torch.from_numpy(image).permute(2, 0, 1), [256], antialias=True)
            assert target_size(height, width, 256) == tuple(theirs.shape[1:])
            ours = Image.fromarray(image).resize(theirs.shape[:0:-1], Image.Resampling.BILINEAR)
            difference = np.abs(np.asarray(ours, np.int16) - theirs.permute(1, 2, 0).numpy().astype(np.int16))
            assert difference.max() <= 1

    @pytest.mark.parametrize(("small", "becomes"), [("keep", "PNG"), ("jpeg", "JPEG")])
    def test_small_images(self, tmp_path: Path, small: str, becomes: str) -> None:
        folder = tmp_path / "source"
        folder.mkdir()
        rng = np.random.default_rng(0)
        (folder / "png-0.png").write_bytes(picture(rng, 30, 40, "PNG"))
        (folder / "jpeg-0.jpeg").write_bytes(picture(rng, 30, 40))
        (folder / "large-0.png").write_bytes(picture(rng, 300, 400, "PNG"))
        options = PackOptions(short_side=30, small=small)  # type: ignore[arg-type]
        rows = stored(pack(collection(folder), str(tmp_path / "set"), options, workers=0).uri)
        assert rows["jpeg-0.jpeg"] == (folder / "jpeg-0.jpeg").read_bytes()
        assert Image.open(io.BytesIO(rows["png-0.png"])).format == becomes
        assert (rows["png-0.png"] == (folder / "png-0.png").read_bytes()) == (small == "keep")
        large = Image.open(io.BytesIO(rows["large-0.png"]))
        assert (large.format, large.size) == ("JPEG", (40, 30))

    def test_shards_are_planned_by_what_comes_out(self, tmp_path: Path) -> None:
        folder = write_pictures(tmp_path / "source", 60, (100, 101))
        size = sum(map(len, contents(folder).values()))
        whole = pack(collection(folder), str(tmp_path / "whole"), PackOptions(shard_bytes=size // 10), workers=0)
        options = PackOptions(short_side=32, shard_bytes=size // 10)
        small = pack(collection(folder), str(tmp_path / "small"), options, workers=0)
        assert len(whole.shards) == 11 and len(small.shards) < 5
        assert max(shard.bytes for shard in small.shards) < size // 5

    def test_statistics_are_of_what_is_stored(self, tmp_path: Path) -> None:
        folder = write_pictures(tmp_path / "source", 10, (60, 70))
        manifest = pack(collection(folder), str(tmp_path / "set"), PackOptions(short_side=32, mean_std=True), workers=0)
        pixels = np.concatenate([decode(data).reshape(-1, 3) for data in stored(manifest.uri).values()]) / 255.0
        np.testing.assert_allclose(manifest.mean or (), pixels.mean(axis=0), rtol=1e-12)
        assert manifest.sizes is not None and min(manifest.sizes.height[0], manifest.sizes.width[0]) == 32


def test_an_image_that_is_too_long_for_a_jpeg_is_a_bad_one(tmp_path: Path) -> None:
    source = write_pictures(tmp_path / "source", 5)
    rng = np.random.default_rng(0)
    (source / "0001-1.jpeg").write_bytes(picture(rng, 9, 74_000, "PNG"))  # 8 x 65777
    options = PackOptions(short_side=8, max_bad=1)
    manifest = pack(collection(source), str(tmp_path / "set"), options, workers=0)
    assert [bad.path for bad in manifest.bad] == ["0001-1.jpeg"] and manifest.num_samples == 4
    assert manifest.bad[0].reason == "as a JPEG it would have 65777 x 8 pixels, and 65500 a side are the most"
    data = encode(rng.integers(0, 256, (8, 65_500, 3), np.uint8), (8, 65_500), 50)
    assert decode(data).shape == (8, 65_500, 3)


class TestDestination:
    def test_a_packed_set_is_kept(self, source: Path, tmp_path: Path) -> None:
        first = pack(collection(source), str(tmp_path / "set"), SMALL, workers=0)
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "set").iterdir()}
        assert pack(collection(source), str(tmp_path / "set"), SMALL, workers=0) == first
        assert {path: path.stat().st_mtime_ns for path in (tmp_path / "set").iterdir()} == before

    def test_another_set_is_refused_and_fresh_replaces_it(self, source: Path, tmp_path: Path) -> None:
        dest = str(tmp_path / "set")
        pack(collection(source), dest, SMALL, workers=0)
        before = contents(tmp_path / "set")
        other = PackOptions(shard_bytes=40_000)
        with pytest.raises(DataError, match=r"not this source packed with these options.*--fresh"):
            pack(collection(source), dest, other, workers=0)
        with pytest.raises(DataError, match="--fresh"):
            pack(collection(source, names=("a", "b", "c")), dest, SMALL, workers=0)
        assert contents(tmp_path / "set") == before
        (tmp_path / "set" / "README.md").write_text("mine")
        fresh = pack(collection(source), dest, other, workers=0, fresh=True)
        assert read_manifest(dest) == fresh
        assert sorted(contents(tmp_path / "set")) == sorted(
            [MANIFEST, ROWS_FILE, "README.md", *(shard.name for shard in fresh.shards)]
        )

    def test_other_things_are_never_touched(self, source: Path, tmp_path: Path) -> None:
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "thesis.txt").write_text("")
        for fresh in (False, True):
            with pytest.raises(DataError, match=r"holds something else: thesis\.txt"):
                pack(collection(source), str(tmp_path / "full"), SMALL, workers=0, fresh=fresh)
        from tests.data.shard_sets import some, write

        write(some(10), tmp_path / "written")
        with pytest.raises(DataError, match="not packed by `kdray shard`"):
            pack(collection(source), str(tmp_path / "written"), SMALL, workers=0, fresh=True)
        (tmp_path / "file").write_text("")
        with pytest.raises(StoreError):
            pack(collection(source), str(tmp_path / "file"), SMALL, workers=0)

    def test_not_into_the_source(self, source: Path) -> None:
        for dest in (source, source / "packed"):
            with pytest.raises(DataError, match="lies inside the source"):
                pack(collection(source), str(dest), SMALL, workers=0)

    def test_a_full_disk_is_one_line(self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import errno
        import os

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("kdray.data.shard_file.os.fsync", full)
            with pytest.raises(StoreError, match="no space left"):
                pack(collection(source), str(tmp_path / "set"), SMALL, workers=0)
        assert os.path.isdir(tmp_path / "set")

    def test_in_a_bucket(self, source: Path, tmp_path: Path, s3: S3) -> None:
        local = pack(collection(source), str(tmp_path / "set"), SMALL, workers=0)
        remote = pack(collection(source), s3.uri("pack/set"), SMALL, workers=0)
        store = Store(remote.uri)
        assert {name: store.read_bytes(name) for name in store.list()} == contents(tmp_path / "set")
        assert remote.fingerprint == local.fingerprint and read_manifest(remote.uri) == remote
        assert pack(collection(source), s3.uri("pack/set"), SMALL, workers=0) == remote
        with pytest.raises(DataError, match="--fresh"):
            pack(collection(source), s3.uri("pack/set"), PackOptions(), workers=0)
