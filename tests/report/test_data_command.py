"""`kdray data show`: what it prints of a set, and pixels that are those of the feeds."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

import kdray
from kdray.cli import main
from kdray.data.feed import eval_feed, train_feed
from kdray.data.layout import BadFile, ImageSizes, Manifest, Packing
from kdray.data.manifest import read_manifest
from kdray.data.order import split_rows
from kdray.data.reader import read_labels, read_rows
from kdray.data.shards import Sample, write_shards
from kdray.report import data_sample
from kdray.report.contact_sheet import draw
from kdray.report.data_cells import make_sheet
from kdray.report.data_facts import fact_lines, facts
from kdray.report.data_open import open_subject
from kdray.report.data_sample import look, spread_rows
from kdray.report.data_subject import Subject, Wish
from tests.data.photos import photo_pixels, photos
from tests.data.small import photographs, squares
from tests.tiny import Done, Lab

CROP = "[{random_resized_crop: {size: 24}}, flip]"
SQUARE = "data.eval_transform=[{resize: {size: 28}}, {center_crop: {size: 24}}]"


def show(*arguments: str | Path) -> Done:
    """Run `kdray data show ARGUMENTS` in this process."""
    out, err, path = io.StringIO(), io.StringIO(), list(sys.path)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(["data", "show", *map(str, arguments)])
    finally:
        sys.path[:] = path
    return Done(code, out.getvalue(), err.getvalue())


def shown(*arguments: str | Path) -> str:
    done = show(*arguments)
    assert done.code == 0 and not done.err, done.err
    return done.out


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sheet_of(subject: Subject, rows: Iterable[int], epoch: int) -> Any:
    return make_sheet(subject, read_rows(subject.manifest, np.array(list(rows))), {}, epoch)


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


def test_the_summary_says_what_is_there(here: Path) -> None:
    squares(here / "set", 60)
    lines = shown("set").splitlines()
    text = {line[:14].strip(): line[14:] for line in lines[:-1]}
    assert text["rows"] == "60" and text["set"] == str(here / "set")
    assert text["classes"] == "3 without names: class 0 (20), class 1 (20), class 2 (20)"
    assert text["sizes"] == "16 x 16 (all 60 images)" and text["formats"] == "PNG RGB (in all 60 images)"
    assert text["ids"] == "column 'id'" and "ImageNet's: the set notes none" in text["mean and std"]
    assert text["decoded"].startswith("about 45.0 KiB; mode auto: resident")
    assert lines[-1].startswith(f"contact sheet: {here / 'set-data.png'} (") and (here / "set-data.png").exists()
    assert "warning" not in "".join(lines)


def write(folder: Path, images: list[tuple[bytes, int, str]], names: list[str]) -> Manifest:
    return write_shards([Sample(*image) for image in images], str(folder), class_names=names)


def test_what_is_wrong_with_a_set_is_said(here: Path) -> None:
    good = photos(40, size=(64, 48))
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo_pixels(9, 0, (64, 48))).save(turned, "JPEG", exif=exif)
    images = [(data, 0, f"many/{i}.jpg") for i, data in enumerate(good)]
    images += [(turned.getvalue(), 1, "few/turned.jpg"), (good[3], 1, "few/3-again.jpg"), (b"no image", 1, "few/x")]
    write(here / "set", images, ["many", "few", "never"])
    out = shown("set", "--rows", "43")
    warnings = [line.removeprefix("warning: ") for line in out.splitlines() if line.startswith("warning: ")]
    assert warnings[0] == "1 class has no image here: never"
    assert warnings[1] == "classes are very unequal: 40 images of many, 3 of few"
    assert warnings[2].startswith("1 image does not decode, of 43 tried: train-00000-of-00001.parquet row 42 (not an ")
    assert warnings[3] == "1 image has an EXIF orientation, of all 43 images: it is not applied"
    assert warnings[4] == (
        "1 image has the very bytes of another, of all 43 images, 1 time under another label: "
        "train-00000-of-00001.parquet row 3 and train-00000-of-00001.parquet row 41"
    )
    assert len(warnings) == 5 and "classes       3: many (40), few (3), never (0)" in out


def test_one_class_and_two_images_are_a_set(here: Path) -> None:
    write(here / "set", [(data, 0, str(i)) for i, data in enumerate(photos(2, size=(64, 48)))], ["only"])
    out = shown("set")
    assert "classes       1: only (2)" in out and "warning: there is one class" in out
    assert "64 x 48 (all 2 images)" in out


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


def test_a_bomb_is_refused(here: Path, recwarn: pytest.WarningsRecorder) -> None:
    bomb = b"P6 10000 10000 255\n" + bytes(64)
    header = data_sample.read_header(bomb)
    assert header is not None and (header.width, header.format) == (10000, "PPM") and not list(recwarn)
    write(here / "set", [(photos(1, size=(64, 48))[0], 0, "good"), (bomb, 0, "bomb")], ["all"])
    assert "row 1 (10000 x 10000 pixels, more than 67108864)" in shown("set")


def test_names_and_ids_are_those_of_the_set(here: Path) -> None:
    write(here / "set", [(data, 0, f"Gärten/{i}.jpg") for i, data in enumerate(photos(3, size=(40, 30)))], ["花"])
    subject = open_subject("set", Wish())
    rows, _ = look(subject.manifest, subject.part.rows, np.array([1, 2]))
    names = data_sample.names_of(subject.manifest, np.array([1, 2]))
    made = make_sheet(subject, rows, names, 0)
    assert [row.title for row in made.rows] == ["花", "花"]
    assert made.rows[1].lines == ("label 0", "train-00000-of-00001.parquet", "row 2", "id Gärten/2.jpg")


def test_rows_are_spread_over_the_classes_and_always_the_same() -> None:
    labels = np.repeat(np.arange(10), [50, 1, 20, 20, 20, 20, 20, 20, 20, 9])
    rows, ids = np.arange(200), np.arange(200) * 7919
    assert sorted(labels[spread_rows(rows, labels, ids, 10)].tolist()) == list(range(10))
    assert len(np.unique(labels[spread_rows(rows, labels, ids, 4)])) == 4
    many = spread_rows(rows, labels, ids, 25)
    counts = np.bincount(labels[many])
    assert counts[1] == 1 and set(np.delete(counts, 1).tolist()) == {2, 3}
    assert len(np.unique(many)) == 25 and np.array_equal(many, spread_rows(rows, labels, ids, 25))
    assert spread_rows(rows, labels, ids, 999).tolist() == sorted(rows.tolist(), key=lambda row: (labels[row], row))
    some = np.arange(40, 60)
    assert set(spread_rows(some, labels, ids, 5).tolist()) <= set(some.tolist())


def test_of_a_large_set_little_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = squares(tmp_path / "set", 640)  # 40 row groups of 16
    monkeypatch.setattr(data_sample, "READ_ROWS", 80)
    read: list[np.ndarray] = []
    real = data_sample.read_rows
    monkeypatch.setattr(data_sample, "read_rows", lambda of, index: read.append(index) or real(of, index))
    rows = np.arange(640)
    _, seen = look(manifest, rows, np.array([5, 300]))
    groups = np.unique(manifest.group_of(np.concatenate(read)))
    assert {0, 300 // 16} & set(groups.tolist()) and 5 <= len(groups) <= 7 and np.diff(groups).max() < 20
    assert 64 <= seen.rows <= 82 and not seen.whole and seen.decoded == seen.rows
    monkeypatch.setattr(data_sample, "DECODED_ROWS", 20)
    assert look(manifest, rows, np.array([5, 300]))[1].decoded <= 21


def test_what_a_packed_set_tells_is_said(tmp_path: Path) -> None:
    squares(tmp_path / "set", 40)
    subject = open_subject(str(tmp_path / "set"), Wish())
    manifest = replace(
        subject.manifest,
        sizes=ImageSizes((100, 401.2, 900), (120, 500.0, 1000), ((0.05, 256), (0.5, 375))),
        bad=(BadFile("n01/x.jpg", "empty"),),
        packing=Packing("imagefolder", "s", "i", "0.1", "mixed", 1000, 256, 90, "keep", "opencv", 31),
    )
    told = replace(subject, part=replace(subject.part, manifest=manifest))
    _, seen = look(manifest, told.part.rows, np.array([0]))
    lines = fact_lines(facts(told, seen))
    assert any("from imagefolder, in mixed order" in line and "31 images re-encoded" in line for line in lines)
    assert "sizes         width 120 to 1000, mean 500; height 100 to 900, mean 401 (manifest, all images)" in lines
    assert "              shorter side at most: 5 % 256, 50 % 375" in lines
    from kdray.report.data_facts import warnings

    assert "1 file was left out when it was packed: n01/x.jpg (empty)" in warnings(told, seen)


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


def test_keys_that_choose_rows_choose_them_of_a_set_too(here: Path) -> None:
    manifest = squares(here / "set", 60)
    labels, ids = read_labels(read_manifest(manifest.uri))
    few = open_subject("set", Wish(("data.limit=30",)))
    assert np.array_equal(few.stored, labels) and np.array_equal(few.ids, ids) and len(few.part) == 30
    some = open_subject("set", Wish(("data.validation=0.5", "data.fraction=0.5")))
    assert set(some.part.rows.tolist()) < set(split_rows(ids, 0.5)[0].tolist())
    out = shown("set", "--set", "data.fraction=0.5", "--set", "data.label_noise={fraction: 0.5, type: pair}")
    assert "rows          30 of 60, as --set says\n              0.5 of every class" in out
    assert "label noise (pair, 0.5) changes 15 labels" in out


def test_the_page_shows_what_is_printed(here: Path, digits: Path) -> None:
    root = Path(kdray.__file__).parents[1]
    out = shown(root / "experiments" / "quickstart.yaml", "--set", f"data.root={digits}")
    said = out.replace(f"{digits}/", "data/").replace(f"{here}/", "").splitlines()
    page = (root / "docs" / "show.md").read_text().splitlines()
    assert len(said) > 8
    # How many bytes a PNG takes depends on the library that writes it, and the sheet's height on the paths in it.
    kept = [line for line in said if not line.startswith(("shards", "contact sheet"))]
    assert [line for line in kept if line not in page] == []
