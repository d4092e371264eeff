"""A source of images for the tests of the engine: files of one folder, some of which are bad."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from kdray.data.pack.collection import BadItem, Collection, items_table

NAMES = ("cat", "dog", "owl")


class Pictures(Collection):
    """Files under the local folder `uri`; a file that has gone is a `BadItem`."""

    def read(self, items: pa.Table) -> Iterator[bytes | BadItem]:
        for path in items.column("path").to_pylist():
            try:
                yield (Path(self.uri) / path).read_bytes()
            except FileNotFoundError:
                yield BadItem("is gone")


def collection(folder: Path, split: str = "train", names: tuple[str, ...] | None = NAMES) -> Pictures:
    """What `write_pictures` left in `folder`."""
    files = sorted(folder.iterdir())
    labels = [int(file.name.split("-")[1].split(".")[0]) for file in files]
    items = items_table([file.name for file in files], labels, [file.stat().st_size for file in files])
    return Pictures(items, kind="imagefolder", uri=str(folder), split=split, class_names=names)


def write_pictures(folder: Path, count: int, sizes: tuple[int, int] = (20, 60), kind: str = "JPEG") -> Path:
    """`count` noisy images whose sides lie in `sizes`, named NUMBER-LABEL."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(5)
    for number in range(count):
        height, width = rng.integers(*sizes, 2)
        (folder / f"{number:04d}-{number % 3}.{kind.lower()}").write_bytes(picture(rng, height, width, kind))
    return folder


def picture(rng: np.random.Generator, height: int, width: int, kind: str = "JPEG") -> bytes:
    """One encoded image."""
    out = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(out, kind)
    return out.getvalue()


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under `folder` by its relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
