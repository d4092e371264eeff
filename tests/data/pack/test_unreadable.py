"""Files that alone cannot be read are bad ones; a storage that refuses all of them ends the packing."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from kdray.data.pack.collection import open_collections
from kdray.data.pack.execute import pack
from kdray.data.pack.options import PackOptions
from kdray.errors import StoreError
from tests.data.pack.pictures import write_pictures

OPTIONS = PackOptions(max_bad=1.0, shard_bytes=20_000)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("cat", "dog"):
        write_pictures(tmp_path / "photos" / name, 20)
    return tmp_path / "photos"


def test_one_is_left_out(photos: Path, tmp_path: Path) -> None:
    (photos / "cat" / "loop.jpg").symlink_to("loop.jpg")
    (photos / "loop").symlink_to("loop")
    with open_collections(str(photos)) as (found,):
        (photos / "dog" / "0003-0.jpeg").unlink()
        (photos / "dog" / "0003-0.jpeg").mkdir()
        manifest = pack(found, str(tmp_path / "set"), OPTIONS, workers=0)
    assert dict(manifest.bad) == {
        "cat/loop.jpg": "cannot read: Too many levels of symbolic links",
        "dog/0003-0.jpeg": "is a folder, not a file",
    }
    assert manifest.num_samples == 39


def test_all_are_the_fault_of_the_storage(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Path.read_bytes

    def denied(self: Path) -> bytes:
        if photos in self.parents:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return plain(self)

    with open_collections(str(photos)) as (found,):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_bytes", denied)
            with pytest.raises(StoreError, match=r"photos/.*: no permission to read\. Give this user"):
                pack(found, str(tmp_path / "set"), OPTIONS, workers=0)
        assert pack(found, str(tmp_path / "set"), OPTIONS, workers=0).num_samples == 40
