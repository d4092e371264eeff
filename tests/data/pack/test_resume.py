"""A packing that is stopped anywhere and goes on is, byte for byte, the one that nobody stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdray.data.manifest import read_manifest
from kdray.data.manifest_json import MANIFEST, WRITING
from kdray.data.pack.destination import PARTS, Destination
from kdray.data.pack.execute import pack, plan_packing
from kdray.data.pack.options import PackOptions
from kdray.errors import DataError, StoreError
from kdray.store import Store
from tests.cluster.command import REPOSITORY
from tests.conftest import S3
from tests.data.pack.pictures import collection, contents, write_pictures
from tests.data.shard_sets import some, write


class Died(BaseException):
    """The process ends here."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_pictures(tmp_path_factory.mktemp("pictures") / "source", 120)
    (folder / "0050-2.jpeg").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole") / "set"
    pack(collection(source), str(folder), OPTIONS, workers=0)
    return contents(folder)


OPTIONS = PackOptions(shard_bytes=40_000, short_side=30, mean_std=True, max_bad=1)


def in_store(uri: str) -> dict[str, bytes]:
    """All that lies in a folder of any storage; a folder in it appears as its name."""
    store = Store(uri)
    return {name: b"" if name == PARTS else store.read_bytes(name) for name in store.list()}


def dying(monkeypatch: pytest.MonkeyPatch, at: int, after: bool) -> Callable[[], int]:
    """Let the process die before or after its write, rename or removal number `at`; returns how many there were."""
    calls = 0
    lock = threading.Lock()

    def watched(owner: Any, name: str) -> None:
        plain = getattr(owner, name)

        def call(*arguments: Any, **more: Any) -> Any:
            nonlocal calls
            with lock:
                number, calls = calls, calls + 1
            if number == at and not after:
                raise Died
            result = plain(*arguments, **more)
            if number >= at:
                raise Died
            return result

        monkeypatch.setattr(owner, name, call)

    for name in ("write_json", "put_file", "delete"):
        watched(Store, name)
    watched(os, "replace")
    return lambda: calls


class TestStopped:
    @pytest.mark.parametrize("after", [False, True])
    def test_at_any_step(
        self, source: Path, tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, after: bool
    ) -> None:
        at = 0
        while True:
            dest = tmp_path / f"set-{at}"
            with monkeypatch.context() as patch:
                steps = dying(patch, at, after)
                try:
                    pack(collection(source), str(dest), OPTIONS, workers=0)
                except Died:
                    pass
                else:
                    assert steps() <= at
                    break
            if not (dest / MANIFEST).exists():
                with pytest.raises(DataError):
                    read_manifest(str(dest))
            manifest = pack(collection(source), str(dest), OPTIONS, workers=0)
            assert contents(dest) == whole, at
            assert read_manifest(str(dest)) == manifest
            at += 1
        assert at > 20

    @pytest.mark.parametrize("at", [0, 1, 3, 6, 10])
    def test_in_a_bucket(
        self, source: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, s3: S3, at: int
    ) -> None:
        uri = s3.uri(f"resume/{at}")
        with monkeypatch.context() as patch:
            dying(patch, at, False)
            with pytest.raises(Died):
                pack(collection(source), uri, OPTIONS, workers=0)
        pack(collection(source), uri, OPTIONS, workers=0)
        assert in_store(uri) == whole

    def test_only_what_is_missing_is_done(
        self, source: Path, tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dest = tmp_path / "set"
        with monkeypatch.context() as patch:
            dying(patch, 12, False)
            with pytest.raises(Died):
                pack(collection(source), str(dest), OPTIONS, workers=0)
        done = {path.name: path.stat().st_mtime_ns for path in dest.glob("*.parquet")}
        records = len(list((dest / PARTS).glob("train-*.json")))
        assert 2 <= records <= len(done)
        _, there = plan_packing(collection(source), str(dest), OPTIONS)
        assert there == f"begun: {records} shards are there"
        seen: list[bool] = []

        class Watching:
            def begin(self, *_: object) -> None: ...

            def part(self, images: int, source_bytes: int, bad: int, resumed: bool) -> None:
                seen.append(resumed)

            def end(self, packed_already: bool) -> None: ...

        pack(collection(source), str(dest), OPTIONS, workers=0, progress=Watching())
        assert seen.count(True) == records
        kept = [name for name, time in done.items() if (dest / name).stat().st_mtime_ns == time]
        assert len(kept) >= records and contents(dest) == whole

    def test_a_record_that_does_not_fit_its_shard_is_not_believed(
        self, source: Path, tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dest = tmp_path / "set"
        with monkeypatch.context() as patch:
            dying(patch, 14, False)
            with pytest.raises(Died):
                pack(collection(source), str(dest), OPTIONS, workers=0)
        records = sorted((dest / PARTS).glob("train-*.json"))
        shard = dest / f"{records[0].stem}.parquet"
        shard.write_bytes(shard.read_bytes()[:-100])
        records[1].write_text("{")
        pack(collection(source), str(dest), OPTIONS, workers=0)
        assert contents(dest) == whole

    def test_killed(self, source: Path, tmp_path: Path, whole: dict[str, bytes]) -> None:
        dest = tmp_path / "set"
        code = (
            "import os, signal, sys, pathlib\n"
            "from kdray.data.pack.execute import pack\n"
            "from kdray.data.pack.options import PackOptions\n"
            "from kdray.data.pack.destination import Destination\n"
            "from tests.data.pack.pictures import collection\n"
            "plain, kept = Destination.keep, []\n"
            "def keep(self, *a):\n"
            "    plain(self, *a); kept.append(1)\n"
            "    if len(kept) == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
            "Destination.keep = keep\n"
            "options = PackOptions(shard_bytes=40_000, short_side=30, mean_std=True, max_bad=1)\n"
            "pack(collection(pathlib.Path(sys.argv[1])), sys.argv[2], options, workers=0)\n"
        )
        command = [sys.executable, "-c", code, str(source), str(dest)]
        ends = []
        while not ends or ends[-1] == -signal.SIGKILL:
            ends.append(subprocess.run(command, cwd=REPOSITORY, capture_output=True).returncode)
            assert len(ends) < 20
        assert ends[-1] == 0 and len(ends) > 2
        assert contents(dest) == whole


class TestOthers:
    def test_another_source_or_other_options_are_refused(
        self, source: Path, tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dest = tmp_path / "set"
        with monkeypatch.context() as patch:
            dying(patch, 8, False)
            with pytest.raises(Died):
                pack(collection(source), str(dest), OPTIONS, workers=0)
        before = contents(dest)
        for listed, options in (
            (collection(source), PackOptions(shard_bytes=40_000)),
            (collection(source, names=("a", "b", "c")), OPTIONS),
        ):
            with pytest.raises(DataError, match=r"a packing that began.*--fresh"):
                pack(listed, str(dest), options, workers=0)
        with pytest.raises(DataError, match="something else"):
            write(some(10), dest)
        assert contents(dest) == before
        pack(collection(source), str(dest), OPTIONS, workers=0, fresh=True)
        assert contents(dest) == whole

    def test_other_libraries_would_encode_other_bytes(
        self, source: Path, tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dest = tmp_path / "set"
        with monkeypatch.context() as patch:
            dying(patch, 8, False)
            with pytest.raises(Died):
                pack(collection(source), str(dest), OPTIONS, workers=0)
        with monkeypatch.context() as patch:
            patch.setattr("PIL.__version__", "1.2.3")
            with pytest.raises(DataError, match=r"begun with Pillow.*here are Pillow 1\.2\.3.*--fresh"):
                pack(collection(source), str(dest), OPTIONS, workers=0)
        pack(collection(source), str(dest), OPTIONS, workers=0)
        assert contents(dest) == whole
        with monkeypatch.context() as patch:  # what is whole stays
            patch.setattr("PIL.__version__", "1.2.3")
            pack(collection(source), str(dest), OPTIONS, workers=0)
        assert contents(dest) == whole

    def test_two_packers_at_once(self, source: Path, tmp_path: Path, whole: dict[str, bytes]) -> None:
        for attempt in range(5):
            dest = tmp_path / f"set-{attempt}"
            found = _together(lambda dest=dest: pack(collection(source), str(dest), OPTIONS, workers=0))
            assert found[0] == found[1] and contents(dest) == whole

    def test_two_packers_at_once_in_a_bucket(self, source: Path, whole: dict[str, bytes], s3: S3) -> None:
        uri = s3.uri("resume/two")
        found = _together(lambda: pack(collection(source), uri, OPTIONS, workers=0))
        assert found[0] == found[1] and in_store(uri) == whole

    def test_another_packing_that_takes_the_folder_over(
        self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dest = tmp_path / "set"
        plain, lock = Destination.keep, threading.Lock()

        def keep(self: Destination, *arguments: Any) -> None:
            with lock:
                self.begin({"identity": "of the other"})
            plain(self, *arguments)

        monkeypatch.setattr(Destination, "keep", keep)
        with pytest.raises(DataError, match="another packing has begun there"):
            pack(collection(source), str(dest), OPTIONS, workers=0)
        assert not list(dest.glob("*.parquet")) and (dest / WRITING).exists()

    def test_a_folder_that_is_not_seen_from_every_node(
        self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dest = tmp_path / "set"
        monkeypatch.setattr(Destination, "begin", lambda *_: None)
        with pytest.raises(DataError, match=r"not to be seen from this node.*--workers 0"):
            pack(collection(source), str(dest), OPTIONS, workers=0)

    @pytest.mark.parametrize("mount_point", [False, True])
    def test_a_source_that_is_not_seen_from_every_node(self, source: Path, tmp_path: Path, mount_point: bool) -> None:
        elsewhere = collection(source)
        elsewhere.uri = str(tmp_path / "photos")
        if mount_point:
            (tmp_path / "photos").mkdir()
        with pytest.raises(DataError, match=r"photos: is not to be seen from every node.*--workers 0"):
            pack(elsewhere, str(tmp_path / "set"), PackOptions(max_bad=1.0), workers=0)

    def test_shards_that_went_away(self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        dest = tmp_path / "set"
        plain = Destination.finish

        def finish(self: Destination, *arguments: Any) -> None:
            sorted(dest.glob("*.parquet"))[0].unlink()
            plain(self, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(Destination, "finish", finish)
            with pytest.raises(DataError, match="is missing, though it was written"):
                pack(collection(source), str(dest), OPTIONS, workers=0)
        assert not (dest / MANIFEST).exists()
        pack(collection(source), str(dest), OPTIONS, workers=0)
        assert read_manifest(str(dest)).num_samples == 119

    def test_a_late_upload_of_another_packing(
        self, source: Path, tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dest, late = tmp_path / "set", "train-00001-of-00003.parquet"
        plain = Destination.finish

        def finish(self: Destination, *arguments: Any) -> None:
            (dest / late).write_bytes(b"late")
            (dest / "_mine.parquet").write_bytes(b"which no reader takes")
            plain(self, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(Destination, "finish", finish)
            with pytest.raises(DataError, match=f"not of this packing: {late}. Delete them"):
                pack(collection(source), str(dest), OPTIONS, workers=0)
        monkeypatch.setattr("kdray.data.pack.execute.run_tasks", None)
        with pytest.raises(DataError, match=late):  # before anything else is done
            pack(collection(source), str(dest), OPTIONS, workers=0)
        assert not (dest / MANIFEST).exists()
        (dest / late).unlink()
        manifest = pack(collection(source), str(dest), OPTIONS, workers=0)
        (dest / "_mine.parquet").unlink()
        assert contents(dest) == whole and read_manifest(str(dest)) == manifest

    def test_a_storage_that_fails_is_gone_on_from(
        self, source: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, s3: S3
    ) -> None:
        uri = s3.uri("resume/fails")
        plain, uploads = Store.put_file, []

        def fails(self: Store, rel: str, path: str) -> None:
            uploads.append(rel)
            if len(uploads) == 3:
                raise StoreError("endpoint does not answer", where=rel)
            plain(self, rel, path)

        with monkeypatch.context() as patch:
            patch.setattr(Store, "put_file", fails)
            with pytest.raises(StoreError, match="does not answer"):
                pack(collection(source), uri, OPTIONS, workers=0)
        with pytest.raises(DataError, match="`kdray shard` goes on"):
            read_manifest(uri)
        pack(collection(source), uri, OPTIONS, workers=0)
        assert in_store(uri) == whole


def _together(work: Callable[[], Any]) -> list[Any]:
    """The results of two threads that do `work` at once; an error in one is raised."""
    results: list[Any] = []
    errors: list[BaseException] = []

    def one() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results
