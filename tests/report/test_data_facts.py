"""What `kdray data show` prints of a set, and which of its images it looks at."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import kdray
from kdray.data.decode import encode_png
from kdray.data.layout import BadFile, ImageSizes, Packing
from kdray.data.manifest import read_manifest
from kdray.data.order import split_rows
from kdray.data.reader import read_labels, read_rows
from kdray.report import data_sample
from kdray.report.data_cells import make_sheet
from kdray.report.data_facts import fact_lines, facts
from kdray.report.data_open import open_subject
from kdray.report.data_sample import look, spread_rows
from kdray.report.data_subject import Wish
from tests.data.photos import photo_pixels, photos
from tests.data.small import squares
from tests.report.showing import shown, write


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


def test_a_bomb_is_refused(here: Path, recwarn: pytest.WarningsRecorder) -> None:
    bomb = b"P6 10000 10000 255\n" + bytes(64)
    header = data_sample.read_header(bomb)
    assert header is not None and (header.width, header.format) == (10000, "PPM") and not list(recwarn)
    write(here / "set", [(photos(1, size=(64, 48))[0], 0, "good"), (bomb, 0, "bomb")], ["all"])
    assert "row 1 (10000 x 10000 pixels, more than 67108864)" in shown("set")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # pytest has filters of its own
def test_bombs_do_not_hide_what_else_is_bad(here: Path) -> None:
    images = photos(40, size=(64, 48))
    bombs = dict.fromkeys((5, 9, 37), b"P6 13000 13000 255\n" + bytes(64))
    images = [bombs.get(i, image + bytes(i)) for i, image in enumerate(images)]
    images[20] = b"no image"
    write(here / "set", [(data, 0, str(i)) for i, data in enumerate(images)], ["all"])
    out = shown("set", "--rows", "4")
    assert "warning: 4 images do not decode, of 40 tried: " in out
    assert "JPEG RGB 36, PPM RGB 3 (in 39 of all 40 images)" in out


def test_a_tiff_is_turned_by_its_decoder_and_no_warning_is_due(here: Path) -> None:
    turned = io.BytesIO()
    Image.fromarray(photo_pixels(9, 0, (64, 48))).save(turned, "TIFF", tiffinfo={0x0112: 6})
    write(here / "set", [(turned.getvalue(), 0, "turned"), (photos(1, size=(64, 48))[0], 1, "other")], ["a", "b"])
    out = shown("set")
    assert "orientation" not in out and "width 48 to 64" in out


def test_images_that_a_transform_makes_too_large_are_counted_and_named(here: Path) -> None:
    line = encode_png(np.zeros((1, 65_000, 3), np.uint8))
    write(here / "set", [(photos(1, size=(64, 48))[0], 0, "good"), (line, 0, "line")], ["all"])
    resize = "{resize: {size: 256}}"
    out = shown(
        "set", "--augment", f"[{resize}, {{pad_crop: {{size: 64}}}}]", "--set", f"data.eval_transform=[{resize}]"
    )
    for what in ("data.eval_transform", "data.augment"):
        assert (
            f"warning: 1 image would become too large by {what}, of all 2 images, and so counts as bad: "
            "train-00000-of-00001.parquet row 1 (65000 x 1, to become 16640000 x 256)\n"
        ) in out
    assert "too large" not in shown("set", "--augment", "[{random_resized_crop: {size: 64}}]")
    subject = open_subject("set", Wish(augment=f"[{resize}]"))
    cells = make_sheet(subject, read_rows(subject.manifest, np.array([1])), {}, 0).rows[0].cells
    assert cells[0].pixels is not None and cells[1].reason.startswith("65000 x 1 pixels, to become 16640000 x 256")


def test_the_digest_tells_versions_of_a_set_apart(here: Path) -> None:
    def digest() -> str:
        (line,) = (line for line in shown("set").splitlines() if line.startswith("digest "))
        return line.removeprefix("digest").strip()

    manifest = squares(here / "set", 20)
    first = digest()
    assert manifest.fingerprint.startswith(first) and len(first) == 12
    shutil.rmtree(here / "set")
    squares(here / "set", 20, bad=[3])
    assert digest() != first


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
    # The bytes of a PNG depend on the library that writes it, and the sheet's height on the paths in it.
    kept = [line for line in said if not line.startswith(("digest", "shards", "contact sheet"))]
    assert [line for line in kept if line not in page] == []


@pytest.mark.parametrize("paths", [["roses/a.jpg", None], None], ids=["paths", "no paths"])
def test_a_set_of_others_is_known_by_its_files(tmp_path: Path, paths: list[str | None] | None) -> None:
    images = [{"bytes": data} for data in photos(2, size=(40, 30))]
    if paths is not None:
        images = [image | {"path": path} for image, path in zip(images, paths, strict=True)]
    pq.write_table(pa.table({"image": images, "label": [0, 0]}), tmp_path / "set.parquet")
    subject = open_subject(str(tmp_path), Wish())
    index = np.array([0, 1])
    names = data_sample.names_of(subject.manifest, index)
    assert names == ({0: "roses/a.jpg"} if paths else {})
    rows, _ = look(subject.manifest, subject.part.rows, index)
    lines = [row.lines[2:] for row in make_sheet(subject, rows, names, 0).rows]
    assert lines == [("row 0", "id 0", *(["file roses/a.jpg"] if paths else [])), ("row 1", "id 1")]
