"""The table that ends a run is drawn from its record alone: a record on disk is all that these tests give it."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
from rich.console import Console

from kdray.report.summary import COLUMNS, print_summary, remarks, summary_rows

RECORD: dict[str, Any] = {
    "run_id": "cifar100-0011aabb",
    "uri": "s3://bucket/runs/runs/cifar100-0011aabb/record.json",
    "name": "cifar100",
    "seed": 3,
    "wall_s": 8130.0,
    "data": {"train": {}, "validation": {}, "test": {}},
    "stages": [
        {
            "title": "teacher",
            "model": "resnet56",
            "epochs": 0,
            "reused": True,
            "test": {"top1": 0.7234, "images": 10000, "bad_images": 0},
            "validation": {"top1": 0.7311},
            "wall_s": 12.34,
            "artifact": "s3://bucket/runs/artifacts/teacher-aa",
        },
        {
            "title": "student alone",
            "model": "resnet20",
            "epochs": 240,
            "reused": False,
            "images_per_s": 5123.4,
            "data_wait": 0.0123,
            "wall_s": 3725.0,
            "test": {"top1": 0.6906, "images": 10000, "bad_images": 0},
            "test_best": {"top1": 0.6912, "images": 10000, "bad_images": 0},
            "best_epoch": 231,
            "history": [{"epoch": 230, "val/top1": 0.7}, {"epoch": 231, "val/top1": 0.701}, {"epoch": 240}],
            "artifact": "s3://bucket/runs/artifacts/student_alone-bb",
        },
        {
            "title": "student distilled",
            "model": "own.nets:Net[4]",
            "epochs": 240,
            "reused": False,
            "images_per_s": 2345.6,
            "data_wait": 0.25,
            "wall_s": 67.0,
            "test": {"top1": 0.7066, "images": 10000, "bad_images": 0},
            "test_best": None,
            "best_epoch": None,
            "history": [],
            "artifact": "s3://bucket/runs/artifacts/student-cc",
        },
    ],
}


def changed(stage: int, **values: Any) -> dict[str, Any]:
    record = copy.deepcopy(RECORD)
    record["stages"][stage] |= values
    return record


def test_the_rows() -> None:
    rows = [list(row.values()) for row in summary_rows(RECORD)]
    assert all(list(row) == list(COLUMNS) for row in summary_rows(RECORD))
    assert rows == [
        ["teacher: resnet56 (reused)", "72.34 %", "-", "73.11 %", "-", "-", "-", "12.3s"],
        ["student alone: resnet20", "69.06 %", "69.12 % (epoch 231)", "70.10 %", "240", "5123", "1.2 %", "1h02m"],
        ["student distilled: own.nets:Net[4]", "70.66 %", "-", "-", "240", "2346", "25.0 %", "1m07s"],
    ]


def test_the_table_is_printed_whole_into_a_pipe() -> None:
    out = io.StringIO()
    print_summary(RECORD, Console(file=out, width=140))
    text = out.getvalue()
    for row in summary_rows(RECORD):
        (line,) = [line for line in text.splitlines() if row["model"] in line]  # brackets and all, on one line
        for cell in row.values():
            assert cell in line
    assert max(map(len, text.splitlines()[:10])) <= 140
    assert "cifar100 (seed 3)" in text
    assert text.splitlines()[-1] == "record: s3://bucket/runs/runs/cifar100-0011aabb/record.json  (2h15m)"


def test_a_narrow_terminal_gets_whole_numbers_too() -> None:
    out = io.StringIO()
    print_summary(RECORD, Console(file=out, width=90))
    text = out.getvalue()
    for row in summary_rows(RECORD):
        for column, cell in list(row.items())[1:]:
            (line,) = [line for line in text.splitlines() if f" {column} " in line]
            assert f" {cell} " in line, cell
    assert "…" not in text


def test_it_says_where_the_artifacts_lie() -> None:
    lines = remarks(RECORD)
    for stage in RECORD["stages"]:
        assert f"{stage['title']}: {stage['artifact']}" in lines


@pytest.mark.parametrize(
    "stage, values, said",
    [
        (1, {"bad_images": 3}, "student alone: 3 training images did not decode and were replaced by others"),
        (1, {"test": {"top1": 0.5, "bad_images": 2}}, "student alone: 2 test images did not decode"),
        (1, {"history": [{"epoch": 240, "val/bad_images": 4.0}]}, "student alone: 4 validation images did not decode"),
        (0, {"validation": {"top1": 0.5, "bad_images": 5}}, "teacher: 5 validation images did not decode"),
        (2, {"dropped_per_epoch": 16}, "student distilled: 16 images of each epoch dropped (last partial batch)"),
        (2, {"resumed_from": 70}, "student distilled: went on from step 70 of an interrupted process"),
    ],
)
def test_what_the_table_cannot_say(stage: int, values: dict[str, Any], said: str) -> None:
    assert not [line for line in remarks(RECORD) if line.startswith(said)]
    assert [line for line in remarks(changed(stage, **values)) if line.startswith(said)]


def test_label_noise_is_told() -> None:
    assert not [line for line in remarks(RECORD) if "label" in line]
    noisy = RECORD | {"data": RECORD["data"] | {"train": {"images": 45000, "labels_changed": 8911}}}
    assert "label noise: 8911 of 45000 training labels are changed" in remarks(noisy)


def test_mixed_images_are_told_of_the_stages_that_trained_on_them() -> None:
    assert not [line for line in remarks(RECORD) if "mixed" in line]
    made_of = {"data": {"mix": {"cutmix": 1.0, "p": 0.5}}}
    said = "student alone: trained on mixed images: CutMix Beta(1), in 0.5 of all batches"
    assert said in remarks(changed(1, made_of=made_of))
    assert not [line for line in remarks(changed(0, made_of=made_of)) if "mixed" in line]  # was only evaluated


def test_without_a_validation_split_it_says_so() -> None:
    record = copy.deepcopy(RECORD)
    assert not [line for line in remarks(record) if "no validation split" in line]
    del record["data"]["validation"]
    assert [line for line in remarks(record) if "no validation split" in line]


def test_without_a_test_set_there_is_a_dash() -> None:
    row = summary_rows(changed(1, test=None, test_best=None))[1]
    assert row["test last"] == "-" and row["val best"] == "70.10 %"


@pytest.mark.parametrize(
    "seconds, said",
    [(0.04, "0.0s"), (59.4, "59.4s"), (59.96, "1m00s"), (60, "1m00s"), (3600, "1h00m"), (90061, "25h01m")],
)
def test_durations(seconds: float, said: str) -> None:
    assert summary_rows(changed(0, wall_s=seconds))[0]["wall"] == said
