"""Which folders are splits and which are classes, in a folder and in a tar of the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdray.data.pack.collection import open_collections
from kdray.errors import DataError
from tests.conftest import S3
from tests.data.pack.archives import Tree, images, plant, tar

Classes = dict[str, dict[str, list[str]]]


def tree(*paths: str) -> Tree:
    """An image at each path; "{aster,lily}/0.jpg" stands for two paths."""
    made: Tree = {}
    for path in paths:
        head, _, rest = path.partition("{")
        names, _, tail = rest.partition("}")
        for name in names.split(",") if rest else [""]:
            made[f"{head}{name}{tail}"] = images()[len(made) % 12]
    return made


def seen(uri: str, **options: str) -> tuple[Classes, list[str]]:
    """({split: {class: its paths}}, notes) of a source."""
    found: Classes = {}
    notes: list[str] = []
    with open_collections(uri, **options) as collections:
        for one in collections:
            names = one.class_names or ()
            split = found.setdefault(one.split if one.has_splits else "", {})
            for path, label in zip(one.items["path"].to_pylist(), one.items["label"].to_pylist(), strict=True):
                assert path.startswith(f"{names[label]}/")
                split.setdefault(names[label], []).append(path)
            notes += [note for note in one.notes if note not in notes]
    return found, notes


@pytest.fixture(params=["folder", "tar", "wrapped tar"])
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def lay(tmp_path: Path, form: str, made: Tree) -> tuple[str, str]:
    """(URI, kind) of the tree in one of the forms."""
    if form == "folder":
        return plant(tmp_path / "set", made), "imagefolder"
    top = "set/" if form == "wrapped tar" else ""
    (tmp_path / "set.tar").write_bytes(tar({f"{top}{path}": data for path, data in made.items()}))
    return str(tmp_path / "set.tar"), "tar"


TWO = ("{aster,lily}/0.jpg", "{aster,lily}/1.jpg")
TRAIN = tuple(f"train/{path}" for path in TWO)
ASTER_LILY = {"aster": ["aster/0.jpg", "aster/1.jpg"], "lily": ["lily/0.jpg", "lily/1.jpg"]}


@pytest.mark.parametrize(
    ("made", "splits", "says"),
    [
        (tree(*TWO), {"": ASTER_LILY}, []),
        (
            tree(*(f"{split}/{path}" for split in ("Training", "TEST") for path in TWO)),
            {"Training": ASTER_LILY, "TEST": ASTER_LILY},
            [],
        ),
        (
            tree(*TRAIN, "train/montage.jpg"),
            {"train": ASTER_LILY},
            ["1 images beside the class folders were left out, such as montage.jpg"],
        ),
        (
            tree(*TRAIN, "val/aster/2.jpg", "val/loose.jpg", "docs/a.jpg", "docs/deep/b.jpg", "test/1.jpg", "top.jpg"),
            {"train": ASTER_LILY, "val": {"aster": ["aster/2.jpg"]}},
            [
                "test/ has images without class folders and was left out",
                "what stands beside the splits was left out: docs",
                "1 images beside the splits were left out, such as top.jpg",
                "1 images beside the class folders were left out, such as loose.jpg",
                "1 of 2 classes have no image in val: lily",
            ],
        ),
        (
            tree(*(f"flowers/{path}" for path in TWO), "flowers/montage.jpg", "cover.jpg"),
            {"": ASTER_LILY},
            [
                "1 images beside flowers/ were left out, such as cover.jpg",
                "1 images beside the class folders were left out, such as montage.jpg",
            ],
        ),
        (
            tree(*(f"flowers/{path}" for path in TRAIN), "flowers/val/aster/2.jpg"),
            {"train": ASTER_LILY, "val": {"aster": ["aster/2.jpg"]}},
            ["1 of 2 classes have no image in val: lily"],
        ),
        (tree(*(f"train/{path}" for path in TRAIN)), {"train": ASTER_LILY}, ["the classes of train are those in"]),
        (
            tree(*(f"{split}/images/{path}" for split in ("train", "val") for path in TWO)),
            {"train": ASTER_LILY, "val": ASTER_LILY},
            ["the classes of train are those in", "the classes of val are those in"],
        ),
        (
            tree(*TRAIN, "val/aster/deep/2.jpg"),
            {"train": ASTER_LILY, "val": {"aster": ["aster/deep/2.jpg"]}},
            ["1 of 2 classes have no image in val: lily"],
        ),
        (
            tree("{bus,car,train}/0.jpg", "bus/old/1.jpg"),
            {"": {"bus": ["bus/0.jpg", "bus/old/1.jpg"], "car": ["car/0.jpg"], "train": ["train/0.jpg"]}},
            ["taken for a class, not for a split: train/"],
        ),
    ],
)
def test_what_is_taken(tmp_path: Path, form: str, made: Tree, splits: Classes, says: list[str]) -> None:
    uri, kind = lay(tmp_path, form, made)
    found, notes = seen(uri)
    assert {split: {name: sorted(paths) for name, paths in of.items()} for split, of in found.items()} == splits
    told = "\n".join(notes)
    assert all(said in told for said in says), notes
    assert len([note for note in notes if "all stands in" not in note]) == len(says), notes
    if kind == "imagefolder":
        assert ("all stands in flowers/" in told) == any(path.startswith("flowers/") for path in made)
    assert seen(uri, kind=kind)[0] == found


YEARS = tree("{bus,car,train}/2019/0.jpg", "{bus,car,train}/2020/1.jpg")


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (
            YEARS,
            "train/ may be a split, or a class like bus, car beside it. --split train takes it for a split; --kind ",
        ),
        (tree(*TRAIN, "docs/x.jpg"), "train/ may be a split, or a class like docs beside it"),
        (tree("{train,val}/0.jpg"), "its classes would be train/, val/, which are called as splits are"),
        (tree("train/0.jpg"), "its classes would be train/, which are called as splits are"),
        (tree("{bus,train,val}/0.jpg"), "train/, val/ would be classes, and are called as splits are"),
        (tree("{train/train,test/test}/0.jpg"), "its classes would be train/, test/, which are called as splits are"),
        (
            tree("train/{0,1,2}.jpg", "train/thumbs/0.jpg"),
            "3 of 4 images of train are in no class folder, such as 0.jpg",
        ),
    ],
)
def test_what_is_refused(tmp_path: Path, form: str, made: Tree, says: str) -> None:
    uri, kind = lay(tmp_path, form, made)
    with pytest.raises(DataError) as caught:
        seen(uri)
    said = str(caught.value)
    assert says in said and said.startswith(uri) and "\n" not in said
    assert f"--kind {kind} takes every folder for a class" in said
    assert seen(uri, kind=kind)[0]  # the way out


def test_the_ways_out(tmp_path: Path, form: str) -> None:
    uri, kind = lay(tmp_path, form, YEARS)
    years = {"2019": ["2019/0.jpg"], "2020": ["2020/1.jpg"]}
    found, notes = seen(uri, split="train")
    assert found == {"train": years} and notes == ["what stands beside the splits was left out: bus, car"]
    found, notes = seen(uri, kind=kind)
    assert sorted(found[""]) == ["bus", "car", "train"] and notes == ["taken for a class, not for a split: train/"]


def test_no_image_deep_down_is_overlooked(tmp_path: Path) -> None:
    plant(tmp_path, tree("aster/a/b/c/d/e/f/0.jpg", "lily/0.jpg"))
    assert sorted(seen(str(tmp_path))[0][""]) == ["aster", "lily"]


@pytest.mark.parametrize("inner", ["", "{}/", "set-{}/"])
def test_tars_named_by_split(tmp_path: Path, inner: str) -> None:
    """Each may hold a folder of its own, and what the one lacks is numbered by the others."""
    for split, paths in (("train", TWO), ("val", ("aster/deep/2.jpg",))):
        top = inner.format(split)
        made = {f"{top}{path}": data for path, data in tree(*paths).items()}
        (tmp_path / f"set-{split}.tar").write_bytes(tar(made))
    found, _ = seen(str(tmp_path))
    assert found == {"train": ASTER_LILY, "val": {"aster": ["aster/deep/2.jpg"]}}
    (tmp_path / "set-test.tar").write_bytes(tar(tree("1.jpg")))
    found, notes = seen(str(tmp_path))
    assert sorted(found) == ["train", "val"] and "test/ has images without class folders and was left out" in notes


def test_split_folders_of_tars_in_any_case(tmp_path: Path) -> None:
    plant(tmp_path, {f"{split}/x.tar": tar(tree(*TWO)) for split in ("Training", "Test")})
    assert list(seen(str(tmp_path))[0]) == ["Training", "Test"]


def test_on_s3(s3: S3) -> None:
    root = s3.uri("splits/set")
    plant(root, tree(*(f"photos/{path}" for path in TRAIN), "photos/Val/aster/2.jpg", "photos/Val/x.jpg"))
    found, notes = seen(root)
    assert found == {"train": ASTER_LILY, "Val": {"aster": ["aster/2.jpg"]}}
    assert "1 images beside the class folders were left out, such as x.jpg" in notes
    plant(s3.uri("splits/years"), YEARS)
    with pytest.raises(DataError, match="train/ may be a split"):
        seen(s3.uri("splits/years"))
