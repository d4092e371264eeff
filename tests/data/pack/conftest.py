"""A set that was packed once, for the tests that damage it."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdray.data.pack.execute import pack
from kdray.data.pack.options import PackOptions
from tests.data.pack.damage import ROWS
from tests.data.pack.pictures import collection, contents, write_pictures


@pytest.fixture(scope="package")
def packed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("packed")
    source = write_pictures(folder / "source", ROWS)
    pack(collection(source), str(folder / "set"), PackOptions(shard_bytes=40_000, row_group_rows=8), workers=0)
    return contents(folder / "set")


@pytest.fixture
def folder(packed: dict[str, bytes], tmp_path: Path) -> Path:
    """A packed set to damage."""
    (tmp_path / "set").mkdir()
    for name, data in packed.items():
        (tmp_path / "set" / name).write_bytes(data)
    return tmp_path / "set"
