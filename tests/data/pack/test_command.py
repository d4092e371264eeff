"""`kdray shard` as a person meets it: what it prints, its exit codes, its one-line errors."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from kdray.cli import main
from kdray.data.dataset import open_dataset
from kdray.data.manifest import read_manifest
from kdray.data.manifest_json import MANIFEST, WRITING
from kdray.data.pack.command import data_lines
from kdray.data.pack.rows_file import ROWS_FILE
from kdray.experiment import Data
from tests.cluster.command import REPOSITORY, Process, running
from tests.conftest import S3
from tests.data.pack.pictures import NAMES, contents, picture

Text = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ImageFolder of two splits."""
    folder, rng = tmp_path_factory.mktemp("source") / "photos", np.random.default_rng(0)
    for split, count in (("train", 20), ("val", 5)):
        for name in NAMES:
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                (folder / split / name / f"{number}.jpg").write_bytes(picture(rng, 40, 50))
    return folder


@pytest.fixture
def spoiled(source: Path, tmp_path: Path) -> Path:
    """The same with an image that does not decode."""
    shutil.copytree(source, tmp_path / "spoiled")
    (tmp_path / "spoiled" / "train" / "dog" / "3.jpg").write_bytes(b"\xff\xd8\xff no image")
    return tmp_path / "spoiled"


def shard(*arguments: object) -> int:
    return main(["shard", *map(str, arguments)])


def test_pack_and_verify(source: Path, tmp_path: Path, capsys: Text) -> None:
    dest = tmp_path / "set"
    assert shard(source, dest, "--workers", 0, "--shard-bytes", "30KiB", "--mean-std") == 0
    out = capsys.readouterr().out
    train, val = read_manifest(str(dest / "train")), read_manifest(str(dest / "val"))
    assert (train.num_samples, val.num_samples) == (60, 15)
    assert train.class_names == NAMES == val.class_names
    assert f"{len(train.shards)}/{len(train.shards)} shards" in out and "images/s" in out and "mean [" in out
    said = yaml.safe_load(out[out.index("data:") :])["data"]
    assert said == {"train": str(dest / "train"), "test": str(dest / "val")}
    assert Data(**said).train == str(dest / "train")
    before = contents(dest)
    assert shard(source, dest, "--workers", 0, "--shard-bytes", "30KiB", "--mean-std") == 0
    assert capsys.readouterr().out.count("packed already") == 2 and contents(dest) == before

    assert shard("verify", dest / "train") == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("as the manifest says, and all decode")
    assert shard("verify", dest) == 0  # both splits
    assert capsys.readouterr().out.count(": well: ") == 2
    path = sorted((dest / "val").glob("*.parquet"))[0]
    path.write_bytes(path.read_bytes()[:-1])
    assert shard("verify", dest) == 1
    out = capsys.readouterr().out
    assert f"{path.name}: has " in out and "problems in" in out


def test_verify_looks_at_every_split(source: Path, tmp_path: Path, capsys: Text) -> None:
    dest = tmp_path / "set"
    assert shard(source, dest, "--workers", 0) == 0
    (dest / "README.md").write_text("about it")
    shutil.copytree(dest / "val", dest / ".trash" / "val")
    (dest / ".trash" / MANIFEST).write_text("{")
    capsys.readouterr()
    assert shard("verify", dest) == 0
    assert capsys.readouterr().out.count(": well: ") == 2
    (dest / "train" / MANIFEST).rename(dest / "train" / WRITING)
    assert shard("verify", dest) == 1
    done = capsys.readouterr()
    assert f"{dest / 'train'}: holds a set whose writing was cut off" in done.out
    assert f"{dest / 'val'}: well: 15 images of 3 classes in 1 shard," in done.out and not done.err
    assert shard("verify", dest / "train") == 2
    assert "cut off" in capsys.readouterr().err


def test_verify_misses_a_manifest(source: Path, tmp_path: Path, capsys: Text) -> None:
    dest = tmp_path / "set"
    assert shard(source, dest, "--workers", 0) == 0
    (dest / "notes").mkdir()
    (dest / "train" / MANIFEST).unlink()
    path = sorted((dest / "train").glob("*.parquet"))[0]
    path.write_bytes(path.read_bytes()[:-100])
    capsys.readouterr()
    assert shard("verify", dest) == 1
    out = capsys.readouterr().out
    assert f"  {MANIFEST}: is missing" in out and f"{path.name}: does not read" in out
    assert f"{dest / 'train'}: 2 problems in" in out and f"{dest / 'val'}: well: 15 images" in out
    (dest / "val" / MANIFEST).unlink()  # sets of others
    for name in ("train", "val"):
        (dest / name / ROWS_FILE).unlink()
    path.unlink()
    shutil.copy(next((dest / "val").glob("*.parquet")), path)
    capsys.readouterr()
    assert shard("verify", dest) == 0
    assert capsys.readouterr().out.count("there is no manifest") == 2


def test_verify_of_nothing(tmp_path: Path, capsys: Text) -> None:
    assert shard("verify", tmp_path / "nowhere") == 2
    assert capsys.readouterr().err == f"kdray: {tmp_path / 'nowhere'}: does not exist. Check the path\n"


def test_one_split_goes_to_its_folder(source: Path, tmp_path: Path) -> None:
    assert shard(source, tmp_path / "set", "--workers", 0, "--split", "val") == 0
    assert os.listdir(tmp_path / "set") == ["val"]
    assert shard(source / "train", tmp_path / "plain", "--workers", 0) == 0  # without splits: the folder itself
    assert (tmp_path / "plain" / MANIFEST).exists()


def test_splits_keep_their_names(source: Path, tmp_path: Path, capsys: Text) -> None:
    shutil.copytree(source / "train", tmp_path / "photos" / "Training")
    shutil.copytree(source / "val", tmp_path / "photos" / "Test")
    dest = tmp_path / "set"
    assert shard(tmp_path / "photos", dest, "--workers", 0) == 0
    out = capsys.readouterr().out
    said = yaml.safe_load(out[out.index("data:") :])["data"]
    assert said == {"train": str(dest / "Training"), "test": str(dest / "Test")}
    dataset = open_dataset(Data(**said, eval_transform=[{"resize": {"size": 32}}, {"center_crop": {"size": 32}}]))
    assert dataset.class_names == NAMES and dataset.test is not None and dataset.test.manifest.num_samples == 15
    assert shard("verify", dest) == 0


def test_a_dry_run_writes_nothing(source: Path, tmp_path: Path, capsys: Text) -> None:
    assert shard(source, tmp_path / "set", "--dry-run", "--shard-bytes", "30KiB", "--short-side", 20) == 0
    out = capsys.readouterr().out
    assert "imagefolder" in out and "train" in out and "60" in out and "about" in out and "to be packed" in out
    assert not (tmp_path / "set").exists()
    assert shard(source, tmp_path / "set", "--workers", 0) == 0
    capsys.readouterr()
    assert shard(source, tmp_path / "set", "--dry-run") == 0
    assert capsys.readouterr().out.count("packed already") == 2


def test_a_dry_run_of_a_fresh_start(
    source: Path, tmp_path: Path, capsys: Text, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    dest = tmp_path / "set"
    assert shard(source / "val", dest, "--workers", 0, "--shard-bytes", "9KiB") == 0
    before, count = contents(dest), len(list(dest.glob("*.parquet")))
    capsys.readouterr()
    assert shard(source / "val", dest, "--dry-run", "--fresh") == 0
    assert f"{count} shards would be deleted" in capsys.readouterr().out
    assert shard(source / "val", tmp_path / "none", "--dry-run", "--fresh") == 0
    assert "deleted" not in capsys.readouterr().out
    (dest / "mine.parquet").write_bytes(b"mine")
    assert shard(source / "val", dest, "--dry-run", "--fresh") == 2
    assert "mine.parquet" in capsys.readouterr().err
    (dest / "mine.parquet").unlink()
    assert contents(dest) == before


def test_bad_images_are_told(spoiled: Path, tmp_path: Path, capsys: Text) -> None:
    assert shard(spoiled, tmp_path / "set", "--workers", 0) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "dog/3.jpg" in error and "split 'train'" in error and "raise --max-bad" in error
    assert shard(spoiled, tmp_path / "set", "--workers", 0, "--max-bad", 1) == 0
    assert "left out of train" in capsys.readouterr().out


def test_reencoding_from_and_to_a_bucket(source: Path, tmp_path: Path, s3: S3, capsys: Text) -> None:
    from kdray.store import Store

    for name, data in contents(source / "val").items():
        Store(s3.uri("command/photos")).write_bytes(name, data)
    options = ["--workers", 0, "--short-side", 20, "--quality", 80]
    assert shard(s3.uri("command/photos"), s3.uri("command/set"), *options) == 0
    manifest = read_manifest(s3.uri("command/set"))
    assert manifest.sizes is not None and manifest.sizes.height == (20, 20.0, 20)
    assert manifest.packing is not None and manifest.packing.reencoded == 15
    assert shard("verify", s3.uri("command/set")) == 0
    assert "s3://" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--quality", "80"], ["--quality: does nothing without --short-side"]),
        (["--small", "jpeg"], ["--small: does nothing"]),
        (["--order", "mix"], ["--order", "did you mean 'mixed'"]),
        (["--short-side", "20", "--small", "jpg"], ["--small", "did you mean 'jpeg'"]),
        (["--shard-bytes", "3x"], ["--shard-bytes", "'3x' is no size"]),
        (["--max-bad", "few"], ["--max-bad", "'few' is no limit"]),
        (["--workers", "-1"], ["--workers"]),
        (["--shortside", "256"], ["'--shortside' is not known (did you mean '--short-side'?)"]),
        (["--kind", "imagefoldr"], ["imagefolder"]),
        (["--split", "tran"], ["train"]),
    ],
)
def test_errors_are_one_line(
    source: Path, tmp_path: Path, capsys: Text, arguments: list[str], words: list[str]
) -> None:
    assert shard(source, tmp_path / "set", *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("kdray: ") and error.count("\n") == 1
    for word in words:
        assert word in error, error
    assert not (tmp_path / "set").exists()


def test_lines_for_an_experiment() -> None:
    assert data_lines({"train": "a", "val": "b"}) == ["data:", "  train: a", "  test: b"]
    assert data_lines({"train": "a", "val": "b", "test": "c"}) == ["data:", "  train: a", "  test: c", "  # val: b"]
    assert data_lines({"photos": "a"}) == ["data:", "  train: a"]
    assert data_lines({"val": "a"}) == ["data:", "  test: a"]
    assert data_lines({"Training": "a", "Testing": "b"}) == ["data:", "  train: a", "  test: b"]


@pytest.fixture
def interrupted(source: Path, tmp_path: Path) -> Iterator[Process]:
    """A packing under way, slow enough to be met."""
    code = (
        "import sys, time\n"
        "from kdray.data.pack import parts\n"
        "from kdray.cli import main\n"
        "plain = parts.prepare\n"
        "def slow(*a):\n"
        "    time.sleep(0.05)\n"
        "    return plain(*a)\n"
        "parts.prepare = slow\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    options = ["shard", str(source), str(tmp_path / "set"), "--workers", "0", "--shard-bytes", "4KiB"]
    with running(
        Process([sys.executable, "-c", code, *options], REPOSITORY, dict(os.environ), tmp_path / "log")
    ) as process:
        process.wait_for(lambda: len(list((tmp_path / "set").rglob("*.parquet"))) >= 2, "two shards")
        yield process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c(interrupted: Process, source: Path, tmp_path: Path, number: signal.Signals) -> None:
    interrupted.signal(number)
    assert interrupted.wait() == 130
    assert "Traceback" not in interrupted.output and "The same command goes on" in interrupted.output
    assert not list((tmp_path / "set").rglob(MANIFEST))
    assert not list((tmp_path / "set").rglob(".*.tmp"))
    assert shard(source, tmp_path / "set", "--workers", 0, "--shard-bytes", "4KiB") == 0
    assert read_manifest(str(tmp_path / "set" / "train")).num_samples == 60
