"""CIFAR, STL-10 and Tiny-ImageNet as they are handed out, small, packed and unpacked, whole and damaged."""

from __future__ import annotations

import gzip
import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from kdray.data.decode import decode
from kdray.data.pack.collection import BadItem, open_collections
from kdray.errors import DataError
from tests.conftest import S3
from tests.data.pack.archives import Tree, images, plant, read_all, read_source, tar

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (12, 3, 32, 32), dtype=np.uint8)
LABELS = [2, 0, 1, 2, 1, 0, 0, 1, 2, 0, 2, 1]
NAMES = ["cat", "dog", "ship"]


def batch(rows: slice, **keys: object) -> bytes:
    labels = LABELS[rows]
    said = {
        b"data": PIXELS[rows].reshape(-1, 3072),
        b"labels": labels,
        b"fine_labels": labels,
        b"coarse_labels": labels,
    }
    return pickle.dumps(said | {key.encode(): value for key, value in keys.items()}, protocol=2)


def cifar10() -> Tree:
    folder = "cifar-10-batches-py"
    tree = {f"{folder}/data_batch_{n + 1}": batch(slice(2 * n, 2 * n + 2)) for n in range(5)}
    meta = pickle.dumps({b"label_names": [name.encode() for name in NAMES]}, protocol=2)
    return tree | {f"{folder}/test_batch": batch(slice(10, 12)), f"{folder}/batches.meta": meta}


def cifar100() -> Tree:
    meta = pickle.dumps({b"fine_label_names": [name.encode() for name in NAMES]}, protocol=2)
    top = "cifar-100-python"
    return {f"{top}/train": batch(slice(0, 10)), f"{top}/test": batch(slice(10, 12)), f"{top}/meta": meta}


def rows_of(rows: slice, coarse: bool) -> bytes:
    heads = [bytes([9, label]) if coarse else bytes([label]) for label in LABELS[rows]]
    return b"".join(head + pixels.tobytes() for head, pixels in zip(heads, PIXELS[rows], strict=True))


def cifar10_binary() -> Tree:
    top = "cifar-10-batches-bin"
    tree = {f"{top}/data_batch_{n + 1}.bin": rows_of(slice(2 * n, 2 * n + 2), False) for n in range(5)}
    names = "\n".join(NAMES).encode() + b"\n\n"
    return tree | {f"{top}/test_batch.bin": rows_of(slice(10, 12), False), f"{top}/batches.meta.txt": names}


def cifar100_binary() -> Tree:
    top = "cifar-100-binary"
    names = "\n".join(NAMES).encode()
    tree = {"train.bin": rows_of(slice(0, 10), True), "test.bin": rows_of(slice(10, 12), True)}
    return {f"{top}/{name}": data for name, data in (tree | {"fine_label_names.txt": names}).items()}


RELEASES = {
    "cifar-10-python": ("cifar10", cifar10),
    "cifar-100-python": ("cifar100", cifar100),
    "cifar-10-binary": ("cifar10", cifar10_binary),
    "cifar-100-binary": ("cifar100", cifar100_binary),
}


def check_cifar(uri: str | Path, kind: str) -> None:
    with open_collections(str(uri)) as collections:
        assert [one.split for one in collections] == ["train", "test"]
        for one, rows in zip(collections, (slice(0, 10), slice(10, 12)), strict=True):
            assert (one.kind, one.class_names, one.has_splits) == (kind, tuple(NAMES), True)
            got = read_all(one)
            assert [label for label, _ in got.values()] == LABELS[rows]
            for (path, (_, data)), planes in zip(got.items(), PIXELS[rows], strict=True):
                assert path.startswith(f"{one.split}/0000")
                assert isinstance(data, bytes)
                assert (decode(data) == planes.transpose(1, 2, 0)).all()


@pytest.mark.parametrize("name", RELEASES)
def test_cifar_packed_and_unpacked(tmp_path: Path, name: str) -> None:
    kind, make = RELEASES[name]
    plant(tmp_path / "packed", {f"{name}.tar.gz": gzip.compress(tar(make()))})
    check_cifar(tmp_path / "packed", kind)
    check_cifar(tmp_path / "packed" / f"{name}.tar.gz", kind)
    plant(tmp_path / "unpacked", make())
    check_cifar(tmp_path / "unpacked", kind)
    (inner,) = (tmp_path / "unpacked").iterdir()
    check_cifar(inner, kind)


def test_cifar_as_python_2_pickled_it(tmp_path: Path) -> None:
    """Byte for byte what the real archives hold: strings of Python 2, NumPy's old module names, keys out of order."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    pixels = PIXELS[:2].tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
        b"(K\x01K\x02M\x00\x0c\x86cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R"
        b"(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"T" + len(pixels).to_bytes(4, "little") + pixels + b"tb"
    )
    labels = text(b"fine_labels") + b"](K\x02K\x00e"
    old = b"\x80\x02}(" + text(b"filenames") + b"]" + text(b"data") + array + labels + b"u."
    tree = cifar100() | {"cifar-100-python/train": old}
    plant(tmp_path, tree)
    got = read_source(tmp_path, split="train")["train"]
    assert [label for label, _ in got.values()] == [2, 0]
    for (_, data), planes in zip(got.values(), PIXELS, strict=False):
        assert isinstance(data, bytes)
        assert (decode(data) == planes.transpose(1, 2, 0)).all()


def test_a_pickle_runs_no_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    tree = cifar10() | {"cifar-10-batches-py/data_batch_3": pickle.dumps(Evil())}
    plant(tmp_path, tree)
    with pytest.raises(DataError, match=r"data_batch_3 does not read: UnpicklingError pathlib.* has no place"):
        read_source(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"data_batch_2": None}, "lacks data_batch_2"),
        ({"batches.meta": None}, "lacks batches.meta"),
        ({"data_batch_2": batch(slice(0, 2))[:1000]}, "data_batch_2 does not read"),
        ({"data_batch_2": batch(slice(0, 2), labels=[1])}, "data_batch_2 has 2 images, but not as many labels"),
        ({"data_batch_2": batch(slice(0, 2), labels=[1, 7])}, "has the label 7, but labels are 0..2"),
        ({"data_batch_2": batch(slice(0, 2), data=PIXELS[:2])}, "data_batch_2 holds no images of 32 x 32"),
        ({"data_batch_2": pickle.dumps([1])}, "data_batch_2 holds no batch"),
        ({"batches.meta": pickle.dumps({})}, "batches.meta holds no class names"),
    ],
)
def test_damaged_cifar(tmp_path: Path, change: dict[str, bytes | None], says: str) -> None:
    tree = cifar10() | {f"cifar-10-batches-py/{name}": data for name, data in change.items()}
    plant(tmp_path, {"cifar-10-python.tar.gz": gzip.compress(tar({k: v for k, v in tree.items() if v is not None}))})
    with pytest.raises(DataError) as caught:
        read_source(tmp_path)
    assert says in str(caught.value)


def test_binary_cifar_cut_off(tmp_path: Path) -> None:
    tree = cifar100_binary()
    tree["cifar-100-binary/train.bin"] = tree["cifar-100-binary/train.bin"][:-1]
    plant(tmp_path, tree)
    with pytest.raises(DataError, match=r"train.bin has 30739 bytes, no multiple of 3074"):
        read_source(tmp_path)


def test_two_sets_in_one_folder(tmp_path: Path) -> None:
    plant(tmp_path, cifar10() | cifar100())
    with pytest.raises(DataError, match=r"holds cifar-10-batches-py \(cifar10\) and cifar-100-python \(cifar100\)"):
        read_source(tmp_path)
    assert set(read_source(tmp_path, kind="cifar100", split="test")) == {"test"}


STL = RNG.integers(0, 256, (5, 3, 96, 96), dtype=np.uint8)


def stl10() -> Tree:
    columns = [image.transpose(0, 2, 1).tobytes() for image in STL]
    files = {
        "train_X.bin": b"".join(columns[:2]),
        "train_y.bin": bytes([3, 1]),
        "test_X.bin": columns[2],
        "test_y.bin": bytes([2]),
        "unlabeled_X.bin": b"".join(columns[3:]),
        "class_names.txt": "\n".join(NAMES).encode(),
    }
    return {f"stl10_binary/{name}": data for name, data in files.items()}


def check_stl(uri: str | Path) -> None:
    for split, rows, labels in (("train", STL[:2], [2, 0]), ("test", STL[2:3], [1]), ("unlabeled", STL[3:], [0, 0])):
        with open_collections(str(uri), split=split) as (one,):
            assert one.class_names == (("unlabeled",) if split == "unlabeled" else tuple(NAMES))
            got = list(read_all(one).values())
        assert [label for label, _ in got] == labels
        for (_, data), planes in zip(got, rows, strict=True):
            assert isinstance(data, bytes)
            assert (decode(data) == planes.transpose(1, 2, 0)).all()


def test_stl10(tmp_path: Path) -> None:
    plant(tmp_path / "packed", {"stl10_binary.tar.gz": gzip.compress(tar(stl10()))})
    check_stl(tmp_path / "packed")
    plant(tmp_path / "unpacked", stl10())
    check_stl(tmp_path / "unpacked")
    with open_collections(str(tmp_path / "unpacked" / "stl10_binary")) as collections:
        assert [(one.split, one.here) for one in collections] == [("train", False), ("test", False)]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"train_X.bin": b"x" * 1000}, "train_X.bin has 1000 bytes, no multiple of 27648: it is cut off"),
        ({"train_y.bin": b"\1"}, "train_X.bin has 2 images, but train_y.bin has 1 labels"),
        ({"train_y.bin": b"\0\1"}, "train/000000.png has the label -1"),
        ({"test_y.bin": None}, "lacks test_y.bin"),
        ({"class_names.txt": None}, "lacks class_names.txt"),
    ],
)
def test_damaged_stl10(tmp_path: Path, change: dict[str, bytes | None], says: str) -> None:
    tree = stl10() | {f"stl10_binary/{name}": data for name, data in change.items()}
    plant(tmp_path, {name: data for name, data in tree.items() if data is not None})
    with pytest.raises(DataError) as caught:
        read_source(tmp_path)
    assert says in str(caught.value)


def tiny() -> Tree:
    files: Tree = {"wnids.txt": b"n02\nn01\n", "words.txt": b"n01\tcrane\nn02\tcrane\nn03\tentity, thing\n"}
    for c, wnid in enumerate(("n01", "n02")):
        files[f"train/{wnid}/{wnid}_boxes.txt"] = b"x"
        files |= {f"train/{wnid}/images/{wnid}_{k}.JPEG": images()[3 * c + k] for k in range(3)}
    files |= {f"val/images/val_{k}.JPEG": images()[6 + k] for k in range(3)}
    files["val/val_annotations.txt"] = (
        b"val_1.JPEG\tn01\t0\t0\t1\t1\nval_0.JPEG\tn02\t0\t0\t1\t1\nval_2.JPEG\tn01\t0\t0\n"
    )
    files["test/images/test_0.JPEG"] = images()[9]
    return files


TINY = {
    "train": {f"n0{c + 1}/n0{c + 1}_{k}.JPEG": (c, images()[3 * c + k]) for c in range(2) for k in range(3)},
    "val": {
        "n02/val_0.JPEG": (1, images()[6]),
        "n01/val_1.JPEG": (0, images()[7]),
        "n01/val_2.JPEG": (0, images()[8]),
    },
}


def zipped(tree: Tree, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", compression) as archive:
        archive.mkdir("tiny-imagenet-200")
        for name, data in tree.items():
            archive.writestr(f"tiny-imagenet-200/{name}", data)
    return whole.getvalue()


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_tiny_imagenet_zip(tmp_path: Path, compression: int) -> None:
    plant(tmp_path, {"tiny-imagenet-200.zip": zipped(tiny(), compression)})
    assert read_source(tmp_path) == TINY
    assert read_source(tmp_path / "tiny-imagenet-200.zip", split="val") == {"val": TINY["val"]}
    with open_collections(str(tmp_path)) as (train, val):
        assert (train.kind, train.class_names, train.here) == ("tiny-imagenet", ("crane (n01)", "crane (n02)"), False)
        assert val.notes == ("the test split has no labels and was left out",)
        assert list(train.read(train.items.take([5, 0]))) == [images()[5], images()[0]]


def test_tiny_imagenet_folder(tmp_path: Path) -> None:
    plant(tmp_path / "tiny-imagenet-200", tiny())
    assert read_source(tmp_path) == TINY
    assert read_source(tmp_path / "tiny-imagenet-200") == TINY


def test_official_releases_on_s3(s3: S3) -> None:
    plant(s3.uri("official/tiny"), {"tiny-imagenet-200.zip": zipped(tiny())})
    assert read_source(s3.uri("official/tiny")) == TINY
    plant(s3.uri("official/tiny-folder"), tiny())
    assert read_source(s3.uri("official/tiny-folder")) == TINY
    plant(s3.uri("official/cifar"), {"cifar-100-python.tar.gz": gzip.compress(tar(cifar100()))})
    check_cifar(s3.uri("official/cifar"), "cifar100")
    plant(s3.uri("official/stl"), stl10())
    check_stl(s3.uri("official/stl"))


def test_a_damaged_member_of_a_zip_is_a_bad_item(tmp_path: Path) -> None:
    whole = zipped(tiny(), zipfile.ZIP_STORED)
    at = whole.index(images()[4]) + 50
    (tmp_path / "tiny-imagenet-200.zip").write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    got = read_source(tmp_path)["train"]
    assert got.pop("n02/n02_1.JPEG") == (1, BadItem("its checksum is wrong"))
    assert got == {path: TINY["train"][path] for path in got}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"wnids.txt": b"n01\n"}, "train/n02 is no class of wnids.txt"),
        ({"wnids.txt": b"n01\nn02\nn03\n"}, "train/ has no images of class n03"),
        ({"wnids.txt": b"n01\nn01\n"}, "wnids.txt names a class twice"),
        ({"words.txt": None}, "lacks"),
        ({"val/val_annotations.txt": b"val_1.JPEG\tn09\n"}, "line 1 of val/val_annotations.txt names no class"),
        (
            {"val/val_annotations.txt": b"val_1.JPEG\tn01\n"},
            "val/ has 3 images, and val_annotations.txt tells",
        ),
    ],
)
def test_damaged_tiny_imagenet(tmp_path: Path, change: dict[str, bytes | None], says: str) -> None:
    tree = {name: data for name, data in (tiny() | change).items() if data is not None}
    plant(tmp_path, {"a/tiny-imagenet-200.zip": zipped(tree)})
    plant(tmp_path / "b" / "tiny-imagenet-200", tree)
    for place in ("a", "b"):
        with pytest.raises(DataError) as caught:
            read_source(tmp_path / place)
        assert says in str(caught.value)


def test_a_zip_cut_off(tmp_path: Path) -> None:
    (tmp_path / "tiny-imagenet-200.zip").write_bytes(zipped(tiny())[:-100])
    with pytest.raises(DataError, match="is no zip archive, or is cut off"):
        read_source(tmp_path)
