"""A tree of class folders, with and without splits, local and on S3."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from kdray.data.pack.collection import BadItem, open_collections
from kdray.errors import DataError
from tests.conftest import S3
from tests.data.pack.archives import expected, flowers, images, plant, read_all, read_source


def test_a_tree_without_splits(tmp_path: Path) -> None:
    tree = flowers()
    plant(tmp_path / "set", tree)
    with open_collections(str(tmp_path / "set")) as (collection,):
        assert (collection.kind, collection.split, collection.has_splits) == ("imagefolder", "train", False)
        assert collection.class_names == ("aster", "lily", "rose")
        assert collection.items["path"].to_pylist() == sorted(tree)
        assert collection.items["bytes"].to_pylist() == [len(tree[path]) for path in sorted(tree)]
        assert not collection.here
        assert collection.notes == ()
        assert read_all(collection) == expected(tree)


def test_splits_number_their_classes_together(tmp_path: Path) -> None:
    train, val = flowers(("rose", "aster")), flowers(("lily", "rose"), each=1)
    plant(tmp_path / "train", train)
    plant(tmp_path / "val", val)
    (tmp_path / "val" / "aster").mkdir()
    got = read_source(tmp_path)
    assert got == {"train": expected(train), "val": expected(val)}
    with open_collections(str(tmp_path), split="val") as (collection,):
        assert collection.class_names == ("aster", "lily", "rose")
        assert "1 of 3 classes have no image in val: aster" in collection.notes
        assert read_all(collection) == expected(val)


def test_nested_hidden_and_other_files(tmp_path: Path) -> None:
    tree = {"aster/deep/er/a.JPEG": images()[0], "lily/b.PnG": images()[1]}
    others = {
        "aster/notes.txt": b"x",
        "lily/.DS_Store": b"x",
        "lily/.cache/c.jpg": b"x",
        "readme.md": b"x",
        "loose.jpg": b"x",
    }
    plant(tmp_path, tree | others)
    with open_collections(str(tmp_path)) as (collection,):
        assert read_all(collection) == expected(tree)
        told = "\n".join(collection.notes)
    assert "1 files without an image's ending were left out, such as aster/notes.txt" in told
    assert "2 hidden" in told
    assert "1 images beside the class folders were left out, such as loose.jpg" in told


def test_links_are_followed_and_circles_are_not(tmp_path: Path) -> None:
    elsewhere = plant(tmp_path / "elsewhere", {"a.jpg": images()[0], "more/b.jpg": images()[1]})
    root = tmp_path / "set"
    plant(root, {"lily/c.jpg": images()[2]})
    os.symlink(elsewhere, root / "aster")
    os.symlink(root / "lily", root / "lily" / "round")
    os.symlink(root / "nowhere.jpg", root / "lily" / "gone.jpg")
    got = read_source(root)["train"]
    assert got.pop("lily/gone.jpg") == (1, BadItem("is missing"))
    assert got == {
        "aster/a.jpg": (0, images()[0]),
        "aster/more/b.jpg": (0, images()[1]),
        "lily/c.jpg": (1, images()[2]),
    }


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    tree = flowers(("bus", "train"))
    plant(tmp_path, tree)
    assert read_source(tmp_path) == {"train": expected(tree, ("bus", "train"))}


def test_a_test_folder_without_classes_is_left_out(tmp_path: Path) -> None:
    plant(
        tmp_path, {f"train/{path}": data for path, data in flowers().items()} | {"test/1.jpg": images()[0], "x/y": b""}
    )
    with open_collections(str(tmp_path)) as (collection,):
        assert collection.notes == (
            "test/ has images without class folders and was left out",
            "what stands beside the splits was left out: x",
        )


def test_files_that_change_after_the_listing_are_bad_items(tmp_path: Path) -> None:
    tree = flowers()
    plant(tmp_path, tree)
    with open_collections(str(tmp_path)) as (collection,):
        (tmp_path / "lily" / "0.jpg").unlink()
        (tmp_path / "lily" / "1.jpg").write_bytes(tree["lily/1.jpg"][:100])
        copy = pickle.loads(pickle.dumps(collection))
        assert copy.items.num_rows == 0
        assert copy.fingerprint == collection.fingerprint
        got = dict(zip(sorted(tree), copy.read(collection.items), strict=True))
    assert got.pop("lily/0.jpg") == BadItem("is missing")
    changed = f"has 100 bytes instead of {len(tree['lily/1.jpg'])}: changed since it was listed"
    assert got.pop("lily/1.jpg") == BadItem(changed)
    assert got == {path: tree[path] for path in got}


def test_the_fingerprint_tells_another_listing(tmp_path: Path) -> None:
    def fingerprint() -> str:
        with open_collections(str(tmp_path)) as (collection,):
            return collection.fingerprint

    plant(tmp_path, flowers())
    first = fingerprint()
    assert fingerprint() == first
    (tmp_path / "lily" / "0.jpg").rename(tmp_path / "lily" / "9.jpg")
    renamed = fingerprint()
    (tmp_path / "lily" / "9.jpg").write_bytes(b"shorter")
    assert len({first, renamed, fingerprint()}) == 3


def test_on_s3(s3: S3) -> None:
    train, val = flowers(), flowers(("aster", "rose"), each=1)
    root = s3.uri("imagefolder/set")
    plant(root, {f"train/{path}": data for path, data in train.items()} | {"train/lily/.hidden/x.jpg": b"x"})
    plant(root, {f"val/{path}": data for path, data in val.items()} | {"val/aster/deep/x.jpg": images()[0]})
    val["aster/deep/x.jpg"] = images()[0]
    assert read_source(root) == {"train": expected(train), "val": expected(val)}
    with open_collections(root, split="train") as (collection,):
        import boto3

        boto3.client("s3", endpoint_url=s3.endpoint).delete_object(
            Bucket=s3.bucket, Key="imagefolder/set/train/lily/1.jpg"
        )
        got = read_all(collection)
    assert got["lily/1.jpg"] == (1, BadItem("is missing"))


@pytest.mark.parametrize(
    ("tree", "options", "says"),
    [
        ({"aster/readme.txt": b"x"}, {}, "is no kind of source that is known: it has aster/"),
        ({}, {}, "it is empty"),
        (flowers(), {"split": "val"}, "has no split 'val'; it has train. Name one of them"),
        (flowers(), {"kind": "imagefolders"}, "is no kind of source (did you mean 'imagefolder'?)"),
        ({"a.jpg": b"x"}, {"kind": "imagefolder"}, "holds no class folders"),
        ({"aster/readme.txt": b"x"}, {"kind": "imagefolder"}, "split 'train' holds no images"),
    ],
)
def test_what_cannot_be_used(tmp_path: Path, tree: dict[str, bytes], options: dict[str, str], says: str) -> None:
    plant(tmp_path, tree)
    with pytest.raises(DataError) as caught, open_collections(str(tmp_path), **options):
        pass
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"), open_collections(str(tmp_path / "no")):
        pass
