"""The data of one experiment, found and checked before anything is started: shards, labels, splits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from kdray.data.augment import output_size
from kdray.data.decode import BadImage, decode
from kdray.data.labels import part_of_classes, with_noise
from kdray.data.manifest import Manifest, read_manifest
from kdray.data.order import split_rows
from kdray.data.reader import read_labels, read_rows
from kdray.data.sources import resolve_source
from kdray.errors import DataError, StoreError
from kdray.experiment import Data

FIRST_IMAGES = 64  # rows that are tried until one decodes, to know the size of the images
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Split:
    """Some rows of a set of shards: `rows` int64 [n] are dense row numbers of `manifest`.

    `labels_digest` is of all labels and ids of the set: the footers of foreign shards need not tell them apart.
    `relabelled` int64 [N] are the labels by index where they are not the shards' own, and `labels_changed` says how
    many of these rows that changes, where it is known.
    """

    manifest: Manifest
    rows: np.ndarray
    labels_digest: str = ""
    relabelled: np.ndarray | None = None
    labels_changed: int | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def fingerprint(self) -> str:
        """Digest of the whole set's content, wrong labels included, whatever rows of it this is."""
        return f"{self.manifest.fingerprint}-{self.labels_digest}"


@dataclass(frozen=True)
class Dataset:
    """Train, validation and test rows, and what networks must know of them.

    `labels` int64 [N] are those of the whole train manifest, indexed as the samples' `index`, and with label noise
    those that training sees; `mean` and `std` are
    per RGB channel of pixels in 0..1; `image_size` is the side, in pixels, of what networks see in evaluation,
    `train_size` of what they see in training, where it is known.
    """

    num_classes: int
    class_names: tuple[str, ...] | None
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    train: Split | None = None
    validation: Split | None = None
    test: Split | None = None
    labels: np.ndarray | None = None
    train_size: int | None = None

    def fingerprints(self) -> dict[str, str]:
        """Digest of each set's content, by split: part of every digest that depends on the data."""
        parts = {"train": self.train, "test": self.test}
        return {name: split.fingerprint for name, split in parts.items() if split is not None}


def open_dataset(data: Data) -> Dataset:
    """Find the shards of `data` (packing a built-in source once), read all labels, and split train from validation.

    The validation split is a function of the sample ids alone, so every seed, method and worker count holds out the
    same images; test images never enter it.

    Raises:
        DataError: shards that are not there or do not read, labels out of range, splits that end up empty.
    """
    train_key, test_key = ("data.source", "data.source") if data.source else ("data.train", "data.test")
    with about(train_key):
        train_uri = resolve_source(data, "train")
        if train_uri is None:
            raise DataError("names no training data", where="data.train")
        manifest = read_manifest(train_uri, data.columns, data.classes)
        labels, ids = read_labels(manifest)
        first = _first_size(manifest)
    train_rows, validation_rows = split_rows(ids, data.validation)
    train = training_split(data, manifest, train_rows, labels, ids)
    test = None
    with about(test_key):
        test_uri = resolve_source(data, "test")
        if test_uri is not None:
            test_manifest = read_manifest(test_uri, data.columns, manifest.num_classes)
            _check_same_classes(manifest, test_manifest)
            test_rows = np.arange(test_manifest.num_samples, dtype=np.int64)[: data.test_limit]
            test = Split(test_manifest, test_rows, _digest(*read_labels(test_manifest)))
    return Dataset(
        num_classes=manifest.num_classes,
        class_names=manifest.class_names,
        image_size=_evaluation_size(data, first),
        train_size=output_size(data.augment, first, "data.augment", data.views),
        mean=data.mean or manifest.mean or IMAGENET_MEAN,
        std=data.std or manifest.std or IMAGENET_STD,
        train=train,
        validation=Split(manifest, validation_rows[: data.limit], _digest(labels, ids))
        if len(validation_rows)
        else None,
        test=test,
        labels=labels if train.relabelled is None else train.relabelled,
    )


def training_split(data: Data, manifest: Manifest, rows: np.ndarray, labels: np.ndarray, ids: np.ndarray) -> Split:
    """What is trained on: of the dense `rows` int64 [n] the part that `data` asks for, under the noise that it says.

    `labels` and `ids` int64 [N] are those of all rows of `manifest`.

    Raises:
        DataError: noise where there is one class.
    """
    rows = part_of_classes(rows, labels, ids, data.fraction, data.fraction_seed)[: data.limit]
    if data.label_noise is None:
        return Split(manifest, rows, _digest(labels, ids))
    noisy = with_noise(labels, rows, ids, data.label_noise, manifest.num_classes)
    return Split(manifest, rows, _digest(noisy, ids), noisy, int((noisy != labels).sum()))


def _digest(labels: np.ndarray, ids: np.ndarray) -> str:
    return hashlib.sha256(labels.tobytes() + ids.tobytes()).hexdigest()[:16]


def _check_same_classes(train: Manifest, test: Manifest) -> None:
    """Raise DataError where a label means one class in train and another in test: accuracies would mean nothing."""
    for number, (ours, theirs) in enumerate(zip(train.class_names or (), test.class_names or (), strict=False)):
        if ours != theirs:
            raise DataError(
                f"label {number} is {theirs!r} here and {ours!r} in {train.uri}",
                where=test.uri,
                fix="Write both sets with the class names in one order",
            )


def _first_size(manifest: Manifest) -> tuple[int, int]:
    """Height and width of the first image that decodes.

    Raises:
        DataError: none of the first ones does.
    """
    reason = ""
    for encoded in read_rows(manifest, np.arange(min(FIRST_IMAGES, manifest.num_samples), dtype=np.int64)).images:
        try:
            height, width = decode(encoded).shape[:2]
            return height, width
        except BadImage as error:
            reason = reason or str(error)
    problem = f"none of the first {FIRST_IMAGES} images decodes: {reason}"
    raise DataError(problem, where=manifest.uri, fix="Store the bytes of PNG or JPEG files")


def _evaluation_size(data: Data, first: tuple[int, int]) -> int:
    """Side of the images that networks see in evaluation.

    Raises:
        ConfigError: transforms that do not exist.
        DataError: they leave images of several sizes, or not square ones.
    """
    size = output_size(data.eval_transform, first)
    if size is None:
        raise DataError(
            f"images such as the first one ({first[1]} x {first[0]}) do not come out square and of one size",
            where="data.eval_transform",
            fix="Write eval_transform: [{resize: {size: 256}}, {center_crop: {size: 224}}]",
        )
    return size


@contextmanager
def about(key: str) -> Iterator[None]:
    """Put the key of the experiment before the place that an error in the block names."""
    try:
        yield
    except (DataError, StoreError) as error:
        where = error.where or ""
        if where.startswith("data."):
            raise
        raise type(error)(error.problem, where=f"{key} {where}".rstrip(), fix=error.fix) from error
