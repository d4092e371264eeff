"""`kdray data show`: pixels that are those of the feeds, experiments, and one error for bad input."""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from kdray.data.feed import eval_feed, train_feed
from kdray.data.shards import Sample, write_shards
from kdray.errors import DataError
from kdray.report.contact_sheet import Cell, Row, Sheet, draw
from kdray.report.data_open import open_subject
from kdray.report.data_sample import spread_rows
from kdray.report.data_subject import Way, Wish
from tests.data.photos import photo_pixels, photos
from tests.data.small import photographs, squares
from tests.report.showing import sheet_of, show, shown, write
from tests.tiny import Lab

CROP = "[{random_resized_crop: {size: 24}}, flip]"
SQUARE = "data.eval_transform=[{resize: {size: 28}}, {center_crop: {size: 24}}]"


@pytest.mark.parametrize("mode", ["resident", "stream"])
@pytest.mark.parametrize(
    ("augment", "views"),
    [("[pad_crop, flip]", 1), ("[{flip: {same: true}}, rot90_views, pad_crop]", 4), (CROP, 2)],
)
def test_training_cells_are_the_pixels_of_the_feed(tmp_path: Path, mode: str, augment: str, views: int) -> None:
    manifest = photographs(tmp_path / "set", 24) if augment == CROP else squares(tmp_path / "set", 24)
    subject = open_subject(str(tmp_path / "set"), Wish((f"data.mode={mode}",), augment=augment, views=views, seed=7))
    sheet = sheet_of(subject, range(0, 24, 3), epoch=2)
    rows = np.arange(24)
    feed = train_feed(subject.data, manifest, rows, batch=24, seed=7)
    columns = [column.head for column in sheet.columns]
    for epoch in (2, 3) if views < 4 else (2,):
        (batch,) = feed.epoch(epoch)
        images = batch.images.permute(0, 2, 3, 1).numpy().reshape(views, 24, *batch.images.shape[2:], 3)
        for view in range(views):
            at = columns.index(f"epoch {epoch}, view {view}" if views > 1 else f"epoch {epoch}")
            for number, row in enumerate(range(0, 24, 3)):
                place = batch.index.tolist().index(row)
                assert np.array_equal(sheet.rows[number].cells[at].pixels, images[view, place])


def test_evaluation_cells_are_the_pixels_of_the_feed(tmp_path: Path) -> None:
    manifest = photographs(tmp_path / "set", 12)
    subject = open_subject(str(tmp_path / "set"), Wish((SQUARE,)))
    sheet = sheet_of(subject, range(12), epoch=0)
    (batch,) = eval_feed(subject.data, manifest, np.arange(12), batch=12)
    assert sheet.columns[1].head == "evaluation"
    for row, image in zip(sheet.rows, batch.images.permute(0, 2, 3, 1).numpy(), strict=True):
        assert np.array_equal(row.cells[1].pixels, image)


def test_the_file_holds_the_pixels_of_the_feed(here: Path) -> None:
    manifest = squares(here / "set", 40)
    shown("set", "--augment", "[pad_crop, flip]", "--seed", "3", "--epoch", "5", "--rows", "4", "--out", "sheet.png")
    page = np.asarray(Image.open("sheet.png"))
    subject = open_subject("set", Wish(augment="[pad_crop, flip]", seed=3))
    chosen = spread_rows(subject.part.rows, subject.trained, subject.ids, 4)
    boxes = draw(sheet_of(subject, chosen, 5)).boxes
    (batch,) = train_feed(subject.data, manifest, np.arange(40), batch=40, seed=3).epoch(6)
    for row, line in zip(chosen.tolist(), boxes, strict=True):
        box = line[2]  # stored, epoch 5, epoch 6
        assert box is not None and box.factor == 10
        cell = page[box.top : box.top + box.height, box.left : box.left + box.width]
        image = batch.images[batch.index.tolist().index(row)].permute(1, 2, 0).numpy()
        assert np.array_equal(cell, image.repeat(10, axis=0).repeat(10, axis=1))


def test_a_bad_image_is_red_and_the_others_are_shown(tmp_path: Path) -> None:
    squares(tmp_path / "set", 20, bad=[4])
    subject = open_subject(str(tmp_path / "set"), Wish(augment="[pad_crop]"))
    bad, good = sheet_of(subject, [4, 5], 0).rows
    assert all(cell.pixels is None and "not an image" in cell.reason for cell in bad.cells)
    assert all(cell.pixels is not None and not cell.reason for cell in good.cells)


def test_images_that_training_cannot_take_are_told_of_before_it(tmp_path: Path) -> None:
    photographs(tmp_path / "set", 20)
    subject = open_subject(str(tmp_path / "set"), Wish(augment="[{pad_crop: {size: 60}}]"))
    cells = [cell for row in sheet_of(subject, range(20), 0).rows for cell in row.cells[1:]]
    assert {cell.pixels is None for cell in cells} == {True, False}
    assert any("smaller than the crop of 60" in cell.reason for cell in cells)
    turned = open_subject(str(tmp_path / "set"), Wish(augment="[rot90_views]", views=2))
    sheet = sheet_of(turned, range(20), 0)
    assert "an image's views come out in different sizes" in sheet.rows[0].cells[1].reason
    assert "images have several sizes" in sheet.warnings[0]


def test_stored_sizes_that_training_cannot_take_are_told_though_evaluation_can(tmp_path: Path) -> None:
    manifest = photographs(tmp_path / "set", 12)
    subject = open_subject(str(tmp_path / "set"), Wish((SQUARE,)))
    (warning,) = sheet_of(subject, range(12), 0).warnings
    assert warning.startswith("data.augment: images come out in several sizes (")
    with pytest.raises(DataError, match="different sizes"):  # as training says
        list(train_feed(subject.data, manifest, np.arange(12), batch=12, seed=0).epoch(0))
    one_size = open_subject(str(squares(tmp_path / "squares", 12).uri), Wish((SQUARE,)))
    assert not sheet_of(one_size, range(12), 0).warnings


def test_ways_may_have_sizes_of_their_own(tmp_path: Path) -> None:
    photographs(tmp_path / "set", 6)
    sides = {"student": "[{random_resized_crop: {size: 32}}]", "teacher": "[{random_resized_crop: {size: 24}}]"}
    data = {name: open_subject(str(tmp_path / "set"), Wish((SQUARE,), augment=side)) for name, side in sides.items()}
    ways = tuple(Way(name, subject.data) for name, subject in data.items())
    assert not sheet_of(replace(data["student"], ways=ways), range(6), 0).warnings
    flips = open_subject(str(tmp_path / "set"), Wish((SQUARE,), augment="[flip]")).data
    (warning,) = sheet_of(replace(data["student"], ways=(ways[0], Way("teacher", flips))), range(6), 0).warnings
    assert warning.startswith("data.augment (teacher): images come out in several sizes (")


def test_views_that_are_not_shown_are_told_of(tmp_path: Path) -> None:
    squares(tmp_path / "set", 20)
    for views, told in ((8, False), (10, True)):
        sheet = sheet_of(open_subject(str(tmp_path / "set"), Wish(augment="[pad_crop]", views=views)), [0], 0)
        assert len(sheet.columns) == 9 == len(sheet.rows[0].cells)
        assert (f"training: pad_crop; {views} views (views 0 to 7 are shown)" in sheet.legend) == told


def test_large_pictures_are_not_kept_until_they_are_drawn(tmp_path: Path) -> None:
    write(tmp_path / "set", [(photos(1, size=(640, 480))[0], 0, "photo")], ["all"])
    subject = open_subject(str(tmp_path / "set"), Wish(augment="[flip]"))
    sheet = sheet_of(subject, [0], 0)
    for cell in sheet.rows[0].cells:
        assert cell.pixels.shape == (168, 224, 3) and not isinstance(cell.pixels.base, np.ndarray)
        assert cell.caption.startswith("640 x 480")
    feed = train_feed(subject.data, subject.manifest, np.arange(1), batch=1, seed=0)
    (batch,) = feed.epoch(0)
    whole = Sheet("", sheet.columns, (Row("", (Cell(batch.images[0].permute(1, 2, 0).numpy()),)),))
    kept = Sheet("", sheet.columns, (Row("", (sheet.rows[0].cells[1],)),))
    one, other = (draw(page) for page in (whole, kept))
    (first,), (second,) = one.boxes[0], other.boxes[0]
    assert first is not None and second is not None and first[:4] == second[:4]
    area = np.s_[first.top : first.top + 168, first.left : first.left + 224]
    assert np.array_equal(np.asarray(one.image)[area], np.asarray(other.image)[area])


def test_odd_images_come_out_as_the_feeds_see_them(tmp_path: Path) -> None:
    pixels = photo_pixels(0, 0, (90, 60))

    def encoded(image: Image.Image, kind: str) -> bytes:
        out = io.BytesIO()
        image.save(out, kind)
        return out.getvalue()

    image = Image.fromarray(pixels)
    files = {
        "JPEG L": encoded(image.convert("L"), "JPEG"),
        "JPEG CMYK": encoded(image.convert("CMYK"), "JPEG"),
        "PNG RGBA": encoded(image.convert("RGBA"), "PNG"),
        "PNG I;16": cv2.imencode(".png", np.arange(5400, dtype=np.uint16).reshape(60, 90))[1].tobytes(),
        "GIF P": encoded(image.convert("P"), "GIF"),
    }
    write(tmp_path / "set", [(data, 0, name) for name, data in files.items()], ["all"])
    subject = open_subject(str(tmp_path / "set"), Wish())
    for row, kind in zip(sheet_of(subject, range(5), 0).rows, files, strict=True):
        (cell,) = row.cells
        assert cell.pixels is not None and cell.pixels.shape == (60, 90, 3) and f"90 x 60, {kind}, " in cell.caption


def test_an_experiment_says_what_its_stages_see(lab: Lab) -> None:
    data = {"views": 2, "augment": [{"flip": {"same": True}}, "pad_crop"], "limit": 64}
    own = {"data": {"views": 1, "augment": ["pad_crop"]}}
    out = shown(lab.write({"data": data, "teacher": own}))
    assert "rows          64, the train split, of 1438 rows in the shards" in out
    assert "training      student: flip(same: true), then pad_crop; 2 views\n" in out
    assert "              teacher: pad_crop\n" in out and (lab.folder / "tiny-data.png").exists()
    subject = open_subject(str(lab.write({"data": data, "teacher": own, "seed": 5})), Wish())
    assert [way.name for way in subject.ways] == ["student", "teacher"] and subject.seed == 5
    columns = [(column.group, column.head) for column in sheet_of(subject, [0], 0).columns]
    assert columns == [
        ("", "stored, and so evaluated"),
        ("training: student", "epoch 0, view 0"),
        ("training: student", "epoch 0, view 1"),
        ("training: teacher", "epoch 0"),
        ("training: teacher", "epoch 1"),
    ]
    asked = open_subject(str(lab.write({"data": data, "teacher": own})), Wish(augment="[flip]", views=1, seed=1))
    assert [(way.name, way.data.augment, way.data.views) for way in asked.ways] == [("", ["flip"], 1)]


def test_the_splits_of_an_experiment(lab: Lab) -> None:
    file = lab.write()
    assert "64, the test split, of 359 rows" in shown(file, "--split", "test")
    assert (lab.folder / "tiny-test-data.png").exists()
    held_out = open_subject(str(file), Wish(split="validation"))
    train = open_subject(str(file), Wish(split="train"))
    assert not set(held_out.part.rows.tolist()) & set(train.part.rows.tolist()) and not held_out.ways
    assert (
        "has no validation images. Set data.validation"
        in show(file, "--split", "validation", "--set", "data.validation=0").error()
    )
    assert "has no split 'valid' (did you mean 'validation'?)" in show(file, "--split", "valid").error()


def test_wrong_labels_are_marked(lab: Lab) -> None:
    noise = {"data": {"label_noise": {"fraction": 0.5, "type": "pair"}}}
    file = lab.write(noise)
    subject = open_subject(str(file), Wish())
    wrong = [row for row in subject.part.rows.tolist() if subject.trained[row] != subject.stored[row]]
    assert len(wrong) == 32 and "label noise (pair, 0.5) changes 32 labels" in shown(file)
    row = sheet_of(subject, wrong[:1], 0).rows[0]
    stored = int(subject.stored[wrong[0]])
    assert row.title == str((stored + 1) % 10) and f"stored as {stored} ({stored})" in row.warnings[0]


def test_variants_with_the_same_images_share_a_sheet(lab: Lab) -> None:
    variants = {
        "kd": {},
        "again": {"objectives": {"dist": {}}},
        "turned": {"data": {"views": 4, "augment": ["rot90_views"]}},
    }
    teacher = {"model": "resnet8", "weights": "anywhere"}
    file = lab.write({"variants": variants, "teacher": teacher})
    subject = open_subject(str(file), Wish())
    assert [(way.name, way.data.views) for way in subject.ways] == [("kd, again", 1), ("turned", 4)]
    assert [way.name for way in open_subject(str(file), Wish(variants=["turned"])).ways] == [""]
    other = lab.write({"variants": {"kd": {}, "few": {"data": {"fraction": 0.5}}}, "teacher": teacher})
    error = show(other).error()
    assert "fraction of 'few' is not that of 'kd'. Name one of kd, few" in error
    assert "0.5 of every class" in shown(other, "--variant", "few")


def test_a_split_of_a_folder_of_shards(here: Path) -> None:
    squares(here / "set" / "train", 20)
    flat = write_shards([Sample(photos(1)[0], 0, 0)], str(here / "flat"), split="val")
    assert "set           " + str(here / "set/train") in shown("set", "--split", "train")
    assert (here / "set-train-data.png").exists()
    assert f"{flat.folder}/val-*.parquet" in shown("flat", "--split", "val") and (here / "flat-val-data.png").exists()
    assert "no file matches 'test-*.parquet'" in show("flat", "--split", "test").error()
    assert "does not exist" in show("set2").error()
    squares(here / "set" / "val", 20)
    assert "holds no shards itself, but sets below. Add --split train, or --split val" in show("set").error()


def test_images_that_are_not_packed_yet(lab: Lab) -> None:
    data = {"source": None, "root": None, "train": "packed", "pack": {"train": "images"}}
    assert "data.train packed: images is not packed yet. Run the experiment" in show(lab.write({"data": data})).error()


def test_bad_input_is_one_error(here: Path, lab: Lab) -> None:
    squares(here / "set", 20)
    for arguments, said in {
        (): "the following arguments are required: URI_OR_EXPERIMENT",
        ("set", "--rows", "0"): "'0' is no whole number from 1 to 64",
        ("set", "--views", "two"): "'two' is no whole number of at least 1",
        ("set", "--out", "sheet.jpg"): "Give a name that ends in .png",
        ("set", "--augment", "[flp]"): "--augment: data.augment.0: unknown transform 'flp' (did you mean 'flip'?)",
        ("set", "--augment", "flip"): "--augment: data.augment: wants a list of transforms",
        ("set", "--augment", "[flip"): "--augment: not YAML",
        ("set", "--set", "data.colums.image=x"): "--set data.colums.image=x: data.colums: unknown key 'colums'",
        ("set", "--set", "data.train=other"): "--set data.train=other: set is looked at",
        ("set", "--set", "seed=3"): "--set seed=3: a set of shards has data keys only",
        ("set", "--set", "data.eval_transform=[flip]"): "flip is random, and evaluation is not",
        ("set", "--set", "data.columns.image=img"): "has no column 'img' as image",
        ("set", "--variant", "a"): "a set of shards has no variants",
        ("s?t", "--split", "train"): "a glob says which shards are meant",
        ("none.yaml",): "no such file",
        (str(lab.write()), "--augment", "[flipp]"): "--augment: data.augment.0: unknown transform 'flipp'",
        (str(lab.write()), "--set", "data.mode=x"): '--set data.mode=x: data.mode: "x" is not a choice',
    }.items():
        assert said in show(*arguments).error(), arguments
    assert sorted(path.name for path in here.glob("*.png")) == []


def test_it_starts_neither_ray_nor_what_trains(here: Path) -> None:
    squares(here / "set", 20)
    code = (
        "import sys; from kdray.cli import main; code = main(['data', 'show', 'set', '--augment', '[flip]']); "
        "print([name for name in sys.modules if name in ('ray', 'kdray.train', 'kdray.models')]); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_set_on_object_storage(s3: Any, here: Path) -> None:
    images = [Sample(data, i % 2, f"{i}.jpg") for i, data in enumerate(photos(6, size=(64, 48)))]
    uri = s3.uri("show/set")
    write_shards(images, uri, class_names=["a", "b"])
    assert f"set           {uri}" in shown(uri, "--out", s3.uri("show/sheet.png"))
    from kdray.store import read_uri

    page = Image.open(io.BytesIO(read_uri(s3.uri("show/sheet.png"))))
    assert page.width >= 900 and not list(here.glob("*.png"))
