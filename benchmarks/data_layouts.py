"""The same images in the layout that each arm of `benchmarks/data.py` reads, made once and kept in its work folder."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import photos
from PIL import Image

from kdray.data.decode import decode
from kdray.data.manifest import read_manifest
from kdray.data.reader import iter_rows
from kdray.data.writer import Sample, write_shards

SHARD_BYTES = 16 << 20
SHORT_SIDE, QUALITY = 256, 90
Images = Callable[[], Iterator[tuple[str, int, bytes]]]
"""Names, labels and encoded bytes, the same each time it is called."""


def photo_images(work: Path, count: int, seed: int, data: str | None, processes: int) -> tuple[str, Images]:
    """The made-up photographs, and a name for them."""
    folder = photos.make(work, count, seed, data, processes)
    return folder.name, lambda: photos.read(folder)


def shard_images(data: str, repeat: int) -> tuple[str, Images]:
    """The images of the shards at `data`, each `repeat` times under another name, and a name for them."""
    manifest = read_manifest(data)

    def images() -> Iterator[tuple[str, int, bytes]]:
        for number in range(repeat):
            for rows in iter_rows(manifest, np.arange(manifest.num_samples)):
                for row, label, image in zip(rows.index, rows.labels, rows.images, strict=True):
                    yield f"{number}-{row:06d}", int(label), image

    return f"shards-{manifest.fingerprint[:12]}-{repeat}", images


def make(layout: str, images: Images, folder: Path) -> Path:
    """Lay the images out under `folder`, unless they are there; return where."""
    target = folder / layout
    if target.exists():
        return target
    part = folder / f"{layout}.part-{os.getpid()}"
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        if layout == "chunks":
            _chunks(make("folder", images, folder), part)
        else:
            {"folder": _folder, "tars": _tars, "shards": _shards, "packed": _packed}[layout](images, part)
        os.rename(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def _folder(images: Images, target: Path) -> None:
    for name, label, image in images():
        path = target / f"class{label:03d}" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)


def _tars(images: Images, target: Path) -> None:
    target.mkdir()
    everything = images()
    for number, first in enumerate(everything):
        with tarfile.open(target / f"train-{number:05d}.tar", "w") as tar:
            filled = _add(tar, *first)
            while filled < SHARD_BYTES and (one := next(everything, None)) is not None:
                filled += _add(tar, *one)


def _add(tar: tarfile.TarFile, name: str, label: int, image: bytes) -> int:
    for suffix, content in (("jpg", image), ("cls", str(label).encode())):
        member = tarfile.TarInfo(f"{name}.{suffix}")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    return len(image)


def _shards(images: Images, target: Path) -> None:
    write_shards((Sample(image, label, name) for name, label, image in images()), str(target), shard_bytes=SHARD_BYTES)


def _packed(images: Images, target: Path) -> None:
    samples = (Sample(_smaller(image), label, name) for name, label, image in images())
    write_shards(samples, str(target), shard_bytes=SHARD_BYTES)


def _smaller(data: bytes) -> bytes:
    """The image with a short side of `SHORT_SIDE` where it is larger, encoded again."""
    image = decode(data)
    short = min(image.shape[:2])
    if short > SHORT_SIDE:
        size = (round(image.shape[1] * SHORT_SIDE / short), round(image.shape[0] * SHORT_SIDE / short))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()


def _open(path: str) -> dict[str, object]:
    # LitData keeps a JPEG's bytes as they are when it is given the opened file.
    return {"image": Image.open(path), "label": int(Path(path).parent.name.removeprefix("class"))}


def _chunks(folder: Path, target: Path) -> None:
    import litdata

    paths = [str(path) for path in sorted(folder.glob("*/*.jpg"))]
    litdata.optimize(_open, paths, str(target), chunk_bytes="16MB", num_workers=1, verbose=False)
