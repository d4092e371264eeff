"""One step of a stage's objectives on random outputs, before anything runs: they fit the networks, in every phase."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import numpy as np
import torch

from kdray.errors import ConfigError
from kdray.experiment import set_path
from kdray.experiment.phases_part import OF_TRAIN
from kdray.models.outputs import ModelInfo, Outputs
from kdray.objectives.combine import LossReport, ObjectiveSet
from kdray.objectives.contract import Setup, StepInfo, Targets
from kdray.objectives.handover import FIX, Difference, difference
from kdray.pipeline.phases import key_in_phase, named_in_phase
from kdray.train.spec import StageSpec

PROBE_SAMPLES = 64


def check_objectives(spec: StageSpec, student: ModelInfo, teacher: ModelInfo | None) -> None:
    """Check the objectives of all phases on networks of these shapes, and that each phase can go on with the former's
    state.

    Raises:
        ConfigError: an objective that does not fit the networks or the data, or a phase that changes which state there
            is, by its key.
    """
    before = dry_step(spec, student, teacher)
    for number, phase in enumerate(spec.phases):
        with named_in_phase(number, phase.changes):
            after = dry_step(replace(spec, objectives=phase.objectives), student, teacher)
        found = difference(before, after)
        if found is not None:
            raise ConfigError(found.problem, where=_culprit(spec, number, found, student, teacher), fix=FIX)
        before = after


def _culprit(spec: StageSpec, number: int, found: Difference, student: ModelInfo, teacher: ModelInfo | None) -> str:
    """The key of the change that alone makes the difference; that of the objective's first where none does."""
    changes = spec.phases[number].changes
    former = spec.phases[number - 1].objectives if number else spec.objectives
    before = dry_step(replace(spec, objectives=former), student, teacher)
    for path, value in changes.items():
        if path in OF_TRAIN:
            continue
        with contextlib.suppress(ConfigError):  # half of a change need not work
            changed = set_path({"objectives": former}, path, value)["objectives"]
            if difference(before, dry_step(replace(spec, objectives=changed), student, teacher)) == found:
                return key_in_phase(number, {path: value}, path)
    return key_in_phase(number, changes, f"objectives.{found.objective}")


def loss_names(spec: StageSpec, student: ModelInfo, teacher: ModelInfo | None) -> tuple[list[str], list[str]]:
    """Names of the losses that the history of this training has, of all phases, `total` last; and of objectives that
    weigh nothing in the middle of it, whose losses (NAME, NAME.PART) it may have before or after."""
    names: dict[str, None] = {}
    asleep: dict[str, None] = {}
    for objectives in (spec.objectives, *(phase.objectives for phase in spec.phases)):
        report = _step(replace(spec, objectives=objectives), student, teacher)[1]
        names |= dict.fromkeys(report.parts)
        asleep |= dict.fromkeys(name for name in report.weights if name not in report.parts)
    return [*names, "total"], list(asleep)


def dry_step(spec: StageSpec, student: ModelInfo, teacher: ModelInfo | None) -> ObjectiveSet:
    """Run the objectives once on random outputs of the networks' shapes, with banks for a handful of samples.

    Raises:
        ConfigError: an objective that does not fit the networks or the data.
    """
    return _step(spec, student, teacher)[0]


def _step(spec: StageSpec, student: ModelInfo, teacher: ModelInfo | None) -> tuple[ObjectiveSet, LossReport]:
    assert spec.train is not None
    classes, rows = spec.dataset.num_classes, 4
    labels = np.arange(PROBE_SAMPLES, dtype=np.int64) % min(classes, PROBE_SAMPLES // 4)
    setup = Setup(
        num_classes=classes,
        num_samples=PROBE_SAMPLES,
        student=student,
        teacher=teacher,
        labels=labels,
        batch=rows,
        epochs=spec.train.epochs,
        seed=0,
        views=spec.data.views,
        mixed=spec.data.mix is not None,
    )
    where = "teacher.objectives" if spec.name == "teacher" else "objectives"
    objectives = ObjectiveSet(spec.objectives, setup, where)
    targets = Targets(torch.from_numpy(labels[:rows]), torch.arange(rows), spec.data.views)
    middle = StepInfo(epoch=spec.train.epochs / 2, epochs=spec.train.epochs, step=1, seed=0)
    heads = [
        torch.nn.Linear(info.pooled_dim, info.num_classes or 1) if info and info.linear_head else None
        for info in (student, teacher)
    ]
    outputs = [_random_outputs(info, rows * spec.data.views) if info else None for info in (student, teacher)]
    assert outputs[0] is not None
    return objectives, objectives(targets, outputs[0], outputs[1], heads[0], heads[1], middle)


def _random_outputs(info: ModelInfo, rows: int) -> Outputs:
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(rows, *shape, generator=generator) for shape in info.stage_shapes]
    logits = torch.randn(rows, info.num_classes, generator=generator) if info.num_classes else None
    return Outputs(
        logits=logits, pooled=torch.randn(rows, info.pooled_dim, generator=generator), stages=maps, preact=list(maps)
    )
