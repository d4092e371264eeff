"""Mixed batches on the contact sheet: the images that the training loop makes of the feed's batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kdray.data.feed import train_feed
from kdray.data.mix import Mixer
from kdray.report.data_cells import make_sheet
from kdray.report.data_mixed import mixed_sections
from kdray.report.data_open import open_subject
from kdray.report.data_sample import look
from kdray.report.data_subject import Subject, Wish
from tests.data.small import photographs, squares
from tests.tiny import Lab

MIXES = ["{mixup: 0.4}", "{cutmix: 1}", "{mixup: 0.4, cutmix: 1, p: 0.5}"]


def subject_of(folder: Path, mix: str, augment: str = "[pad_crop, flip]", views: int = 1) -> Subject:
    return open_subject(str(folder), Wish((f"data.mix={mix}",), augment=augment, views=views, seed=3))


def loop_images(subject: Subject, batch: int, epoch: int, number: int) -> tuple[np.ndarray, float | None]:
    """Global batch `number` as the loop makes it, uint8 [V, B, H, W, 3], and the share of each image."""
    data = subject.data
    feed = train_feed(data, subject.manifest, subject.part.rows, batch=batch, seed=subject.seed)
    given = next(iter(feed.epoch(epoch, number)))
    assert data.mix is not None
    mixture = Mixer(data.mix, subject.seed, batch).draw(epoch, number, tuple(given.images.shape[-2:]))
    images = given.images if mixture is None else mixture.apply(given.images, mixture.partners(given).images)
    images = images.round().to(torch.uint8) if images.is_floating_point() else images
    shape = (data.views, batch, *images.shape[-2:], 3)
    return images.permute(0, 2, 3, 1).numpy().reshape(shape), None if mixture is None else mixture.share


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("views", [1, 2])
def test_mixed_cells_are_what_the_loop_makes(tmp_path: Path, mix: str, views: int) -> None:
    squares(tmp_path / "set", 100)
    subject = subject_of(tmp_path / "set", mix, views=views)
    (section,) = mixed_sections(subject, 4, 6)
    rows = list(section.rows)
    assert len(rows) == views  # one batch of 96 in a set of 100
    images, share = loop_images(subject, 96, 4, 0)
    for view, row in enumerate(rows):
        assert len(row.cells) == 6 and row.title == ("batch 0" if views == 1 else f"batch 0, view {view}")
        for number, cell in enumerate(row.cells):
            assert np.array_equal(cell.pixels, images[view, number])
            assert share is None or cell.caption.startswith(f"{share:.2f} class ")


def test_the_batches_are_the_experiments(lab: Lab) -> None:
    data = {"mix": {"mixup": 1.0}, "limit": 100}
    subject = open_subject(str(lab.write({"data": data, "seed": 3})), Wish())
    (section,) = mixed_sections(subject, 0, 5)
    assert [row.title for row in section.rows] == ["batch 0", "batch 1", "batch 2"]  # of 32 each
    for number, row in enumerate(section.rows):
        images, _ = loop_images(subject, 32, 0, number)
        assert all(np.array_equal(cell.pixels, images[0, i]) for i, cell in enumerate(row.cells))
    several = open_subject(str(lab.write({"data": data, "seed": 3, "cluster": {"workers": 2}})), Wish())
    assert several.ways[0].world == 2 and len(mixed_sections(several, 0, 5)[0].rows) == 3


def test_a_teacher_may_mix_alone(lab: Lab) -> None:
    file = lab.write({"teacher": {"data": {"mix": {"cutmix": 1.0}}}})
    subject = open_subject(str(file), Wish())
    assert [(way.name, way.data.mix is None) for way in subject.ways] == [("student", True), ("teacher", False)]
    (section,) = mixed_sections(subject, 0, 5)
    assert section.title == "mixed batches of epoch 0: teacher: CutMix Beta(1), in every batch"


def test_mixed_views_that_are_not_shown_are_told_of(tmp_path: Path) -> None:
    squares(tmp_path / "set", 40)
    for views, told in ((2, ""), (3, " (views 0 to 1 of 3)")):
        (section,) = mixed_sections(subject_of(tmp_path / "set", "{mixup: 1}", views=views), 0, 5)
        assert section.title == f"mixed batches of epoch 0: mixup Beta(1), in every batch{told}"
        assert len(section.rows) == 2


def test_no_mixing_no_section(tmp_path: Path) -> None:
    squares(tmp_path / "set", 40)
    assert mixed_sections(subject_of(tmp_path / "set", "false"), 0, 5) == []
    squares(tmp_path / "one", 1)
    assert mixed_sections(subject_of(tmp_path / "one", "{mixup: 1}"), 0, 5) == []


def test_images_that_fit_no_batch_are_one_red_cell(tmp_path: Path) -> None:
    photographs(tmp_path / "set", 40)
    (section,) = mixed_sections(subject_of(tmp_path / "set", "{mixup: 1}", augment="[flip]"), 0, 5)
    (cell,) = section.rows[0].cells
    assert cell.pixels is None and "different sizes" in cell.reason


def test_the_sheet_ends_in_mixed_images_and_says_how(tmp_path: Path) -> None:
    squares(tmp_path / "set", 40, bad=[3])
    subject = subject_of(tmp_path / "set", "{cutmix: 1}")
    rows, _ = look(subject.manifest, subject.part.rows, np.array([0, 21]))
    sheet = make_sheet(subject, rows, {}, 0)
    assert len(sheet.sections) == 1 and "training: pad_crop, then flip; CutMix Beta(1), in every batch" in sheet.legend
    assert all(cell.pixels is not None for row in sheet.sections[0].rows for cell in row.cells)
