"""`data.mix` from the file to the record: who trains on mixed images, who refuses, and what is told of it."""

from __future__ import annotations

from typing import Any

import pytest

from kdray.data.mix import Mixture
from kdray.experiment import load_experiment
from kdray.pipeline.plan import make_plan
from tests.tiny import Lab

MIX = {"data": {"mix": {"mixup": 0.2, "cutmix": 1.0}}}
ONLY_STUDENT = {"teacher": {"data": {"mix": False}}}


@pytest.fixture
def applied(monkeypatch: pytest.MonkeyPatch) -> list[Mixture]:
    """Every mixture that was applied."""
    found: list[Mixture] = []
    apply = Mixture.apply
    monkeypatch.setattr(Mixture, "apply", lambda self, *images: found.append(self) or apply(self, *images))
    return found


def digests(lab: Lab, changes: dict[str, Any]) -> dict[str, str]:
    plan = make_plan(load_experiment(lab.write({"student": {"alone": True}} | changes)), dry=True)
    return {stage.name: stage.digest for stage, _ in plan.stages}


def test_teacher_and_students_train_on_mixed_images(lab: Lab, applied: list[Mixture]) -> None:
    done = lab.run(changes=MIX | {"student": {"alone": True}, "train": {"epochs": 3}})
    assert done.code == 0, done.err
    assert len(applied) == 3 * 3 * 2 and {mixture.box is None for mixture in applied} == {True, False}
    assert applied[:6] == applied[6:12] == applied[12:]  # one seed, one batch size
    for title in ("teacher", "student alone", "student distilled"):
        said = f"{title}: trained on mixed images: mixup Beta(0.2) or CutMix Beta(1) (0.5 of them), in every batch\n"
        assert said in done.out
    for stage in lab.record(done)["stages"]:
        assert stage["made_of"]["data"]["mix"] == {"mixup": 0.2, "cutmix": 1.0}


def test_a_teacher_may_train_without(lab: Lab, applied: list[Mixture]) -> None:
    done = lab.run(changes=MIX | ONLY_STUDENT)
    assert done.code == 0 and len(applied) == 2
    (line,) = [line for line in done.out.splitlines() if "trained on mixed images" in line]
    assert line.startswith("student distilled: ")


def test_or_alone(lab: Lab, applied: list[Mixture]) -> None:
    done = lab.run(changes={"teacher": {"data": {"mix": {"cutmix": 1.0}}}, "objectives": {"dkd": {}}})
    assert done.code == 0 and len(applied) == 2 and all(mixture.box for mixture in applied)


def test_it_counts_where_it_is_set(lab: Lab) -> None:
    plain, mixed = digests(lab, {}), digests(lab, MIX)
    assert plain.keys() == mixed.keys() and not set(plain.values()) & set(mixed.values())
    assert digests(lab, {"data": {"mix": False}}) == plain
    assert digests(lab, {"data": {"mix": {"mixup": 0.2, "p": 0}}}) == plain
    assert digests(lab, {"data": {"mix": {"mixup": 0.2, "cutmix": 1.0, "p": 1, "cutmix_share": 0.5}}}) == mixed
    others = digests(lab, MIX | ONLY_STUDENT)
    assert others["teacher"] == plain["teacher"] and others["student_alone"] == mixed["student_alone"]
    assert others["student"] not in (plain["student"], mixed["student"])


def test_the_plan_says_it(lab: Lab) -> None:
    done = lab.run("--dry-run", changes={"data": {"mix": {"cutmix": 0.5, "p": 0.25}}} | ONLY_STUDENT)
    (line,) = [line for line in done.out.splitlines() if "mixed" in line]
    assert line == "  mixed images: CutMix Beta(0.5), in 0.25 of all batches"
    assert "mixed" not in lab.run("--dry-run").out


OWN = """
from kdray.objectives import LOSS, Objective, ObjectiveConfig

class Own(Objective):
    config = ObjectiveConfig
    provenance, family, source = "paper", "test", "here"

    def forward(self, targets, student, teacher, student_head, teacher_head, step):
        return {LOSS: student.logits.square().mean()}
"""


@pytest.mark.parametrize(
    "changes, said",
    [
        (
            {"objectives": {"dkd": {}}},
            "objectives.dkd: it takes each image for one of one class, and data.mix mixes two. Write data.mix: false, "
            "or use methods that take mixed images: at, cc, ce, ",
        ),
        (
            {"objectives": {"mcld.sample": {}}},
            "objectives.mcld.sample: it takes each image for one of one class (with these options), and data.mix mixes",
        ),
        (
            {"teacher": {"objectives": {"intra_class": {}}, "data": {"views": 2}}},
            "teacher.objectives.intra_class: it takes each image for one of one class, and teacher.data.mix mixes two. "
            "Write teacher.data.mix: false",
        ),
        (
            {"objectives": {"own": {"type": "own_of_mix:Own"}}},
            "objectives.own: its class does not say that it is sound on mixed images (data.mix). Declare mixable",
        ),
        (
            {"train": {"batch": 31}},
            "train.batch: images are mixed in pairs, and a batch of 31 is 31 of each of 1 workers. Give a multiple of",
        ),
        (
            {"teacher": {"train": {"batch": 15}}},
            "teacher.train.batch: images are mixed in pairs, and a batch of 15 is 15 of each of 1 workers",
        ),
    ],
)
def test_what_cannot_be_mixed_is_refused_before_anything_starts(lab: Lab, changes: dict[str, Any], said: str) -> None:
    (lab.folder / "own_of_mix.py").write_text(OWN)
    assert said in lab.run(changes=MIX | changes).error(2)
    assert lab.artifacts() == []


@pytest.mark.parametrize("key", ["data", "teacher"])
def test_a_small_version_has_a_batch_in_pairs(lab: Lab, applied: list[Mixture], key: str) -> None:
    mix = {"data": MIX["data"], "teacher": {"data": MIX["data"]}}[key]
    changes = {key: mix, "train": {"accumulate": 5, "batch": 40}}
    done = lab.run("--smoke", changes=changes)
    assert done.code == 0, done.err
    assert {mixture.block for mixture in applied} == {2}  # of batches of 10
