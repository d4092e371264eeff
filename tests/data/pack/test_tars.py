"""Tars with class folders inside: every dialect of tar, compressed and not, splits, damage, S3."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdray.data.pack.collection import BadItem, open_collections
from kdray.data.pack.tarindex import Piece, index_tar
from kdray.errors import DataError, StoreError
from tests.conftest import S3
from tests.data.pack.archives import Tree, expected, flowers, images, plant, read_all, read_source, tar


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_the_index_is_what_tarfile_reads(tmp_path: Path, form: int) -> None:
    long = 40 if form == tarfile.USTAR_FORMAT else 90
    tree = {f"{'folder' * 8}/{'ö' * long}{k}.jpg": os.urandom(500 * k) for k in range(8)} | {"empty": b"", "./a": b"x"}
    path = tmp_path / "x.tar"
    path.write_bytes(tar(tree, form))
    index = index_tar(Piece(str(path), 0, path.stat().st_size))
    with tarfile.open(path) as archive:
        members = archive.getmembers()
    assert index.names.to_pylist() == [member.name.removeprefix("./") for member in members]
    assert index.offset.tolist() == [member.offset_data for member in members]
    assert index.size.tolist() == [member.size for member in members]


NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/."), min_size=1, max_size=120)


@settings(max_examples=60)
@given(
    tree=st.dictionaries(st.lists(NAMES, min_size=1, max_size=3).map("/".join), st.binary(max_size=1500), max_size=6),
    form=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    cut=st.floats(0, 1, exclude_max=True),
)
def test_any_names_and_any_cut(tree: Tree, form: int, cut: float) -> None:
    """Any tar is read as tarfile reads it; cut off anywhere before its end mark, it is refused."""
    data = tar(tree, form)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "x.tar")
        Path(path).write_bytes(data)
        index = index_tar(Piece(path, 0, len(data)))
        assert index.names.to_pylist() == list(tree)
        places = zip(index.offset.tolist(), index.size.tolist(), strict=True)
        assert [data[offset : offset + size] for offset, size in places] == list(tree.values())
        mark = int(index.offset[-1] + -(-index.size[-1] // 512) * 512) if tree else 0
        shorter = int(cut * mark) if tree else 0
        os.truncate(path, shorter)
        with pytest.raises(DataError):
            index_tar(Piece(path, 0, shorter))


def test_folders_and_links_in_a_tar(tmp_path: Path) -> None:
    for name, data in flowers().items():
        plant(tmp_path / "set", {name: data})
    os.symlink("0.jpg", tmp_path / "set" / "lily" / "link.jpg")
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        archive.add(tmp_path / "set", "set")
    with open_collections(str(tmp_path / "set.tar")) as (collection,):
        assert (collection.kind, collection.split, collection.here) == ("tar", "train", False)
        assert read_all(collection) == expected(flowers())
        assert collection.notes == ("1 links in the archives were left out",)


@pytest.mark.parametrize(
    ("ending", "pack"),
    [(".tar.gz", gzip.compress), (".tgz", gzip.compress), (".tar.bz2", bz2.compress), (".tar.xz", lzma.compress)],
)
def test_compressed_tars_are_unpacked_into_scratch(tmp_path: Path, ending: str, pack: object) -> None:
    assert callable(pack)
    (tmp_path / f"set{ending}").write_bytes(pack(tar(flowers())))
    scratch = tmp_path / "scratch"
    with open_collections(str(tmp_path / f"set{ending}"), scratch=str(scratch)) as (collection,):
        assert collection.here
        assert len(list(scratch.iterdir())) == 1
        assert read_all(collection) == expected(flowers())
    assert not list(scratch.iterdir())


def test_no_space_for_unpacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "set.tar.gz").write_bytes(gzip.compress(tar(flowers())))
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    scratch = tmp_path / "scratch"
    with pytest.raises(StoreError, match=r"unpacked, but 0[.]0 MiB are free"):
        read_source(tmp_path / "set.tar.gz", scratch=str(scratch))
    assert not list(scratch.iterdir())


def test_split_folders_in_a_tar(tmp_path: Path) -> None:
    train, val = flowers(("rose", "aster")), flowers(("lily", "rose"), each=1)
    tree = {f"top/train/{path}": data for path, data in train.items()} | {"top/readme.txt": b"x"}
    tree |= {f"top/val/{path}": data for path, data in val.items()}
    (tmp_path / "set.tar").write_bytes(tar(tree))
    assert read_source(tmp_path / "set.tar") == {"train": expected(train), "val": expected(val)}
    assert read_source(tmp_path / "set.tar", split="val") == {"val": expected(val)}


def test_several_tars_in_a_folder(tmp_path: Path) -> None:
    tree = flowers(each=4)
    paths = sorted(tree)
    for number in range(3):
        part = {path: tree[path] for path in paths[number::3]}
        (tmp_path / f"part-{number}.tar").write_bytes(tar(part))
    assert read_source(tmp_path) == {"train": expected(tree)}
    assert read_source(tmp_path / "part-*.tar") == {"train": expected(tree)}
    assert len(read_source(tmp_path / "part-{0..1}.tar")["train"]) == 8


def test_tars_named_by_split(tmp_path: Path) -> None:
    train, val = flowers(("rose", "aster")), flowers(("lily", "rose"), each=1)
    (tmp_path / "flowers-train.tar").write_bytes(tar(train))
    (tmp_path / "flowers-val.tar").write_bytes(tar(val))
    assert read_source(tmp_path) == {"train": expected(train), "val": expected(val)}
    assert read_source(tmp_path, split="val") == {"val": expected(val)}


def test_order_of_reading_is_the_callers(tmp_path: Path) -> None:
    tree = {f"c{k % 5}/{k}.jpg": bytes([k % 256]) * (1 + 7 * k) for k in range(500)}
    (tmp_path / "set.tar").write_bytes(tar(tree))
    with open_collections(str(tmp_path / "set.tar")) as (collection,):
        rows = [(k * 173) % 500 for k in range(500)] + [3, 3, 499]
        items = collection.items.take(rows)
        paths = items["path"].to_pylist()
        assert list(collection.read(items)) == [tree[path] for path in paths]
        assert list(collection.read(items.slice(0, 0))) == []
        several = collection.read(items)
        assert next(several) == tree[paths[0]]
        several.close()  # a caller may stop early


def test_a_tar_that_changes_after_the_listing(tmp_path: Path) -> None:
    path = tmp_path / "set.tar"
    path.write_bytes(tar(flowers()))
    with open_collections(str(path)) as (collection,):
        whole = read_all(collection)
        last = collection.items["offset"][-1].as_py()
        path.write_bytes(tar(flowers())[: last + 10])
        got = read_all(collection)
        assert got.pop("rose/2.jpg")[1] == BadItem("its file has become shorter since it was listed")
        assert got.items() < whole.items()
        path.unlink()
        assert read_all(collection)["lily/0.jpg"][1] == BadItem(f"{path} is missing")


def test_on_s3(s3: S3) -> None:
    train, val = flowers(), flowers(("aster", "rose"), each=1)
    val["aster/big.png"] = os.urandom(200_000)  # beyond the first block that is read
    val["aster/last.png"] = b"small"
    plant(s3.uri("tars/set"), {"a-train-0.tar": tar(train), "a-val.tar.gz": gzip.compress(tar(val))})
    assert read_source(s3.uri("tars/set")) == {"train": expected(train), "val": expected(val)}
    assert read_source(s3.uri("tars/set/a-train-*.tar")) == {"train": expected(train)}
    plant(s3.uri("tars"), {"plain.tar": tar(val)})
    assert read_source(s3.uri("tars/plain.tar")) == {"train": expected(val, ("aster", "rose"))}
    with open_collections(s3.uri("tars/plain.tar")) as (collection,):
        plant(s3.uri("tars"), {"plain.tar": tar(val)[:100_000]})
        got = read_all(collection)
    assert got["aster/0.jpg"][1] == val["aster/0.jpg"]
    assert got["aster/last.png"][1] == BadItem("its file has become shorter since it was listed")


def _truncated(count: int) -> bytes:
    return tar(flowers())[:count]


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("x.tar", b"no tar at all" * 100, "is no tar archive"),
        ("x.tar", b"", "has no end mark"),
        ("x.tar", tar(flowers())[:2048], "has no end mark"),
        ("x.tar", tar(flowers())[:1000], "is cut off inside 'aster/0.jpg'"),
        ("x.tar", tar(flowers())[:300], "is cut off inside a header"),
        ("x.tar", tar(flowers())[: 512 * 10] + b"\1" * 10240, "is damaged: no header at byte"),
        ("x.tar.gz", gzip.compress(tar(flowers()))[:-500], "does not unpack: it is cut off or damaged"),
        ("x.tar.xz", lzma.compress(tar(flowers()))[:-500], "does not unpack: it is cut off or damaged"),
        ("x.tar", tar({"a.txt": b"x"}), "holds no images"),
        ("x.tar", tar({"1.jpg": b"x", "2.jpg": b"y"}), "stands in no class folder, and has no label"),
        ("x.tar", tar({"a/1.jpg": b"x"})[:1024] + tar({"a/1.jpg": b"x"}), "'a/1.jpg' is there twice"),
    ],
)
def test_what_cannot_be_used(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError) as caught:
        read_source(tmp_path / name)
    assert says in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_twice_in_two_tars_names_both(tmp_path: Path) -> None:
    for name in ("a.tar", "b.tar"):
        (tmp_path / name).write_bytes(tar(flowers()))
    with pytest.raises(DataError, match=r"'aster/0.jpg' is there twice: .*a.tar at byte .* and .*b.tar at byte"):
        read_source(tmp_path)


def test_sparse_members_are_refused(tmp_path: Path) -> None:
    data = bytearray(tar({"a/1.jpg": b"x"}, tarfile.GNU_FORMAT))
    data[156:157] = b"S"
    header = bytes(data[:148]) + b" " * 8 + bytes(data[156:512])
    data[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(DataError, match="stored sparsely"):
        read_source(tmp_path / "x.tar")


def test_a_large_size_is_stored_in_binary(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a/1.jpg")
    info.size = 9 << 30
    header = info.tobuf(tarfile.GNU_FORMAT)
    path = tmp_path / "x.tar"
    with open(path, "wb") as file:  # a hole of 9 GiB
        file.write(header)
        file.seek((9 << 30) + 512)
        file.write(io.BytesIO(b"\0" * 1024).getvalue())
    with open_collections(str(path)) as (collection,):
        assert collection.items["bytes"].to_pylist() == [9 << 30]
        (got,) = collection.read(collection.items)
        assert got == BadItem(f"{9 << 30} bytes, more than {256 << 20}: no image")


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("part-{0..4}.tar", "2 files are missing: part-3.tar, part-4.tar"),
        ("no-*.tar", "no file matches; the folder has part-0.tar, part-1.tar, part-2.tar"),
        ("part-{0.tar", "spell out no list of names"),
    ],
)
def test_patterns_that_miss(tmp_path: Path, pattern: str, says: str) -> None:
    for number in range(3):
        (tmp_path / f"part-{number}.tar").write_bytes(tar({f"a/{number}.jpg": images()[0]}))
    with pytest.raises(DataError) as caught:
        read_source(tmp_path / pattern)
    assert says in str(caught.value)
