"""ILSVRC2012's official archives, small: the tar of tars, the flat validation tar, the devkit with its meta.mat."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from kdray.data.pack.collection import open_collections
from kdray.errors import DataError
from tests.conftest import S3
from tests.data.pack.archives import Tree, images, plant, read_all, read_source, tar

# Numbered as in the real kit: not in the order of the WordNet ids. The last is an inner node, which is no class.
SYNSETS = [
    (1, "n02119789", "kit fox, Vulpes macrotis", 0),
    (2, "n03126707", "crane", 0),
    (3, "n02012849", "crane", 0),
    (4, "n00001740", "entity", 3),
]
WNIDS = ("n02012849", "n02119789", "n03126707")
NAMES = ("crane (n02012849)", "kit fox, Vulpes macrotis", "crane (n03126707)")
TRUTH = [3, 1, 2, 2, 1]
VAL_LABELS = [0, 1, 2, 2, 1]


def meta(synsets: list[tuple[int, str, str, int]] = SYNSETS) -> bytes:
    fields = [(name, "O") for name in ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children")]
    rows = [(number, wnid, words, "what it is", children) for number, wnid, words, children in synsets]
    out = io.BytesIO()
    savemat(out, {"synsets": np.array(rows, dtype=fields)[:, None]})
    return out.getvalue()


def kit(meta_mat: bytes | None = None, truth: list[object] | None = None) -> Tree:
    lines = "".join(f"{number}\n" for number in (TRUTH if truth is None else truth))
    return {
        "ILSVRC2012_devkit_t12/readme.txt": b"x",
        "ILSVRC2012_devkit_t12/data/meta.mat": meta() if meta_mat is None else meta_mat,
        "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt": lines.encode(),
    }


def train_tree(wnids: tuple[str, ...] = WNIDS) -> Tree:
    return {f"{wnid}/{wnid}_{k}.JPEG": images()[3 * c + k] for c, wnid in enumerate(wnids) for k in range(3)}


def train_tar(wnids: tuple[str, ...] = WNIDS) -> bytes:
    inner = {}
    for wnid in reversed(wnids):
        own = {path.split("/")[1]: data for path, data in train_tree(wnids).items() if path.startswith(wnid)}
        inner[f"{wnid}.tar"] = tar(own)
    return tar(inner)


def val_tree() -> Tree:
    return {f"ILSVRC2012_val_{k + 1:08d}.JPEG": images()[k] for k in range(5)}


def official() -> Tree:
    return {
        "ILSVRC2012_img_train.tar": train_tar(),
        "ILSVRC2012_img_val.tar": tar(dict(reversed(val_tree().items()))),
        "ILSVRC2012_devkit_t12.tar.gz": gzip.compress(tar(kit())),
    }


EXPECTED = {
    "train": {path: (WNIDS.index(path[:9]), data) for path, data in train_tree().items()},
    "val": {
        f"{WNIDS[label]}/{name}": (label, data)
        for (name, data), label in zip(val_tree().items(), VAL_LABELS, strict=True)
    },
}


def test_the_official_files_in_a_folder(tmp_path: Path) -> None:
    plant(tmp_path, official())
    assert read_source(tmp_path) == EXPECTED
    with open_collections(str(tmp_path), split="val") as (val,):
        assert (val.kind, val.split, val.has_splits, val.here) == ("ilsvrc2012", "val", True, False)
        assert val.class_names == NAMES
        assert val.items["path"].to_pylist() == list(EXPECTED["val"])


def test_labels_are_torchvisions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from torchvision.datasets import imagenet

    plant(tmp_path, official())
    monkeypatch.setattr(imagenet, "_verify_archive", lambda *_: None)  # it knows the digest of the real archive only
    imagenet.parse_devkit_archive(str(tmp_path), "ILSVRC2012_devkit_t12.tar.gz")
    wnid_to_words, wnids = torch.load(tmp_path / "meta.bin", weights_only=True)
    got = read_source(tmp_path, split="val")["val"]
    assert [sorted(wnid_to_words)[label] for label, _ in got.values()] == wnids


def test_each_archive_alone(tmp_path: Path) -> None:
    plant(tmp_path, {"ILSVRC2012_img_train.tar": train_tar()})
    with open_collections(str(tmp_path / "ILSVRC2012_img_train.tar")) as (train,):
        assert (train.class_names, train.has_splits) == (WNIDS, False)
        assert train.notes == ("tars of 3 of ImageNet's 1000 classes are there; with the devkit all must be",)
        assert read_all(train) == EXPECTED["train"]
    plant(tmp_path / "b", {"ILSVRC2012_img_val.tar": tar(val_tree())} | kit())
    assert read_source(tmp_path / "b" / "ILSVRC2012_img_val.tar") == {"val": EXPECTED["val"]}


def test_a_folder_of_class_tars(tmp_path: Path) -> None:
    inner = {f"{wnid}.tar": tar({p.split("/")[1]: d for p, d in train_tree().items() if wnid in p}) for wnid in WNIDS}
    plant(tmp_path / "flat", inner)
    assert read_source(tmp_path / "flat") == {"train": EXPECTED["train"]}
    plant(tmp_path / "all" / "ILSVRC2012_img_train", inner)
    plant(tmp_path / "all", {"ILSVRC2012_img_val.tar": tar(val_tree())} | kit())
    assert read_source(tmp_path / "all") == EXPECTED


def test_on_s3(s3: S3) -> None:
    plant(s3.uri("ilsvrc"), official())
    assert read_source(s3.uri("ilsvrc")) == EXPECTED


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"ILSVRC2012_devkit_t12.tar.gz": None}, "has no labels without the development kit"),
        (
            {"ILSVRC2012_devkit_t12.tar.gz": gzip.compress(tar(kit(truth=[1, 2])))},
            "has 5 images, but the devkit's ground truth has 2 lines",
        ),
        (
            {"ILSVRC2012_devkit_t12.tar.gz": gzip.compress(tar(kit(truth=[1, 2, 4, 1, 1])))},
            "line 3 of ILSVRC2012_validation_ground_truth.txt says '4', which is no class of meta.mat",
        ),
        ({"ILSVRC2012_devkit_t12.tar.gz": gzip.compress(tar(kit(meta()[:200])))}, "meta.mat does not read"),
        ({"ILSVRC2012_devkit_t12.tar.gz": gzip.compress(tar({"readme.txt": b"x"}))}, "lacks meta.mat"),
        ({"ILSVRC2012_devkit_t12.tar.gz": gzip.compress(tar(kit()))[:-300]}, "does not unpack"),
        ({"ILSVRC2012_img_train.tar": train_tar(WNIDS[1:])}, "lacks the tar of class n02012849, the devkit has 3"),
        (
            {"ILSVRC2012_img_train.tar": train_tar((*WNIDS, "n09999999"))},
            "has class n09999999 besides, the devkit has 3 classes",
        ),
        ({"ILSVRC2012_img_train.tar": train_tar()[:-20000]}, "is cut off inside"),
        ({"ILSVRC2012_img_train.tar": tar({"a.jpg": b"x"})}, "holds no tar named by a WordNet id"),
        ({"ILSVRC2012_img_train.tar": tar({f"{WNIDS[0]}.tar": b"x" * 600})}, "is no tar archive"),
        ({"ILSVRC2012_img_val.tar": tar({"ILSVRC2012_val_00000009.JPEG": b"x"})}, "has 1 images, but"),
    ],
)
def test_what_cannot_be_used(tmp_path: Path, change: dict[str, bytes | None], says: str) -> None:
    tree = official() | change
    plant(tmp_path, {name: data for name, data in tree.items() if data is not None})
    with pytest.raises(DataError) as caught:
        read_source(tmp_path)
    assert says in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
