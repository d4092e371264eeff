"""Sources: built-in sets are packed once, whole or not at all, from what lies in data.root."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pickle
import socket
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets

from kdray.data.decode import decode
from kdray.data.digits import digit_samples
from kdray.data.shards import read_labels, read_manifest, read_rows
from kdray.data.sources import SOURCES, builtin_facts, is_present, resolve_source
from kdray.errors import DataError, StoreError
from kdray.experiment import Data
from kdray.store import Store
from tests.conftest import S3
from tests.store.test_refusals import unprivileged

ROWS = {"train": 30, "test": 12}


def uri_of(data: Data, split: str) -> str:
    uri = resolve_source(data, "train" if split == "train" else "test")
    assert uri is not None
    return uri


class TestShards:
    def test_shards_are_themselves(self) -> None:
        data = Data(train="s3://bucket/train", test="/data/test-*.parquet")
        assert resolve_source(data, "train") == "s3://bucket/train"
        assert resolve_source(data, "test") == "/data/test-*.parquet"
        assert resolve_source(Data(train="x"), "test") is None

    def test_an_unknown_name(self) -> None:
        with pytest.raises(DataError, match=r"'cifar11' is no built-in set \(did you mean 'cifar1"):
            builtin_facts("cifar11")

    def test_facts_of_all(self) -> None:
        assert SOURCES == ("digits", "cifar10", "cifar100")
        assert builtin_facts("cifar100")[:4] == (50000, 10000, 100, 32)


class TestDigits:
    def test_packed_once_and_as_the_facts_say(self, tmp_path: Path) -> None:
        data = Data(source="digits", root=str(tmp_path))
        facts = builtin_facts("digits")
        manifests = [read_manifest(uri_of(data, split)) for split in ("train", "test")]
        assert [m.num_samples for m in manifests] == [facts.train, facts.test]
        assert all((m.num_classes, m.mean, m.std) == (10, facts.mean, facts.std) for m in manifests)
        assert manifests[0].class_names == tuple("0123456789")
        rows = read_rows(manifests[0], np.arange(facts.train))
        pixels = np.stack([decode(image) for image in rows.images]) / 255
        assert pixels.shape[1:] == (facts.image_size, facts.image_size, 3)
        assert np.allclose(pixels.mean((0, 1, 2)), facts.mean, atol=5e-4)
        assert np.allclose(pixels.std((0, 1, 2)), facts.std, atol=5e-4)
        before = os.stat(Path(manifests[0].uri) / "manifest.json").st_mtime_ns
        assert uri_of(data, "train") == manifests[0].uri
        assert os.stat(Path(manifests[0].uri) / "manifest.json").st_mtime_ns == before
        assert os.listdir(tmp_path) == ["kdray-digits"]

    def test_the_split_is_stratified_disjoint_and_fixed(self) -> None:
        train, test = list(digit_samples("train")), list(digit_samples("test"))
        ids = {int(sample.id or 0) for sample in train} | {int(sample.id or 0) for sample in test}
        assert ids == set(range(1797))
        share = np.bincount([s.label for s in test]) / np.bincount([s.label for s in train + test])
        assert np.all(np.abs(share - 0.2) < 0.01)
        fixed = hashlib.sha256(repr([s.id for s in test]).encode()).hexdigest()
        assert fixed.startswith("ccccede969b91368")  # moving a row from test to train would make old results worthless

    @pytest.mark.parametrize("classes", [3, 10, 25, 100])
    def test_any_number_of_classes(self, classes: int) -> None:
        samples = list(digit_samples("train", size=16, classes=classes))
        assert {sample.label for sample in samples} == set(range(classes))
        assert decode(samples[0].image).shape == (16, 16, 3)
        if classes == 100:  # the class is to be seen: one digit in ten colours
            looks = {s.label: decode(s.image).max((0, 1)).tolist() for s in samples}
            assert len({tuple(value > 100 for value in look) for look in looks.values()}) > 3

    def test_the_default_root_is_data_here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert uri_of(Data(source="digits"), "test") == str(tmp_path / "data" / "kdray-digits" / "test")

    def test_a_root_in_a_bucket(self, s3: S3) -> None:
        data = Data(source="digits", root=s3.uri("data"))
        assert read_manifest(uri_of(data, "test")).num_samples == builtin_facts("digits").test
        assert uri_of(data, "train") == s3.uri("data/kdray-digits/train")

    def test_a_root_without_permission(self, tmp_path: Path) -> None:
        (tmp_path / "locked").mkdir(mode=0o555)
        with unprivileged(), pytest.raises(StoreError) as error:
            resolve_source(Data(source="digits", root=str(tmp_path / "locked")), "train")
        text = str(error.value)
        assert "no permission to write" in text and "data.root" in text and "\n" not in text

    def test_two_processes_at_once_leave_one_whole_set(self, tmp_path: Path) -> None:
        code = (
            "import sys; from kdray.data.sources import resolve_source; from kdray.experiment import Data\n"
            "print(resolve_source(Data(source='digits', root=sys.argv[1]), 'train'))"
        )
        both = [
            subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        said = [process.communicate(timeout=120)[0].strip() for process in both]
        assert [process.returncode for process in both] == [0, 0]
        assert said == [str(tmp_path / "kdray-digits" / "train")] * 2
        assert read_manifest(said[0]).num_samples == builtin_facts("digits").train
        assert os.listdir(tmp_path) == ["kdray-digits"]
        assert sorted(os.listdir(tmp_path / "kdray-digits")) == ["test", "train"]


@pytest.fixture
def archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with both archives in their official layout, tiny; torchvision is told their digests, and no server."""
    root = tmp_path / "root"
    root.mkdir()
    for name, kind in (("cifar10", torchvision.datasets.CIFAR10), ("cifar100", torchvision.datasets.CIFAR100)):
        inside = tmp_path / "made" / kind.base_folder
        inside.mkdir(parents=True)

        def put(file: str, content: object, inside: Path = inside) -> str:
            data = pickle.dumps(content)
            (inside / file).write_bytes(data)
            return hashlib.md5(data).hexdigest()

        names = [f"class {number}" for number in range(100 if name == "cifar100" else 10)]
        key = "fine_labels" if name == "cifar100" else "labels"
        lists: dict[str, list[list[str]]] = {}
        for split, listed in (("train", kind.train_list), ("test", kind.test_list)):
            pixels, labels = official(name, split)
            parts = np.array_split(np.arange(len(labels)), len(listed))
            lists[split] = [
                [file, put(file, {"data": pixels[part], key: labels[part].tolist()})]
                for (file, _), part in zip(listed, parts, strict=True)
            ]
        meta = {**kind.meta, "md5": put(kind.meta["filename"], {kind.meta["key"]: names})}
        with tarfile.open(root / kind.filename, "w:gz") as archive:
            archive.add(inside, kind.base_folder)
        monkeypatch.setattr(kind, "tgz_md5", hashlib.md5((root / kind.filename).read_bytes()).hexdigest())
        monkeypatch.setattr(kind, "train_list", lists["train"])
        monkeypatch.setattr(kind, "test_list", lists["test"])
        monkeypatch.setattr(kind, "meta", meta)
    with socket.socket() as closed:  # bound, not listening: nothing is fetched from elsewhere
        closed.bind(("127.0.0.1", 0))
        for kind in (torchvision.datasets.CIFAR10, torchvision.datasets.CIFAR100):
            monkeypatch.setattr(kind, "url", f"http://127.0.0.1:{closed.getsockname()[1]}/{kind.filename}")
        yield root


def official(name: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 [n, 3072] as the archives hold them (red, green, blue planes) and labels [n]."""
    rng = np.random.default_rng([len(name), len(split)])
    rows = ROWS[split]
    return rng.integers(0, 256, (rows, 3072), np.uint8), rng.integers(0, 100 if name == "cifar100" else 10, rows)


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            del format, args

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class TestCifar:
    @pytest.mark.parametrize("name", ["cifar10", "cifar100"])
    def test_packed_as_the_archive_holds_it(self, archives: Path, name: str) -> None:
        data = Data.model_validate({"source": name, "root": str(archives)})
        assert is_present(data)
        for split in ("train", "test"):
            manifest = read_manifest(uri_of(data, split))
            pixels, labels = official(name, split)
            rows = read_rows(manifest, np.arange(ROWS[split]))
            assert rows.labels.tolist() == labels.tolist()
            assert read_labels(manifest)[1].tolist() == list(range(ROWS[split]))
            for image, planes in zip(rows.images, pixels, strict=True):
                assert np.array_equal(decode(image), planes.reshape(3, 32, 32).transpose(1, 2, 0))
            facts = builtin_facts(name)
            assert (manifest.num_classes, manifest.mean, manifest.std) == (facts.classes, facts.mean, facts.std)
            assert manifest.class_names is not None and manifest.class_names[7] == "class 7"
        kinds = ("cifar-10-python.tar.gz", "cifar-100-python.tar.gz")
        assert sorted(os.listdir(archives)) == sorted([*kinds, f"kdray-{name}"])  # nothing unpacked stays
        (archives / kinds[0]).unlink()
        (archives / kinds[1]).unlink()
        assert uri_of(data, "train") and is_present(data)  # the shards are enough

    def test_an_unpacked_archive_is_enough(self, archives: Path) -> None:
        with tarfile.open(archives / "cifar-100-python.tar.gz") as archive:
            archive.extractall(archives, filter="data")
        (archives / "cifar-100-python.tar.gz").unlink()
        data = Data(source="cifar100", root=str(archives))
        assert is_present(data)
        assert read_manifest(uri_of(data, "train")).num_samples == ROWS["train"]

    def test_an_archive_in_a_bucket(self, archives: Path, s3: S3) -> None:
        root = s3.uri("cifar")
        Store(root).put_file("cifar-100-python.tar.gz", archives / "cifar-100-python.tar.gz")
        data = Data(source="cifar100", root=root)
        assert is_present(data)
        assert read_manifest(uri_of(data, "test")).num_samples == ROWS["test"]

    def test_a_download_that_fails_says_where_the_archive_belongs(self, archives: Path) -> None:
        (archives / "cifar-100-python.tar.gz").unlink()
        data = Data(source="cifar100", root=str(archives))
        assert not is_present(data)
        with pytest.raises(DataError) as error:
            resolve_source(data, "train")
        text = str(error.value)
        assert "\n" not in text
        for words in (str(archives), "cannot be fetched", "Put cifar-100-python.tar.gz", "data.root"):
            assert words in text
        assert os.listdir(archives) == ["cifar-10-python.tar.gz"]

    def test_a_downloaded_archive_is_kept(self, archives: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        home = archives.parent / "home"
        home.mkdir()
        served = (archives / "cifar-100-python.tar.gz").rename(home / "cifar-100-python.tar.gz")
        with serving(home) as url:
            monkeypatch.setattr(torchvision.datasets.CIFAR100, "url", f"{url}/{served.name}")
            uri = uri_of(Data(source="cifar100", root=str(archives)), "train")
        assert read_manifest(uri).num_samples == ROWS["train"]
        assert (archives / served.name).read_bytes() == served.read_bytes()

    def test_a_damaged_archive(self, archives: Path) -> None:
        path = archives / "cifar-10-python.tar.gz"
        path.write_bytes(path.read_bytes()[:-50])
        with pytest.raises(DataError) as error:
            resolve_source(Data(source="cifar10", root=str(archives)), "train")
        text = str(error.value)
        assert str(path) in text and "cut off, damaged" in text and "Remove it" in text
        assert path.exists() and not (archives / "kdray-cifar10").exists()

    def test_a_damaged_unpacked_archive(self, archives: Path) -> None:
        folder = archives / "cifar-100-python"
        folder.mkdir()
        (folder / "train").write_bytes(b"not what torchvision expects")
        with pytest.raises(DataError, match="is not the official archive's content, or is damaged"):
            resolve_source(Data(source="cifar100", root=str(archives)), "train")
