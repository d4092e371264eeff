"""Run by test_ray.py: packs with a local Ray. Arguments: source, folder of the sets, workers, whether to go further."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from kdray.data.pack.collection import BadItem
from kdray.data.pack.execute import pack
from kdray.data.pack.options import PackOptions
from kdray.data.pack.verify import verify
from kdray.errors import DataError
from tests.data.pack.pictures import Pictures, collection

OPTIONS = PackOptions(shard_bytes=20_000, short_side=30, max_bad=1)


class Slow(Pictures):
    """Gives a test time to stop what reads it."""

    def read(self, items: pa.Table) -> Iterator[bytes | BadItem]:
        for data in super().read(items):
            time.sleep(0.01)
            yield data


def slow(folder: Path, here: bool = False) -> Slow:
    """The pictures in `folder`, as a slow source."""
    found = collection(folder)
    return Slow(found.items, kind=found.kind, uri=found.uri, class_names=found.class_names, here=here)


def main(source: Path, sets: Path, workers: int, further: bool) -> None:
    manifest = pack(slow(source), str(sets / "killed"), OPTIONS, workers=workers)
    if not further:
        return
    assert pack(slow(source, here=True), str(sets / "here"), OPTIONS, workers=workers).shards == manifest.shards
    assert verify(manifest.uri, workers=workers).good
    try:
        pack(slow(source), str(sets / "strict"), PackOptions(shard_bytes=20_000, max_bad=0), workers=workers)
    except DataError as error:
        print(f"told: {error}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), len(sys.argv) > 4)
