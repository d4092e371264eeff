"""Variants through the command: one plan, every stage once, one record, one table."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdray.experiment import load_comparison, load_experiment
from kdray.pipeline.plan import Plan, make_plan
from kdray.train.worker import StageWorker
from tests.tiny import Lab, command, tree_of

VARIANTS: dict[str, Any] = {
    "ce": {"objectives": {"ce": {}}},
    "kd": {"objectives": {"ce": {"weight": 0.1}, "kd": {"weight": 0.9}}},
    "kd_wide": {"objectives": {"ce": {"weight": 0.1}, "kd": {"weight": 0.9}}, "student": {"params": {"width": 0.25}}},
}
COMPARED: dict[str, Any] = {"objectives": None, "variants": VARIANTS}


def plan_of(lab: Lab, changes: dict[str, Any], only: list[str] | None = None) -> Plan:
    return make_plan(load_comparison(lab.write(changes), (), only), dry=True)


def names(plan: Plan) -> list[str]:
    return [stage.name for stage, _ in plan.stages]


def table(out: str) -> dict[str, list[str]]:
    """Cells of the last table, by the first one."""
    rows = [line for line in out[out.rindex("record: ") :].splitlines() if line.startswith("│")]
    cells = [[cell.strip() for cell in row.strip("│").split("│")] for row in rows]
    return {row[0]: row[1:] for row in cells}


def test_one_run_compares_all(lab: Lab, took: Callable[[], list[str]]) -> None:
    done = lab.run(changes=COMPARED)
    assert (done.code, done.err) == (0, "")
    assert took() == ["student", "teacher", "student", "student"]  # ce waits for no teacher
    record = lab.record(done)
    assert [stage["stage"] for stage in record["stages"]] == ["student.ce", "teacher", "student.kd", "student.kd_wide"]
    assert record["variants"]["ce"]["stages"] == {"student": "student.ce"}
    assert record["variants"]["kd"]["stages"] == {"teacher": "teacher", "student": "student.kd"}
    assert set(record["experiment"]["variants"]) == set(VARIANTS)
    rows = table(done.out)
    assert list(rows) == list(VARIANTS)
    stages = {stage["stage"]: stage for stage in record["stages"]}
    for name, (teacher, student, method, last, best, speed, wall) in rows.items():
        stage = stages[f"student.{name}"]
        assert last == f"{100 * stage['test']['top1']:.2f} %" and best == f"{100 * stage['test_best']['top1']:.2f} %"
        assert student == "resnet8" and float(speed) > 0 and wall
        if name == "ce":
            assert (teacher, method) == ("-", "ce")
        else:
            assert method == "0.1 ce + 0.9 kd"
            assert teacher == f"resnet8 {100 * stages['teacher']['test']['top1']:.2f} %"
    assert done.out.rstrip().endswith("┘")  # the table is the end
    assert "teacher: resnet8" in done.out[: done.out.index("record: ")]


def test_again_nothing_runs_and_the_record_stays(lab: Lab, took: Callable[[], list[str]]) -> None:
    first = lab.done(changes=COMPARED)
    before = tree_of(lab.store)
    took()
    done = lab.run(changes=COMPARED)
    assert took() == [] and tree_of(lab.store) == before
    assert list(table(done.out)) == list(VARIANTS)
    assert lab.record(done) == first


@pytest.mark.parametrize("single_first", [True, False])
def test_artifacts_are_those_of_single_experiments(lab: Lab, took: Callable[[], list[str]], single_first: bool) -> None:
    singles = [
        {"objectives": {"ce": {"weight": 0.1}, "kd": {"weight": 0.9, "temperature": 4}}, "student": {"alone": True}},
        {"name": "labels", "objectives": {"kd": None}, "teacher": None},
    ]
    runs = [*singles, COMPARED] if single_first else [COMPARED, *singles]
    made = [(lab.done(changes=changes), took()) for changes in runs]
    # The student that labels alone teach is one, whether it is a variant's, the one alone, or a file's own.
    artifacts = [{Path(stage["artifact"]).name for stage in record["stages"]} for record, _ in made]
    if single_first:
        assert [names for _, names in made] == [["teacher", "student_alone", "student"], [], ["student"]]
        assert artifacts[1] < artifacts[0] < artifacts[2] and len(artifacts[2]) == 4
    else:
        assert [sorted(names) for _, names in made] == [["student", "student", "student", "teacher"], [], []]
        assert artifacts[2] < artifacts[1] < artifacts[0]


def test_renaming_a_variant_makes_nothing_anew(lab: Lab, took: Callable[[], list[str]]) -> None:
    first = lab.done(changes=COMPARED)
    took()
    renamed = {"another": VARIANTS["kd"], "kd_wide": VARIANTS["kd_wide"]}
    record = lab.done(changes=COMPARED | {"variants": renamed})
    assert took() == [] and record["run_id"] != first["run_id"]
    assert [stage["stage"] for stage in record["stages"]] == ["teacher", "student.another", "student.kd_wide"]


def test_a_selection_runs_alone(lab: Lab, took: Callable[[], list[str]]) -> None:
    path = lab.write(COMPARED)
    done = command(path, "--variant", "ce")
    assert done.code == 0 and took() == ["student"]
    assert list(table(done.out)) == ["ce"]
    done = command(path, "--variant", "kd,ce")
    assert took() == ["teacher", "student"] and list(table(done.out)) == ["ce", "kd"]
    said = command(path, "--variant", "kd,kdwide").error()
    assert said == "--variant: no variant 'kdwide' (did you mean 'kd_wide'?). Variants: ce, kd, kd_wide"
    assert "--variant: the experiment has no variants" in lab.run("--variant", "ce").error()


def test_several_teachers_and_seeds(lab: Lab) -> None:
    smooth = {"objectives": {"ce": {"label_smoothing": 0.1}}}
    kd = {"ce": {}, "kd": {}}
    variants = {
        "plain": {"objectives": kd},
        "smooth": {"objectives": kd, "teacher": smooth},
        "smooth_hot": {"objectives": {"ce": {}, "kd": {"temperature": 8}}, "teacher": smooth},
        "seed1": {"objectives": kd, "seed": 1},
        "none": {"objectives": {"ce": {}}, "teacher": None},
    }
    path = lab.write({"objectives": None})
    path.write_text(path.read_text() + f"variants: {json.dumps(variants)}\n")
    plan = make_plan(load_comparison(path), dry=True)
    assert names(plan) == [
        "teacher.plain",
        "student.plain",
        "teacher.smooth",
        "student.smooth",
        "student.smooth_hot",
        "teacher.seed1",
        "student.seed1",
        "student.none",
    ]
    taught = {stage.name: stage.spec.teacher for stage, _ in plan.stages}
    folders = {stage.name: stage.spec.folder for stage, _ in plan.stages}
    for student, teacher in (("plain", "plain"), ("smooth", "smooth"), ("smooth_hot", "smooth"), ("seed1", "seed1")):
        net = taught[f"student.{student}"]
        assert net is not None and net.weights == str(lab.store / folders[f"teacher.{teacher}"] / "model.safetensors")
    done = command(path)
    assert done.code == 0, done.err
    rows = table(done.out)
    assert rows["seed1 (seed 1)"][0].startswith("teacher.seed1: resnet8") and "none (seed 0)" in rows
    assert "seeds 0, 1" in done.out


def test_equal_variants_share_a_stage(lab: Lab, took: Callable[[], list[str]]) -> None:
    variants = {"a": VARIANTS["kd"], "b": VARIANTS["kd"], "ce": VARIANTS["ce"]}
    record = lab.done(changes=COMPARED | {"variants": variants, "student": {"alone": True}})
    assert took() == ["teacher", "student", "student"]
    assert [stage["stage"] for stage in record["stages"]] == ["teacher", "student.a", "student.ce"]
    # The student alone is what ce is, so it is there once.
    assert record["variants"]["b"]["stages"] == {
        "teacher": "teacher",
        "student_alone": "student.ce",
        "student": "student.a",
    }


def test_a_student_alone_is_trained_once_for_all(lab: Lab) -> None:
    both = {"kd": VARIANTS["kd"], "hot": {"objectives": {"ce": {}, "kd": {"temperature": 9}}}}
    plan = plan_of(lab, COMPARED | {"variants": both, "student": {"alone": True}})
    assert names(plan) == ["teacher", "student_alone", "student.kd", "student.hot"]
    assert names(plan_of(lab, COMPARED | {"student": {"alone": True}})) == [
        "student.ce",
        "teacher",
        "student.kd",
        "student_alone",
        "student.kd_wide",
    ]


def test_a_dry_run_leaves_nothing_and_a_run_does_what_it_said(lab: Lab) -> None:
    path = lab.write(COMPARED)
    before = tree_of(lab.folder)
    done = command(path, "--dry-run")
    assert (done.code, done.err) == (0, "") and tree_of(lab.folder) == before
    for line in ("variant ce: student.ce", "variant kd: teacher, student.kd", "stage teacher: resnet8  [to do]"):
        assert line in done.out
    folders = [line.split()[1] for line in done.out.splitlines() if line.startswith("  artifact ")]
    assert len(folders) == 4
    assert list(lab.done(changes=COMPARED)["planned"].values()) == folders
    assert command(path, "--dry-run").out.count("[done]") == 4


def test_print_config_is_read_back(lab: Lab) -> None:
    path = lab.write(COMPARED)
    done = command(path, "--print-config", "--set", "seed=7", "--set", "variants.kd.seed=8")
    (lab.folder / "again.yaml").write_text(done.out)
    sets = ["seed=7", "variants.kd.seed=8"]
    assert load_comparison(lab.folder / "again.yaml") == load_comparison(path, sets)
    assert load_experiment(lab.folder / "again.yaml", (), "kd").seed == 8
    smoked = command(path, "--print-config", "--smoke", "--variant", "kd,ce")
    (lab.folder / "again.yaml").write_text(smoked.out)
    assert list(load_comparison(lab.folder / "again.yaml").experiments) == ["ce", "kd"]


def test_the_small_version_shares_its_stages_too(lab: Lab, took: Callable[[], list[str]]) -> None:
    changes = COMPARED | {"data": {"source": "cifar100", "root": str(lab.folder / "nowhere"), "limit": None}}
    done = lab.run("--smoke", "--variant", "ce,kd", changes=changes)
    assert done.code == 0, done.err
    assert took() == ["student", "teacher", "student"]
    assert done.out.count("smoke: data: handwritten digits stand in for cifar100") == 1
    assert list(table(done.out)) == ["ce", "kd"] and "100 classes" in done.out


def test_fresh_starts_every_stage_anew_once(lab: Lab, took: Callable[[], list[str]]) -> None:
    first = lab.done(changes=COMPARED)
    took()
    second = lab.done("--fresh", changes=COMPARED)
    assert took() == ["student", "teacher", "student", "student"]
    assert second["run_id"] == first["run_id"] + ".2"
    assert second["planned"]["teacher"] == first["planned"]["teacher"] + ".2"
    assert second["planned"]["student.ce"] == first["planned"]["student.ce"] + ".2"
    assert lab.done(changes=COMPARED) == second


def test_a_run_id_names_the_record(lab: Lab) -> None:
    record = lab.done("--run-id", "mine", "--variant", "ce", changes=COMPARED)
    assert record["run_id"] == "mine"
    said = lab.run("--run-id", "mine", "--variant", "kd", changes=COMPARED).error()
    assert "'mine' is the run of another experiment" in said


def test_a_stopped_comparison_goes_on(lab: Lab, monkeypatch: pytest.MonkeyPatch, took: Callable[[], list[str]]) -> None:
    watched = StageWorker.run

    def stopped_after_the_teacher(self: StageWorker) -> dict[str, Any]:
        record = watched(self)
        if self.stage.name == "teacher":
            os.kill(os.getpid(), signal.SIGINT)
        return record

    with monkeypatch.context() as patch:
        patch.setattr(StageWorker, "run", stopped_after_the_teacher)
        said = lab.run(changes=COMPARED).error(130)
    assert said == "stopped before stage student.kd. The same command goes on from there"
    assert took() == ["student", "teacher"]
    (run,) = (lab.store / "runs").iterdir()
    stopped = json.loads((run / "record.json").read_text())
    assert stopped["status"] == "interrupted" and set(stopped["variants"]) == set(VARIANTS)
    record = lab.done(changes=COMPARED)
    assert took() == ["student", "student"]
    assert [stage["reused"] for stage in record["stages"]] == [True, True, False, False]


def test_a_checkpoint_of_a_variant_is_gone_on_from(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdray.train.loop import Loop

    changes = COMPARED | {"train": {"checkpoint": {"every_steps": 1}}}
    finish = Loop._finish_epoch

    def power_cut(self: Loop) -> None:
        if self.job.teacher is not None:
            self.job.checkpoints.wait()  # type: ignore[union-attr]
            raise KeyboardInterrupt
        finish(self)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_finish_epoch", power_cut)
        lab.run(changes=changes).error(130)
    record = lab.done(changes=changes)
    stages = {stage["stage"]: stage for stage in record["stages"]}
    assert stages["student.kd"]["resumed_from"] == 2 and stages["student.kd_wide"]["resumed_from"] == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kd": {"objectives": {"kdd": {}}}}, "variants.kd.objectives.kdd: unknown method 'kdd' (did you mean 'kd'?)"),
        ({"kd": {"objectives": {"kd": {"temprature": 3}}}}, "variants.kd.objectives.kd.temprature: "),
        ({"kd": {"student": {"model": "resnet9"}}}, "variants.kd.student.model: unknown model 'resnet9'"),
        ({"kd": {"teacher": {"weights": "none.safetensors"}}}, "variants.kd.teacher.weights"),
        ({"kd": {"train": {"batch": 5000}}}, "variants.kd.train.batch: 64 training images do not fill one batch"),
        ({"kd": {"data": {"augment": ["flap"]}}}, "variants.kd.data.augment"),
        ({"kd": {"teacher": {"min_accuracy": 0.99}}}, "variants.kd.teacher.min_accuracy: the teacher reaches 0."),
    ],
)
def test_errors_that_a_plan_or_a_run_finds_name_the_variant(lab: Lab, changes: dict[str, Any], said: str) -> None:
    both = {"objectives": {"ce": {}, "kd": {}}}
    done = lab.run(changes=COMPARED | {"variants": {"fine": both, "kd": both | changes["kd"]}})
    assert done.code in (1, 2), done.out
    assert f"kdray: {lab.folder / 'tiny.yaml'}:" in done.err and said in done.err


def test_errors_in_what_all_share_name_the_key_at_the_top(lab: Lab) -> None:
    done = lab.run(changes=COMPARED | {"teacher": {"model": "resnet9"}})
    line = next(n for n, text in enumerate((lab.folder / "tiny.yaml").read_text().splitlines(), 1) if "resnet9" in text)
    assert done.error().startswith(f"{lab.folder / 'tiny.yaml'}:{line}: teacher.model: unknown model 'resnet9'")
