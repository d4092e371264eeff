"""Images that do not decode: skipped, counted and told, never silently; too many of them stop the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdray.data.digits import digit_samples
from kdray.data.writer import Sample, write_shards
from tests.tiny import Lab


def spoiled(lab: Lab, train: tuple[int, ...] = (), test: tuple[int, ...] = ()) -> dict[str, Any]:
    """Digits as shards of one's own in which some rows hold no image."""
    for split, bad in (("train", train), ("test", test)):
        samples = list(digit_samples(split))[:80]
        for row in bad:
            samples[row] = Sample(b"no image at all", samples[row].label, samples[row].id)
        write_shards(samples, str(lab.folder / split), split=split)
    places = {split: str(lab.folder / split) for split in ("train", "test")}
    return {"data": {"source": None, "root": None, "limit": None, "test_limit": None, "validation": 0.3, **places}}


def allow(changes: dict[str, Any], fraction: float) -> dict[str, Any]:
    return {"data": changes["data"] | {"max_bad_fraction": fraction}}


def test_a_few_are_left_out_counted_and_told(lab: Lab) -> None:
    rows = tuple(range(0, 80, 8))  # in train and in validation, the very first one too
    done = lab.run(changes=allow(spoiled(lab, rows, (3, 5)), 0.5))
    record = lab.record(done)
    assert (done.code, done.err) == (0, "")
    for stage in record["stages"]:
        validation = stage["history"][-1]["val/bad_images"]
        assert stage["bad_images"] + validation == 10 and stage["bad_images"] > 0 < validation
        assert (stage["test"]["images"], stage["test"]["bad_images"]) == (78, 2)
        title = stage["title"]
        assert f"{title}: {stage['bad_images']} training images did not decode and were replaced by others" in done.out
        assert f"{title}: {validation:.0f} validation images did not decode and are not counted" in done.out
        assert f"{title}: 2 test images did not decode and are not counted" in done.out
    assert "warning: train-00000-of-00001.parquet row 0 does not decode" in done.out


def test_too_many_in_training_stop_the_run(lab: Lab) -> None:
    said = lab.run(changes=allow(spoiled(lab, train=(1, 2, 3, 4)), 0.01)).error(2)
    assert "images do not decode: train-00000-of-00001.parquet row" in said
    assert "raise data.max_bad_fraction (now 0.01)" in said
    assert not [name for name in lab.artifacts() if (lab.store / "artifacts" / name / "record.json").exists()]


def test_too_many_in_the_test_set_stop_the_run(lab: Lab) -> None:
    changes = allow(spoiled(lab, test=(1, 2, 3, 4)), 0.01)
    said = lab.run(changes=changes).error(2)
    assert "data.max_bad_fraction: 4 of 80 images to evaluate on do not decode" in said
    assert Path(changes["data"]["test"]).exists()


def test_a_set_without_any_image_is_refused_before_the_run(lab: Lab) -> None:
    said = lab.run(changes=spoiled(lab, train=tuple(range(80)))).error(2)
    assert f"data.train {lab.folder / 'train'}: none of the first 64 images decodes" in said
    assert not lab.store.exists()


def test_images_of_several_sizes_are_told_by_their_rows(lab: Lab) -> None:
    changes = spoiled(lab)
    samples = list(digit_samples("test"))[:40] + list(digit_samples("test", size=40))[40:80]
    write_shards(samples, str(lab.folder / "several"), split="test")
    changes["data"]["test"] = str(lab.folder / "several")
    said = lab.run(changes=changes).error(2)
    assert "data.eval_transform: images come out in different sizes" in said
    assert "row 0 as 32 x 32" in said and "as 40 x 40" in said and "center_crop" in said


def test_images_that_are_not_square_are_refused_before_the_run(lab: Lab) -> None:
    import cv2
    import numpy as np

    for split in ("train", "test"):
        image = cv2.imencode(".png", np.zeros((20, 30, 3), np.uint8))[1].tobytes()
        write_shards([Sample(image, n % 10, n) for n in range(80)], str(lab.folder / split), split=split)
    places = {split: str(lab.folder / split) for split in ("train", "test")}
    said = lab.run(changes={"data": {"source": None, "root": None, **places}}).error(2)
    assert "data.eval_transform: images such as the first one (30 x 20) do not come out square" in said
    assert not lab.store.exists()
