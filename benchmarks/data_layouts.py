"""The same images in the layout that each arm of `benchmarks/data.py` reads, made once and kept in its work folder."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import photos
from PIL import Image

from kdray.data.manifest import read_manifest
from kdray.data.pack.collection import open_collections
from kdray.data.pack.execute import pack
from kdray.data.pack.options import PackOptions
from kdray.data.reader import iter_rows

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
        if layout in ("folder", "tars"):
            (_folder if layout == "folder" else _tars)(images, part)
        elif layout == "chunks":
            _chunks(make("folder", images, folder), part)
        else:
            _pack(make("folder", images, folder), part, SHORT_SIDE if layout == "packed" else None)
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


def _pack(folder: Path, target: Path, short_side: int | None) -> None:
    options = PackOptions(short_side=short_side, quality=QUALITY, shard_bytes=SHARD_BYTES)
    with open_collections(str(folder)) as (collection,):
        pack(collection, str(target), options, workers=0)


def _open(path: str) -> dict[str, object]:
    # LitData keeps a JPEG's bytes as they are when it is given the opened file.
    return {"image": Image.open(path), "label": int(Path(path).parent.name.removeprefix("class"))}


def _chunks(folder: Path, target: Path) -> None:
    import litdata

    paths = [str(path) for path in sorted(folder.glob("*/*.jpg"))]
    litdata.optimize(_open, paths, str(target), chunk_bytes="16MB", num_workers=1, verbose=False)
