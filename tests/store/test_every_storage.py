"""What holds on every storage: the store gives back what was written, and knows what is there."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from kdray.errors import StoreError
from kdray.store import Store, exists_uri, open_uri, read_range, read_uri
from tests.conftest import S3
from tests.store.telling import one_line


@pytest.fixture(params=["local", "file", "s3", "real_s3", "gs"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param in ("s3", "real_s3"):
        server: S3 = request.getfixturevalue(request.param)
        return Store(server.uri(f"store/{tmp_path.name}"))
    if request.param == "gs":
        return Store(f"{request.getfixturevalue('gcs')}/store/{tmp_path.name}")
    return Store(tmp_path / "runs" if request.param == "local" else f"file://{tmp_path}/runs")


def files_under(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


class TestEveryStorage:
    def test_gives_back_what_was_written(self, store: Store, tmp_path: Path) -> None:
        store.write_bytes("a/x.bin", b"\x00\xff")
        store.write_text("a/b/t.txt", "naïve\n")
        store.write_json("a/b/j.json", {"b": 1, "a": [1.5, None]})
        assert store.read_bytes("a/x.bin") == b"\x00\xff"
        assert store.read_text("a/b/t.txt") == "naïve\n"
        assert list(store.read_json("a/b/j.json").items()) == [("b", 1), ("a", [1.5, None])]
        assert store.list("a") == ["b", "x.bin"]
        assert store.sub("a").list("b") == ["j.json", "t.txt"]

    def test_a_second_write_replaces_the_first(self, store: Store) -> None:
        store.write_bytes("a/x", b"long and old")
        store.write_bytes("a/x", memoryview(b"new"))
        assert store.read_bytes("a/x") == b"new"
        store.write_bytes("a/x", b"")
        assert store.read_bytes("a/x") == b""

    def test_files_go_in_and_out(self, store: Store, tmp_path: Path) -> None:
        for size in (0, 3 << 20):
            given = tmp_path / "given"
            given.write_bytes(os.urandom(size))
            store.put_file("a/file", given)
            store.get_file("a/file", tmp_path / "taken" / "copy")
            assert (tmp_path / "taken" / "copy").read_bytes() == given.read_bytes()
        assert files_under(tmp_path / "taken") == ["copy"]

    def test_knows_what_is_there(self, store: Store) -> None:
        store.write_bytes("a/b/x", b"1")
        assert store.exists("a/b/x") and store.exists("a/b") and store.exists("")
        assert not store.exists("a/b/y") and not store.exists("a/b/x2")
        assert store.list("nothing") == []

    def test_deletes_files_and_trees_and_nothing_else(self, store: Store) -> None:
        for name in ("a/b/x", "a/b/y", "a/z"):
            store.write_bytes(name, b"1")
        store.delete("a/z")
        assert store.list("a") == ["b"]
        store.delete("a/b")
        assert not store.exists("a/b/x")
        store.delete("never was")

    def test_reading_what_is_absent_says_so(self, store: Store, tmp_path: Path) -> None:
        with pytest.raises(StoreError) as error:
            store.read_bytes("a/none")
        one_line(error, "a/none", "does not exist")
        with pytest.raises(StoreError, match="does not exist"):
            store.get_file("a/none", tmp_path / "out")
        assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))

    def test_is_its_uri_when_pickled(self, store: Store) -> None:
        again = pickle.loads(pickle.dumps(store))
        assert again == store and again.uri == store.uri
        assert len(pickle.dumps(store)) < 400

    def test_a_probe_leaves_nothing(self, store: Store) -> None:
        store.check_writable()
        assert [name for name in store.list() if name != "a"] == []

    def test_single_files_by_uri(self, store: Store) -> None:
        store.write_bytes("a/w", b"weights")
        assert read_uri(store.path_uri("a/w")) == b"weights"
        assert exists_uri(store.path_uri("a/w")) and not exists_uri(store.path_uri("a/v"))
        files, path = open_uri(store.path_uri("a/w"))
        with files.open_input_file(path) as file:
            assert file.read() == b"weights"

    def test_ranges_of_a_file(self, store: Store) -> None:
        store.write_bytes("a/r", bytes(range(100)))
        uri = store.path_uri("a/r")
        assert read_range(uri, 10, 5)[:2] == (bytes(range(10, 15)), 100)
        assert read_range(uri, -5, 5)[:2] == (bytes(range(95, 100)), 100)
        assert read_range(uri, -500, 500)[:2] == (bytes(range(100)), 100)
        assert read_range(uri, 98, 50)[:2] == (bytes([98, 99]), 100)
        assert read_range(uri, 300, 5).data == b""
        with pytest.raises(StoreError, match="does not exist"):
            read_range(store.path_uri("a/none"), 0, 1)
