"""`data.pack`: an experiment that packs its own images before it trains, once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kdray.data.manifest import read_manifest
from kdray.data.pack.collection import open_collections
from kdray.data.pack.destination import FRESH
from kdray.data.pack.execute import pack as write_set
from kdray.errors import DataError
from kdray.experiment import Data
from kdray.pipeline.pack_wording import for_experiments
from kdray.pipeline.packing import goals
from tests.data.photos import photos
from tests.tiny import Lab, tree_of

CLASSES = ("dandelion", "rose", "tulip")
RESIZED = [{"resize": {"size": 40}}, {"center_crop": {"size": 32}}]


def lay(folder: Path, split: str, each: int, seed: int) -> None:
    """An ImageFolder split: `each` photographs a class."""
    images = iter(photos(each * len(CLASSES), seed=seed, size=(64, 48)))
    for name in CLASSES:
        for number in range(each):
            path = folder / split / name / f"{split}-{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(next(images))


def pack_all(data: dict[str, Any]) -> None:
    """Pack what an experiment's `data` wants, as `kdray shard` would."""
    for goal in goals(Data.model_validate({key: data[key] for key in ("train", "test", "pack")})):
        with open_collections(goal.source, split="train" if goal.split == "train" else "val") as (found,):
            write_set(found, goal.dest, workers=0)


@pytest.fixture
def flowers(tmp_path: Path) -> Path:
    folder = tmp_path / "flowers"
    lay(folder, "train", 24, seed=1)
    lay(folder, "val", 4, seed=2)
    return folder


def changes(folder: Path, **pack: Any) -> dict[str, Any]:
    """What makes the tiny experiment one on photographs, packed beside its store."""
    data = {"source": None, "root": None, "limit": None, "test_limit": None}
    data |= {"train": str(folder.parent / "shards/train"), "test": str(folder.parent / "shards/val")}
    data |= {"augment": [{"random_resized_crop": {"size": 32}}, "flip"], "eval_transform": RESIZED}
    return {"data": data | {"pack": {"source": str(folder)} | pack}}


def test_it_packs_once_then_trains(lab: Lab, flowers: Path) -> None:
    wanted = changes(flowers, short_side=40, quality=80)
    first = lab.run(changes=wanted)
    assert first.code == 0, first.err
    assert "packing imagefolder" in first.out
    assert first.out.index("packing imagefolder") < first.out.index("stage teacher")
    record = lab.record(first)
    assert record["data"]["train"]["of"] == 72 and record["data"]["test"]["images"] == 12
    packed = record["data"]["train"]["packed"]
    assert packed["kind"] == "imagefolder" and packed["bad_files"] == 0
    assert (packed["short_side"], packed["quality"], packed["order"]) == (40, 80, "mixed")
    assert record["data"]["test"]["packed"]["short_side"] is None  # accuracies are of the images as they are
    shards = tree_of(flowers.parent / "shards")
    shutil.rmtree(flowers)  # it is not needed any more
    again = lab.run(changes=wanted)
    assert again.code == 0, again.err
    assert f"shards at {wanted['data']['train']} are taken as they are; data.pack.source was not looked at" in again.out
    assert "packing" not in again.out and lab.record(again)["run_id"] == record["run_id"]
    assert tree_of(flowers.parent / "shards") == shards


def test_where_the_shards_come_from_changes_no_artifact(lab: Lab, flowers: Path) -> None:
    lab.done(changes=changes(flowers))
    artifacts = lab.artifacts()
    plain = changes(flowers)
    del plain["data"]["pack"]
    lab.done(changes=plain)
    assert lab.artifacts() == artifacts


def test_a_split_each(lab: Lab, flowers: Path) -> None:
    each = changes(flowers)
    each["data"]["pack"] = {"train": str(flowers / "train"), "test": str(flowers / "val")}
    record = lab.done(changes=each)
    assert record["data"]["train"]["of"] == 72 and record["data"]["test"]["of"] == 12
    assert read_manifest(each["data"]["test"]).class_names == CLASSES


def test_a_dry_run_only_looks(lab: Lab, flowers: Path) -> None:
    before = tree_of(lab.folder)
    done = lab.run("--dry-run", changes=changes(flowers))
    assert done.code == 0, done.err
    assert "NOT CHECKED  data: not packed yet; the first run packs train 72 images, 3 classes" in done.out
    after = tree_of(lab.folder)
    assert set(after) - set(before) == {"tiny.yaml"}


def test_splits_in_capitals(lab: Lab, flowers: Path) -> None:
    (flowers / "train").rename(flowers / "Training")
    (flowers / "val").rename(flowers / "Test")
    wanted = changes(flowers)
    done = lab.run("--dry-run", changes=wanted)
    assert done.code == 0 and "packs train 72 images, 3 classes" in done.out, done.err
    with open_collections(str(flowers)) as collections:
        for collection, key in zip(collections, ("train", "test"), strict=True):
            write_set(collection, wanted["data"][key], workers=0)
    done = lab.run("--dry-run", changes=wanted)
    assert done.code == 0 and "not packed yet" not in done.out, done.err


def test_a_smoke_run_packs_nothing(lab: Lab, flowers: Path) -> None:
    done = lab.run("--smoke", changes=changes(flowers))
    assert done.code == 0, done.err
    assert "packing" not in done.out and not (flowers.parent / "shards").exists()


@pytest.mark.parametrize(
    ("pack", "where", "said"),
    [
        ({"source": "nowhere"}, "data.pack.source", "does not exist"),
        ({"kind": "imagefoldr"}, "data.pack.kind: 'imagefoldr' is no kind", "imagefolder"),
    ],
)
@pytest.mark.parametrize("dry", [True, False])
def test_a_source_that_does_not_do(
    lab: Lab, flowers: Path, pack: dict[str, Any], where: str, said: str, dry: bool
) -> None:
    wanted = changes(flowers, **pack)
    error = lab.run(*["--dry-run"] * dry, changes=wanted).error()
    assert where in error and said in error


def test_a_source_without_the_split(lab: Lab, flowers: Path) -> None:
    shutil.rmtree(flowers / "val")
    error = lab.run(changes=changes(flowers)).error()
    assert "data.pack.source" in error and "test or val" in error


def test_others_at_the_destination_are_kept(lab: Lab, flowers: Path) -> None:
    lab.done(changes=changes(flowers, short_side=40))
    shards = tree_of(flowers.parent / "shards")
    error = lab.run(changes=changes(flowers, short_side=32)).error()
    assert "data.train" in error and "packed with short_side 40" in error and "wants 32" in error
    assert tree_of(flowers.parent / "shards") == shards


def test_the_source_of_shards_that_are_there_is_compared(lab: Lab, flowers: Path) -> None:
    wanted = changes(flowers)
    lab.done(changes=wanted)
    shards = tree_of(flowers.parent / "shards")
    other = flowers.parent / "others"
    lay(other, "train", 23, seed=3)
    lay(other, "val", 4, seed=2)
    for options in ([], ["--dry-run"]):
        error = lab.run(*options, changes=wanted | {"data": wanted["data"] | {"pack": {"source": str(other)}}}).error()
        assert f"data.train {wanted['data']['train']}: was packed from another source than {other}" in error
    same = lab.run("--dry-run", changes=wanted)
    assert same.code == 0 and "not looked at" not in same.out
    shutil.rmtree(other)
    other.mkdir()  # a mount point without its mount
    taken = lab.run("--dry-run", changes=wanted | {"data": wanted["data"] | {"pack": {"source": str(other)}}})
    assert taken.code == 0 and "data.pack.source was not looked at: " in taken.out
    assert tree_of(flowers.parent / "shards") == shards


@pytest.mark.parametrize(
    ("swap", "pack", "said"),
    [
        (True, {}, "holds the split 'val', and this experiment wants train"),
        (False, {"kind": "tar"}, "was packed with kind imagefolder, and this experiment wants tar"),
        (False, {"mean_std": True}, "was packed without mean_std"),
        (False, {"order": "source"}, "was packed with order mixed"),
    ],
)
def test_shards_of_something_else_are_refused(
    lab: Lab, flowers: Path, swap: bool, pack: dict[str, Any], said: str
) -> None:
    pack_all(changes(flowers)["data"])
    again = changes(flowers, **pack)
    if swap:
        data = again["data"]
        data["train"], data["test"] = data["test"], data["train"]
    assert said in lab.run("--dry-run", changes=again).error()


def test_an_experiment_may_measure_its_own_mean(lab: Lab, flowers: Path) -> None:
    wanted = changes(flowers, short_side=40, small="jpeg", mean_std=True)
    lab.done(changes=wanted)
    train, test = read_manifest(wanted["data"]["train"]), read_manifest(wanted["data"]["test"])
    assert train.mean is not None and train.std is not None and test.mean is None
    assert train.packing is not None and train.packing.small == "jpeg"
    assert "was packed with small jpeg" in lab.run(changes=changes(flowers, short_side=40)).error()


def test_one_source_is_listed_once(lab: Lab, flowers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[str] = []

    @contextmanager
    def counted(uri: str, **options: Any) -> Iterator[Any]:
        listed.append(uri)
        with open_collections(uri, **options) as collections:
            yield collections

    monkeypatch.setattr("kdray.data.pack.collection.open_collections", counted)
    assert lab.run("--dry-run", changes=changes(flowers)).code == 0
    assert listed == [str(flowers)]
    lab.done(changes=changes(flowers))
    assert listed == [str(flowers)] * 2


def test_too_many_bad_images_stop_it(lab: Lab, flowers: Path) -> None:
    (flowers / "train/rose/train-3.jpg").write_bytes(b"no image")
    error = lab.run(changes=changes(flowers)).error()
    assert "rose/train-3.jpg" in error and "data.train" in error
    assert "or raise data.pack.max_bad_fraction; what is packed is kept" in error and "--" not in error
    record = lab.done(changes=changes(flowers, max_bad_fraction=0.1))
    assert record["data"]["train"]["of"] == 71 and record["data"]["train"]["packed"]["bad_files"] == 1


def test_a_packing_that_began_otherwise_is_told_in_an_experiments_words(lab: Lab, flowers: Path) -> None:
    (flowers / "train/rose/train-3.jpg").write_bytes(b"no image")
    lab.run(changes=changes(flowers)).error()
    error = lab.run(changes=changes(flowers, order="source")).error()
    assert f"data.train {flowers.parent / 'shards/train'}: holds a packing that began" in error
    assert "Delete that folder to have it packed anew; or name another folder" in error and "--" not in error


def test_shards_that_are_cut_otherwise_are_taken(lab: Lab, flowers: Path) -> None:
    pack_all(changes(flowers)["data"])
    shards = tree_of(flowers.parent / "shards")
    again = lab.run("--dry-run", changes=changes(flowers, row_group_rows=32, shard_bytes=100_000))
    assert again.code == 0, again.err
    for split, name in (("train", "train"), ("test", "val")):
        said = f"data.{split}: shards at {flowers.parent / 'shards' / name} have shard_bytes 134217728, not 100000"
        assert f"{said} and row_group_rows 64, not 32, and are taken as they are" in again.out
    assert "are taken as they are" not in lab.run("--dry-run", changes=changes(flowers)).out
    manifest = flowers.parent / "shards/train/manifest.json"
    said = json.loads(manifest.read_text())
    del said["packing"]["shard_bytes"], said["packing"]["row_group_rows"]  # as older sets are
    manifest.write_text(json.dumps(said))
    again = lab.run("--dry-run", changes=changes(flowers, row_group_rows=32, shard_bytes=100_000))
    assert again.code == 0 and "data.test: shards" in again.out and "data.train: shards" not in again.out
    assert set(tree_of(flowers.parent / "shards")) == set(shards)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("Check it, or use --kind", "Check it, or use data.pack.kind"),
        ("Known are a and b (--kind)", "Known are a and b (data.pack.kind)"),
        ("Name one of them with --kind tiny-imagenet", "Name one of them with data.pack.kind: tiny-imagenet"),
        (
            f"Go on with those; {FRESH}",
            "Go on with those; delete that folder to have it packed anew; or name another folder",
        ),
        (
            "s3:// or gs://, or --workers 0 to pack on one machine",
            "s3:// or gs://, or cluster.workers: 0 to pack on one machine",
        ),
        ("Lower --workers or --shard-bytes where", "Lower data.pack.shard_bytes where"),
        ("Look into a--kind", "Look into a--kind"),
    ],
)
def test_options_of_the_command_are_keys_in_an_experiment(said: str, meant: str) -> None:
    with pytest.raises(DataError) as raised, for_experiments():
        raise DataError("does not do", where="there", fix=said)
    assert (raised.value.problem, raised.value.where, raised.value.fix) == ("does not do", "there", meant)


def test_two_variants_cannot_share_a_folder(lab: Lab, flowers: Path) -> None:
    wanted = changes(flowers)
    variants = {"a": {"data": {"pack": {"short_side": 32}}}, "b": {"data": {"pack": {"short_side": 40}}}}
    error = lab.run(changes=wanted | {"variants": variants}).error()
    assert "different shards" in error
