"""A matrix through the command: every cell once, only new cells later, one teacher for all seeds, one table."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdray.experiment import load_comparison
from kdray.experiment.merge import merge
from kdray.pipeline.plan import make_plan
from tests.tiny import Done, Lab, command, tree_of

MATRIX: dict[str, Any] = {
    "objectives": None,
    "student": None,
    "teacher": {"seed": 0},
    "matrix": {
        "method": {"ce": {"objectives": {"ce": {}}}, "kd": {"objectives": {"ce": {}, "kd": {}}}},
        "pair": {"r8-r8": {"student": {"model": "resnet8", "params": {"width": 0.125}}}},
        "seed": [0, 1],
        "baseline": {"method": "ce"},
        "published": [{"method": "kd", "top1": 70.66, "recipe": "240 epochs", "source": "RepDistiller README"}],
    },
}
CELLS = ["ce.r8-r8.seed0", "ce.r8-r8.seed1", "kd.r8-r8.seed0", "kd.r8-r8.seed1"]


def rows(lab: Lab, done: Done) -> list[dict[str, str]]:
    folder = Path(lab.record(done)["uri"]).parent
    return list(csv.DictReader((folder / "matrix.csv").read_text().splitlines()))


def test_a_matrix_and_then_a_seed_and_a_method_more(lab: Lab, took: Callable[[], list[str]]) -> None:
    path = lab.write(MATRIX)
    done = command(path)
    assert (done.code, done.err) == (0, "")
    assert took() == ["teacher", "student", "student", "student", "student"]  # one teacher for both seeds, first
    record = lab.record(done)
    assert list(record["variants"]) == list(record["matrix"]["cells"]) == CELLS
    assert record["matrix"]["cells"]["kd.r8-r8.seed1"] == {"method": "kd", "pair": "r8-r8", "seed": 1}
    assert record["matrix"]["baseline"] == {"method": "ce"}
    assert "matrix: method (2) x pair (1) x seed (2): 4 cells, 0 of 5 stages done" in done.out
    for line in ("tiny, pair r8-r8: 1 epoch, batch 32, sgd 0.05", "fewer than 3 seeds: no ranking"):
        assert line in done.out.splitlines()
    stages = {stage["stage"]: stage for stage in record["stages"]}
    kd = [100 * stages[f"student.kd.r8-r8.seed{seed}"]["test"]["top1"] for seed in (0, 1)]
    assert f"{sum(kd) / 2:.2f} ± " in done.out and "70.66 [1]" in done.out
    markdown = Path(record["uri"]).parent / "matrix.md"
    assert f"table: {markdown}" in done.out and "## pair r8-r8" in markdown.read_text()
    assert [row["seeds"] for row in rows(lab, done)] == ["2", "2"]

    before = tree_of(lab.store)  # again, nothing runs and nothing changes
    assert command(path).code == 0 and took() == [] and tree_of(lab.store) == before

    # Another baseline and another published number are another table of the same cells.
    published = [{"method": "kd", "top1": 71.25, "recipe": "100 epochs", "source": "another"}]
    other = {"matrix": {"baseline": {"method": "kd"}, "published": published}}
    done = command(lab.write(merge(MATRIX, other), file="other.yaml"))
    assert took() == [] and "71.25 [1]" in done.out and "70.66" not in done.out
    assert lab.record(done)["matrix"]["baseline"] == {"method": "kd"}
    assert [row["test_last_vs_baseline_n"] for row in rows(lab, done)] == ["2", ""]
    assert command(path).code == 0

    done = command(path, "--set", "matrix.seed=[0, 1, 2]")
    assert took() == ["student", "student"]
    assert "6 cells, 5 of 7 stages done" in done.out and "no ranking" not in done.out
    assert [row["seeds"] for row in rows(lab, done)] == ["3", "3"]
    assert rows(lab, done)[1]["test_last_vs_baseline_n"] == "3"

    hot = "matrix.method.hot={objectives: {ce: {}, kd: {temperature: 8}}}"
    done = command(path, "--set", hot)
    assert took() == ["student", "student"] and len(rows(lab, done)) == 3

    done = command(path, "--variant", "kd.*")
    assert took() == [] and [row["method"] for row in rows(lab, done)] == ["kd"]
    # What a run leaves as its experiment is read back, cell by cell.
    left = Path(lab.record(done)["uri"]).parent / "experiment.yaml"
    done = command(left)
    assert took() == [] and list(lab.record(done)["variants"]) == CELLS[2:]


def test_a_dry_run_leaves_nothing_and_the_small_version_is_planned(lab: Lab) -> None:
    path = lab.write(MATRIX)
    before = tree_of(lab.folder)
    done = command(path, "--dry-run")
    assert done.code == 0 and all(f"variant {name}: " in done.out for name in CELLS)
    assert tree_of(lab.folder) == before
    done = command(path, "--dry-run", "--smoke")
    assert done.code == 0 and "4 cells" in done.out


def test_a_teachers_own_seed_is_that_of_its_training_alone(lab: Lab) -> None:
    def folders(**changes: Any) -> dict[str, tuple[str, int]]:
        plan = make_plan(load_comparison(lab.write(changes)), dry=True)
        return {stage.name: (stage.spec.folder, stage.spec.seed) for stage, _ in plan.stages}

    plain = folders()
    assert folders(teacher={"seed": 0}) == plain  # as if it were not written
    other = folders(seed=1)
    shared = folders(seed=1, teacher={"seed": 0})
    assert shared["teacher"] == plain["teacher"] != other["teacher"]
    assert shared["student"][1] == 1 and shared["student"][0] not in (plain["student"][0], other["student"][0])
    assert folders(teacher={"seed": 1})["teacher"] == other["teacher"]
    # A student that is no teacher's pays no heed.
    alone = {"objectives": {"kd": None}, "seed": 1}
    assert folders(**alone)["student"] == folders(**alone, teacher={"seed": 5})["student"]


KDD = {"kd": {"objectives": {"kdd": {}}}}
RESNET9 = {"r8-r8": {"student": {"model": "resnet9"}}}


@pytest.mark.parametrize(
    ("changes", "line", "said"),
    [
        ({"matrix": {"method": KDD}}, "kdd", "matrix.method.kd.objectives.kdd: unknown method 'kdd'"),
        ({"matrix": {"pair": RESNET9}}, "resnet9", "matrix.pair.r8-r8.student.model: unknown model 'resnet9'"),
        ({"matrix": {"train.batch": [32, 5000]}}, "5000", "matrix.train.batch.1: "),
        ({"teacher": {"model": "resnet9"}}, "resnet9", "teacher.model: unknown model 'resnet9'"),
        ({"matrix": {"train.clip_norm": [1, 2]}, "data": {"augment": ["flap"]}}, "augment", "data.augment"),
    ],
)
def test_errors_that_a_plan_finds_name_the_axis_and_its_line(
    lab: Lab, changes: dict[str, Any], line: str, said: str
) -> None:
    without = {"matrix": {"published": None, "baseline": None}}
    path = lab.write(merge(merge(MATRIX, without), changes))
    place, _, message = command(path).error().partition(": ")
    assert message.startswith(said)
    found = path.read_text().splitlines()[int(place.rpartition(":")[2]) - 1]
    assert line in found


def test_a_matrix_as_json_says_what_it_is(lab: Lab) -> None:
    done = command(lab.write(MATRIX), "--print-config")
    assert done.code == 0
    again = lab.folder / "again.yaml"
    again.write_text(done.out)
    assert load_comparison(again) == load_comparison(lab.folder / "tiny.yaml")
    assert json.dumps(load_comparison(again).plain())
