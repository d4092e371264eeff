"""The phases of a student's stage: objectives understood, errors under the keys of the file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from kdray.errors import ConfigError
from kdray.experiment import Experiment
from kdray.experiment.paths import split_path
from kdray.experiment.phases_part import lay
from kdray.objectives.contract import Needs
from kdray.objectives.registry import needs, normalise
from kdray.train.spec import StagePhase


def stage_phases(experiment: Experiment) -> tuple[StagePhase, ...]:
    """The phases of the student, each with all that holds in it.

    Raises:
        ConfigError: objectives of a phase that do not parse, by its key.
    """
    phases = []
    for number, laid in enumerate(lay(experiment.phases, experiment.objectives, experiment.train)):
        with named_in_phase(number, laid.phase.set):
            objectives = normalise(laid.objectives)
        phases.append(StagePhase(laid.phase.from_epoch, objectives, laid.train, laid.phase.set))
    return tuple(phases)


def student_needs(experiment: Experiment) -> Needs:
    """What the objectives of the student need, in any of its phases.

    Raises:
        ConfigError: objectives that do not parse.
    """
    total = needs(experiment.objectives)
    for phase in stage_phases(experiment):
        total |= needs(phase.objectives)
    return total


def wants_teacher(objectives: Mapping[str, Any], phases: Sequence[StagePhase]) -> str | None:
    """The key of what first needs a teacher, None where nothing does."""
    for number, each in enumerate([objectives, *(phase.objectives for phase in phases)]):
        name = next((name for name in each if needs({name: each[name]}).teacher), None)
        if name is not None:
            where = f"objectives.{name}"
            return where if number == 0 else key_in_phase(number - 1, phases[number - 1].changes, where)
    return None


def identity_of_phases(phases: Sequence[StagePhase]) -> list[dict[str, Any]]:
    """What in `phases` makes a result, in a plain form."""
    return [
        {
            "from_epoch": phase.from_epoch,
            "objectives": phase.objectives,
            "train": phase.train.canonical(results_only=True),
        }
        for phase in phases
    ]


def key_in_phase(number: int, changes: Mapping[str, Any], where: str | None) -> str:
    """The key of the change of phase `number` (0-based) that an error at `where` is about."""
    wanted = where or ""
    plain = {path: ".".join(split_path(path)) for path in changes}
    for path, text in plain.items():
        if wanted == text or wanted.startswith(f"{text}."):
            return f"phases.{number}.set.{path}"
    for path, text in plain.items():
        if text.startswith(f"{wanted}."):
            return f"phases.{number}.set.{path}"
    return f"phases.{number}.set"


@contextmanager
def named_in_phase(number: int, changes: Mapping[str, Any]) -> Iterator[None]:
    """Put the key of phase `number`, which makes `changes`, on an error in the block."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(error.problem, where=key_in_phase(number, changes, error.where), fix=error.fix) from error
