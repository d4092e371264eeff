"""The losses of an experiment's objectives one by one: where the weight of each one stands, and its value.

A leaf is an objective with a loss of its own: one that stands in the file, or a member of a composite there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from kdray.errors import ConfigError
from kdray.objectives.combine import Composite, ObjectiveSet, computing
from kdray.objectives.contract import Objective, ObjectiveConfig, StepInfo, Targets
from kdray.objectives.registry import parse

if TYPE_CHECKING:
    from kdray.models.outputs import Outputs


@dataclass(frozen=True)
class Leaf:
    """An objective with a loss of its own.

    `keys` say where it stands in `objectives`: ("kd",), or ("clmkd", "kd") in a composite. `weight` is its own,
    `around` the product of those of the composites that it stands in: both multiply its loss, beside schedules.
    """

    keys: tuple[str, ...]
    objective: type[Objective]
    weight: float
    around: float = 1.0

    @property
    def label(self) -> str:
        """Its name, as losses are reported."""
        return ".".join(self.keys)

    @property
    def total(self) -> float:
        """What multiplies its loss; at 0 it is not computed."""
        return self.weight * self.around


def leaves(objectives: Mapping[str, Any], where: str = "objectives") -> dict[str, Leaf]:
    """All leaves of `objectives` (name -> parameters) by label, those of weight 0 too.

    Raises:
        ConfigError: as `parse`, or two leaves of one label.
    """
    found: dict[str, Leaf] = {}
    for entry in parse(objectives, where):
        for leaf in _under((entry.name,), entry.objective, entry.options, 1.0):
            if leaf.label in found:
                fix = f"Call one of them something else, with `type: {leaf.objective.method}`"
                raise ConfigError(f"two parts are called {leaf.label}", where=f"{where}.{entry.name}", fix=fix)
            found[leaf.label] = leaf
    return found


def _under(keys: tuple[str, ...], cls: type[Objective], options: ObjectiveConfig, around: float) -> Iterator[Leaf]:
    if not issubclass(cls, Composite):
        yield Leaf(keys, cls, options.weight, around)
        return
    for name, member in cls.members_of.items():
        yield from _under((*keys, name), member, getattr(options, name), around * options.weight)


def losses(
    objectives: ObjectiveSet,
    targets: Targets,
    student: Outputs,
    teacher: Outputs | None,
    student_head: nn.Linear | None,
    teacher_head: nn.Linear | None,
    step: StepInfo,
) -> Iterator[tuple[str, Tensor]]:
    """The loss of every leaf that was built, with its graph: its parts by their weights in it, without its own weight
    and all schedules. One is computed when it is asked for, so that the graphs do not add up."""
    with computing(student, teacher) as (student, teacher):
        for keys, member in _members(objectives):
            values = member(targets, student, teacher, student_head, teacher_head, step)
            inner = member.part_weights(step)
            total = student.pooled.new_zeros(())
            for part, value in values.items():
                if inner.get(part, 1.0) != 0.0:
                    total = total + inner.get(part, 1.0) * value
            yield ".".join(keys), total


def _members(objectives: ObjectiveSet) -> Iterator[tuple[tuple[str, ...], Objective]]:
    for name, member in objectives.named():
        yield from _inside((name,), member)


def _inside(keys: tuple[str, ...], member: Objective) -> Iterator[tuple[tuple[str, ...], Objective]]:
    if not isinstance(member, Composite):
        yield keys, member
        return
    for name, inner in member.members.items():
        assert isinstance(inner, Objective)
        yield from _inside((*keys, name), inner)
