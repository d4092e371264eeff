"""What is seen in a place, what is said where nothing or several things are, and what every kind must keep to."""

from __future__ import annotations

import gzip
import os
import pickle
from pathlib import Path

import pytest

from kdray.data.pack.collection import BadItem, open_collections
from kdray.data.pack.detect import KINDS
from kdray.data.pack.patterns import expand
from kdray.errors import DataError
from tests.data.pack import test_ilsvrc, test_official, test_parquet, test_webdataset
from tests.data.pack.archives import Tree, expected, flowers, images, plant, read_all, read_source, tar

SOURCES: dict[str, tuple[str, Tree]] = {
    "imagefolder": ("", flowers()),
    "tar": ("flowers.tar", {"flowers.tar": tar(flowers())}),
    "webdataset": ("", {"a-000.tar": tar(test_webdataset.samples([0, 1]))}),
    "ilsvrc2012": ("", test_ilsvrc.official()),
    "cifar10": ("", {"cifar-10-python.tar.gz": gzip.compress(tar(test_official.cifar10()))}),
    "cifar100": ("", test_official.cifar100_binary()),
    "stl10": ("", {"stl10_binary.tar.gz": gzip.compress(tar(test_official.stl10()))}),
    "tiny-imagenet": ("tiny-imagenet-200.zip", {"tiny-imagenet-200.zip": test_official.zipped(test_official.tiny())}),
    "parquet": ("", test_parquet.hub()),
}


def test_every_kind_is_tried_here() -> None:
    assert set(SOURCES) == set(KINDS)


@pytest.mark.parametrize("kind", SOURCES)
def test_every_kind(tmp_path: Path, kind: str) -> None:
    """Seen by itself or forced; listed the same twice; a pickled copy reads the same, in any order."""
    name, tree = SOURCES[kind]
    uri = os.path.join(plant(tmp_path / "source", tree), name)
    with open_collections(uri) as first, open_collections(f"file://{uri}", kind=kind) as second:
        assert [one.fingerprint for one in first] == [one.fingerprint for one in second]
        assert len({one.fingerprint for one in first}) == len(first)
        for one in first:
            assert one.kind == kind
            assert one.has_splits == (len(first) > 1)
            assert one.items.column_names[:3] == ["path", "label", "bytes"]
            whole = list(one.read(one.items))
            assert not any(isinstance(got, BadItem) for got in whole)
            copy = pickle.loads(pickle.dumps(one))
            assert len(pickle.dumps(one)) < 5000
            backwards = one.items.take(list(range(one.items.num_rows))[::-1])
            assert list(copy.read(backwards)) == whole[::-1]
            assert (copy.split, copy.class_names, copy.here) == (one.split, one.class_names, one.here)


def test_temporary_files_go_with_an_error(tmp_path: Path) -> None:
    plant(tmp_path / "source", SOURCES["cifar10"][1])
    scratch = tmp_path / "scratch"
    with (
        pytest.raises(RuntimeError, match="stop"),
        open_collections(str(tmp_path / "source"), scratch=str(scratch)) as (train, _),
    ):
        assert train.here
        assert list(scratch.iterdir())
        raise RuntimeError("stop")
    assert not list(scratch.iterdir())


def test_several_kinds_in_one_place(tmp_path: Path) -> None:
    plant(tmp_path, flowers() | {"x.tar": tar(flowers())})
    with pytest.raises(DataError) as caught:
        read_source(tmp_path)
    assert "holds 1 tar archives (tar) and class folders such as aster/ (imagefolder)" in str(caught.value)
    assert read_source(tmp_path, kind="imagefolder") == {"train": expected(flowers())}
    assert read_source(tmp_path / "x.tar") == {"train": expected(flowers())}


def test_nothing_that_is_known_names_all_that_is(tmp_path: Path) -> None:
    plant(tmp_path, {"notes.txt": b"x", "more/data.bin": b"x"})
    with pytest.raises(DataError) as caught:
        read_source(tmp_path)
    said = str(caught.value)
    assert "it has more/, notes.txt" in said
    assert all(kind in said for kind in KINDS)
    (tmp_path / "a.tar.gz.part").write_bytes(b"x")
    with pytest.raises(DataError, match="a single file"):
        read_source(tmp_path / "a.tar.gz.part")


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_that_is_not_there(tmp_path: Path, kind: str) -> None:
    plant(tmp_path, {"notes.txt": b"x"})
    with pytest.raises(DataError) as caught:
        read_source(tmp_path, kind=kind)
    assert "holds" in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a-{08..11}.tar", ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]),
        ("{train,val}-{0..1}", ["train-0", "train-1", "val-0", "val-1"]),
        ("plain.tar", ["plain.tar"]),
        ("{9..10}", ["9", "10"]),
    ],
)
def test_braces(text: str, names: list[str]) -> None:
    assert list(expand(text, text)) == names


def test_a_pattern_of_folders(tmp_path: Path) -> None:
    plant(tmp_path, {"a/x.tar": tar(flowers())})
    with pytest.raises(DataError, match="has a pattern in the name of a folder"):
        read_source(tmp_path / "{a,b}" / "x.tar")
    plant(tmp_path, {"a{1}/x*.tar": tar(flowers())})
    assert read_source(tmp_path / "a{1}" / "x*.tar") == {"train": expected(flowers())}


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/lily"
    os.mkdir(folder)
    with open(folder + b"/caf\xe9.jpg", "wb") as file:
        file.write(images()[0])
    with pytest.raises(DataError, match="has a name that is no UTF-8 text"):
        read_source(tmp_path)


def test_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path / "set", flowers())
    monkeypatch.chdir(tmp_path)
    with open_collections("set/") as (collection,):
        monkeypatch.chdir("/")  # a task runs elsewhere
        assert read_all(collection) == expected(flowers())
