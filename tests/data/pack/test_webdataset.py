"""WebDataset shards: keys, labels as numbers and names, shards by pattern, damage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdray.data.dataset import open_dataset
from kdray.data.manifest import read_manifest
from kdray.data.pack.collection import open_collections
from kdray.data.pack.execute import pack
from kdray.errors import DataError
from kdray.experiment import Data
from tests.conftest import S3
from tests.data.pack.archives import Tree, expected, flowers, images, plant, read_source, tar


def samples(labels: list[int], first: int = 0, ending: str = "jpg") -> Tree:
    tree: Tree = {}
    for at, label in enumerate(labels, first):
        tree |= {f"{at:06d}.cls": b"%d" % label, f"{at:06d}.{ending}": images()[at % 12], f"{at:06d}.txt": b"caption"}
    return tree


def given(labels: list[int], first: int = 0, ending: str = "jpg") -> dict[str, tuple[int, bytes]]:
    return {f"{at:06d}.{ending}": (label, images()[at % 12]) for at, label in enumerate(labels, first)}


def test_shards_by_pattern_with_splits(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"set-train-{number:06d}.tar").write_bytes(tar(samples([number, 4], 2 * number)))
    (tmp_path / "set-validation-000000.tar").write_bytes(tar(samples([2, 1], 50, "webp")))
    train = given([0, 4, 1, 4, 2, 4])
    assert read_source(tmp_path) == {"train": train, "validation": given([2, 1], 50, "webp")}
    assert read_source(tmp_path / "set-train-{000000..000002}.tar") == {"train": train}
    assert read_source(tmp_path, split="validation") == {"validation": given([2, 1], 50, "webp")}
    with open_collections(str(tmp_path), split="train") as (collection,):
        assert (collection.kind, collection.has_splits, collection.class_names) == ("webdataset", True, None)
        assert collection.notes == ("6 files in the archives that are no images or labels were left out",)


def test_class_names_beside_the_shards(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar(samples([1, 0])))
    (tmp_path / "classes.json").write_text('["aster", "lily"]')
    for uri in (tmp_path, tmp_path / "a.tar"):
        with open_collections(str(uri)) as (collection,):
            assert collection.class_names == ("aster", "lily")
    (tmp_path / "classes.json").write_text('["aster"]')
    with pytest.raises(DataError, match=r"000000.jpg in .*a.tar at byte \d+ has the label 1, but labels are 0..0"):
        read_source(tmp_path)


@pytest.mark.parametrize(
    ("said", "label"),
    [({"label": 3}, 3), ({"cls": 3, "x": []}, 3), ({"class_id": "3"}, 3), (3, 3), ({"label": 0, "cls": 9}, 0)],
)
def test_labels_of_json(tmp_path: Path, said: object, label: int) -> None:
    tree = {"a.json": json.dumps(said).encode(), "a.png": images()[0]}
    (tmp_path / "a.tar").write_bytes(tar(tree))
    assert read_source(tmp_path / "a.tar") == {"train": {"a.png": (label, images()[0])}}


def test_names_of_json_are_numbered_over_all_splits(tmp_path: Path) -> None:
    for split, names in (("train", ["rose", "aster"]), ("val", ["lily", "rose"])):
        tree = {}
        for at, name in enumerate(names):
            tree |= {f"{split}/{at}.jpg": images()[at], f"{split}/{at}.json": json.dumps({"label": name}).encode()}
        (tmp_path / f"{split}.tar").write_bytes(tar(tree))
    assert read_source(tmp_path) == {
        "train": {"train/0.jpg": (2, images()[0]), "train/1.jpg": (0, images()[1])},
        "val": {"val/0.jpg": (1, images()[0]), "val/1.jpg": (2, images()[1])},
    }
    assert read_source(tmp_path, split="train")["train"]["train/0.jpg"][0] == 2


def test_keys_that_come_again_in_another_shard(tmp_path: Path) -> None:
    for name, label in (("a.tar", 0), ("b.tar", 1)):
        (tmp_path / name).write_bytes(tar({"0.jpg": images()[label], "0.cls": b"%d\n" % label}))
    assert read_source(tmp_path) == {"train": {"a.tar/0.jpg": (0, images()[0]), "b.tar/0.jpg": (1, images()[1])}}


def test_members_in_any_order_and_hidden_ones(tmp_path: Path) -> None:
    tree = {
        "b.cls": b"1",
        "a.jpg": images()[0],
        "._a.jpg": b"x",
        "b.jpg": images()[1],
        "a.cls": b"0",
        "b.seg.png": b"x",
    }
    (tmp_path / "a.tar").write_bytes(tar(tree))
    assert read_source(tmp_path / "a.tar") == {"train": {"a.jpg": (0, images()[0]), "b.jpg": (1, images()[1])}}


def test_on_s3(s3: S3) -> None:
    shards = {f"train-{number}.tar": tar(samples([number], number)) for number in range(3)}
    plant(s3.uri("webdataset"), shards)
    assert read_source(s3.uri("webdataset/train-{0..2}.tar")) == {"train": given([0, 1, 2])}


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ({"a.jpg": b"x", "b.jpg": b"x", "b.cls": b"1"}, "a.jpg has no label (1 such images)"),
        ({"a.jpg": b"x", "a.png": b"x", "a.cls": b"1"}, "one sample has two images: a.jpg, a.png"),
        ({"a.jpg": b"x", "a.cls": b"cat"}, "a.cls says 'cat', where a class number is expected"),
        ({"a.jpg": b"x", "a.cls": b"-1"}, "has the label -1, but labels are 0 and up"),
        ({"a.jpg": b"x", "a.cls": b""}, "a.cls says '', where a class number is expected"),
        ({"a.jpg": b"x", "a.json": b'{"caption": "x"}'}, "a.json has no label"),
        ({"a.jpg": b"x", "a.json": b"{"}, "a.json says '{', where one of label"),
        ({"a.jpg": b"x", "a.json": b'{"label": 1.5}'}, "a.json says 1.5, where one of label"),
        (
            {"a.jpg": b"x", "a.json": b'{"label": "rose"}', "b.jpg": b"x", "b.cls": b"1"},
            "has labels that are numbers and labels that are names",
        ),
        ({"a.cls": b"1"}, "holds no images"),
    ],
)
def test_what_cannot_be_used(tmp_path: Path, tree: Tree, says: str) -> None:
    (tmp_path / "a.tar").write_bytes(tar(tree))
    with pytest.raises(DataError) as caught:
        read_source(tmp_path / "a.tar")
    assert says in str(caught.value)
    assert "a.tar" in str(caught.value)


def test_numbers_of_all_splits_are_counted_together(tmp_path: Path) -> None:
    source = tmp_path / "source"
    plant(source, {"a-train.tar": tar(samples([0, 2, 1])), "a-val.tar": tar(samples([1, 0], 50))})
    with open_collections(str(source)) as collections:
        assert [one.num_classes for one in collections] == [3, 3]
        for one in collections:
            pack(one, str(tmp_path / "set" / one.split), workers=0)
    sets = {"train": str(tmp_path / "set" / "train"), "test": str(tmp_path / "set" / "val")}
    whole = [{"resize": {"size": 32}}, {"center_crop": {"size": 24}}]
    assert open_dataset(Data(**sets, eval_transform=whole)).num_classes == 3
    val = read_manifest(sets["test"])
    assert val.num_classes == 3 and val.class_counts == (1, 1, 0)
    with open_collections(str(source), split="val") as (alone,):  # the other tars are not looked into
        assert alone.num_classes == 2


def test_label_files_that_belong_to_no_image(tmp_path: Path) -> None:
    tree = flowers() | {"aster/metadata.json": b"{}", "classes.json": b'["aster", "lily", "rose"]', "lily/x.cls": b"1"}
    (tmp_path / "a.tar").write_bytes(tar(tree))
    with open_collections(str(tmp_path / "a.tar")) as (collection,):
        assert collection.kind == "tar"
    assert read_source(tmp_path / "a.tar") == {"train": expected(flowers())}
    (tmp_path / "a.tar").write_bytes(tar(tree | {"aster/0.json": b'{"width": 3}'}))
    with pytest.raises(DataError, match=r"has no label.*--kind tar takes class folders"):
        read_source(tmp_path / "a.tar")
    assert read_source(tmp_path / "a.tar", kind="tar") == {"train": expected(flowers())}


def test_the_kind_can_be_forced(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar({"c/a.jpg": images()[0], "c/a.cls": b"3"}))
    assert read_source(tmp_path / "a.tar")["train"]["c/a.jpg"][0] == 3
    assert read_source(tmp_path / "a.tar", kind="webdataset")["train"]["c/a.jpg"][0] == 3
    assert read_source(tmp_path / "a.tar", kind="tar")["train"]["c/a.jpg"][0] == 0
