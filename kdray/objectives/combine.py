"""The objectives of an experiment as one module: `ObjectiveSet`, and `Composite` for a method made of methods."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from kdray.errors import ConfigError
from kdray.objectives.casting import cast_outputs, compute_dtype
from kdray.objectives.contract import (
    LOSS,
    NOTHING,
    LossReport,
    Needs,
    Objective,
    ObjectiveConfig,
    Setup,
    StepInfo,
    Targets,
)
from kdray.objectives.registry import Entry, methods, parse
from kdray.objectives.sharded import ShardedBank

if TYPE_CHECKING:
    from kdray.models.outputs import Net, Outputs


class ObjectiveSet(nn.Module):
    """All objectives of an experiment: their weighted sum, their parts, their heads and their state.

    `parameters()` are the heads of the members and nothing else; give them to the optimizer and their gradients to
    DDP. `state_dict()` holds heads and banks exactly; plain tensors, so `torch.load(weights_only=True)` reads it.
    Replicated banks are equal on all workers by construction and sharded ones differ: who broadcasts buffers must leave
    `state_names` out.
    """

    def __init__(self, objectives: Mapping[str, Any], setup: Setup, where: str = "objectives") -> None:
        """Build every objective of weight above 0 for `setup`.

        Heads and banks start as a function of (setup.seed, name): equal on all workers, and not shifted by what else is
        in the list. The caller's random state stays as it was.

        Raises:
            ConfigError: as `parse`, or an objective needs what the teacher, the views or the data of `setup` do not
            give.
        """
        super().__init__()
        entries = [entry for entry in parse(objectives, where) if entry.options.weight > 0]
        if not entries:
            raise ConfigError("every objective has weight 0", where=where, fix="Give one of them a weight")
        self.needs = NOTHING
        self.members = nn.ModuleDict()
        self._names: dict[str, str] = {}
        self._where = where
        for entry in entries:
            wanted = entry.objective.needs(entry.options)
            _check(entry, wanted, setup, f"{where}.{entry.name}")
            self.needs |= wanted
            key = entry.name.replace(".", "/")  # a module's key must not hold a dot
            if hasattr(self.members, key):
                raise ConfigError("this name is taken by the module's own methods", where=f"{where}.{entry.name}")
            try:
                with _seeded(setup.seed, entry.name):
                    self.members[key] = entry.objective(entry.options, setup)
            except ConfigError as error:
                path = f"{where}.{entry.name}" + (f".{error.where}" if error.where else "")
                raise type(error)(error.problem, where=path, fix=error.fix) from None
            self._names[key] = entry.name
        changing = [self._names[key] for key, member in self.members.items() if _changes_network(member)]
        if len(changing) > 1:
            problem = f"{' and '.join(changing)} both change the network that is deployed, and there can be one"
            raise ConfigError(problem, where=f"{where}.{changing[1]}", fix="Keep one of them")

    def deployed(self, net: Net, teacher: Net | None) -> Net:
        """The network to validate, test and export: the student `net`, or what a member makes of it.

        Raises:
            ConfigError: as that member's `deployed`.
        """
        for name, member in self.named():
            try:
                net = member.deployed(net, teacher)
            except ConfigError as error:
                path = f"{self._where}.{name}" + (f".{error.where}" if error.where else "")
                raise type(error)(error.problem, where=path, fix=error.fix) from None
        return net

    def named(self) -> Iterator[tuple[str, Objective]]:
        """The objectives by their names in the experiment."""
        for key, member in self.members.items():
            assert isinstance(member, Objective)
            yield self._names[key], member

    @property
    def state_names(self) -> list[str]:
        """Names of all buffers (banks, centroids, constants), as in `named_buffers()`."""
        return [name for name, _ in self.named_buffers()]

    def collect(self) -> None:
        """Make rank 0 ready for `state_dict`; all workers call it, and it costs nothing without sharded banks."""
        for module in self.modules():
            if isinstance(module, ShardedBank):
                module.collect()

    def forward(
        self,
        targets: Targets,
        student: Outputs,
        teacher: Outputs | None,
        student_head: nn.Linear | None,
        teacher_head: nn.Linear | None,
        step: StepInfo,
    ) -> LossReport:
        """The loss of one step, in float32 (float64 where an input is) whatever the autocast around it."""
        parts: dict[str, Tensor] = {}
        weights: dict[str, float] = {}
        with computing(student, teacher) as (student, teacher):
            # The student takes part even where no objective reads its logits: DDP waits for every gradient.
            total = 0.0 * (student.pooled if student.logits is None else student.logits).sum()
            for name, member in self.named():
                weight = member.options.weight_at(step)
                if weight == 0.0:
                    weights[name] = 0.0
                    total = total + _nothing(member.parameters(), total)
                    continue
                inner = member.part_weights(step)
                values = member(targets, student, teacher, student_head, teacher_head, step)
                for part in dict.fromkeys([*values, *inner]):
                    label = name if part == LOSS else f"{name}.{part}"
                    weights[label] = weight * inner.get(part, 1.0)
                    if part in values:
                        parts[label] = values[part].detach()
                    if part in values and weights[label] != 0.0:
                        total = total + weights[label] * values[part]
                total = total + _nothing(member.idle_parameters(step), total)
        return LossReport(total, parts, weights)


@contextmanager
def computing(student: Outputs, teacher: Outputs | None) -> Iterator[tuple[Outputs, Outputs | None]]:
    """Both networks' outputs as losses take them, with autocast switched off in the block."""
    with torch.autocast(student.pooled.device.type, enabled=False):
        dtype = compute_dtype(student, teacher)
        teacher = None if teacher is None else cast_outputs(teacher, dtype, detach=True)
        yield cast_outputs(student, dtype), teacher


class Composite(Objective):
    """A method made of methods: each member has its own sub-config (a field of the same name), weight and schedule."""

    members_of: ClassVar[dict[str, type[Objective]]]

    def __init__(self, options: ObjectiveConfig, setup: Setup) -> None:
        super().__init__(options, setup)
        self.members = nn.ModuleDict()
        for name, cls in self.members_of.items():
            inner = getattr(options, name)
            if inner.weight > 0:
                try:
                    self.members[name] = cls(inner, setup)
                except ConfigError as error:
                    path = name + (f".{error.where}" if error.where else "")
                    raise type(error)(error.problem, where=path, fix=error.fix) from None

    @classmethod
    def needs(cls, options: Any) -> Needs:
        total = NOTHING
        for name, member in cls.members_of.items():
            inner = getattr(options, name)
            if inner.weight > 0:
                total |= member.needs(inner)
        return total

    @classmethod
    def takes_mixed(cls, options: Any) -> bool:
        members = [(member, getattr(options, name)) for name, member in cls.members_of.items()]
        return all(member.takes_mixed(inner) for member, inner in members if inner.weight > 0)

    @classmethod
    def searched(cls, options: Any) -> Mapping[str, str]:
        """Its own, and that of every member that takes part, below the member's name."""
        found = dict(cls.search_space)
        for name, member in cls.members_of.items():
            inner = getattr(options, name)
            if inner.weight > 0:
                found |= {f"{name}.{path}": text for path, text in member.searched(inner).items()}
        return found

    @classmethod
    def bank_bytes(cls, options: Any, setup: Setup) -> int:
        members = [(member, getattr(options, name)) for name, member in cls.members_of.items()]
        return sum(member.bank_bytes(inner, setup) for member, inner in members if inner.weight > 0)

    def deployed(self, net: Net, teacher: Net | None) -> Net:
        for member in self.members.values():
            assert isinstance(member, Objective)
            net = member.deployed(net, teacher)
        return net

    def _active(self, step: StepInfo) -> Iterator[tuple[str, Objective, float]]:
        for name, member in self.members.items():
            assert isinstance(member, Objective)
            yield name, member, member.options.weight_at(step)

    def part_weights(self, step: StepInfo) -> dict[str, float]:
        weights = {}
        for name, member, weight in self._active(step):
            weights[name] = weight
            for part, inner in member.part_weights(step).items():
                weights[name if part == LOSS else f"{name}.{part}"] = weight * inner
        return weights

    def idle_parameters(self, step: StepInfo) -> Iterator[nn.Parameter]:
        for _, member, weight in self._active(step):
            yield from member.parameters() if weight == 0.0 else member.idle_parameters(step)

    def forward(
        self,
        targets: Targets,
        student: Outputs,
        teacher: Outputs | None,
        student_head: nn.Linear | None,
        teacher_head: nn.Linear | None,
        step: StepInfo,
    ) -> dict[str, Tensor]:
        parts: dict[str, Tensor] = {}
        for name, member, weight in self._active(step):
            if weight != 0.0:
                values = member(targets, student, teacher, student_head, teacher_head, step)
                parts |= {name if part == LOSS else f"{name}.{part}": value for part, value in values.items()}
        return parts


def _changes_network(member: nn.Module) -> bool:
    if isinstance(member, Composite):
        return any(_changes_network(inner) for inner in member.members.values())
    return isinstance(member, Objective) and type(member).deployed is not Objective.deployed


@contextmanager
def _seeded(seed: int, name: str) -> Iterator[None]:
    """Run with torch's CPU generator at a state that depends on (seed, name) alone."""
    before = torch.default_generator.get_state()
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    torch.default_generator.manual_seed(int.from_bytes(digest, "little"))
    try:
        yield
    finally:
        torch.default_generator.set_state(before)


def _check(entry: Entry, needs: Needs, setup: Setup, where: str) -> None:
    """Raise ConfigError where `setup` does not give what an objective needs."""
    teacher = setup.teacher
    if needs.teacher and teacher is None:
        raise ConfigError(
            "this objective needs a teacher", where=where, fix="Add `teacher:` or leave the objective out"
        )
    if needs.teacher_logits and teacher is not None:
        if teacher.num_classes is None:
            fix = "Give the teacher a classifier, or use objectives that read features"
            raise ConfigError(f"it needs logits, and {teacher.name} has no classifier", where=where, fix=fix)
        if teacher.num_classes != setup.num_classes:
            problem = (
                f"it compares logits: {teacher.name} has {teacher.num_classes} classes, the data {setup.num_classes}"
            )
            raise ConfigError(problem, where=where, fix="Use a teacher of the same classes")
    if setup.views < needs.min_views:
        problem = f"it needs {needs.min_views} views of every image, and data.views is {setup.views}"
        key = "teacher.data.views" if where.startswith("teacher.") else "data.views"
        raise ConfigError(problem, where=where, fix=f"Set {key} to {needs.min_views}")
    if setup.mixed and not entry.objective.takes_mixed(entry.options):
        raise _not_mixable(entry, where)
    if needs.labels and (setup.labels is None or len(setup.labels) != setup.num_samples):
        given = "none" if setup.labels is None else str(len(setup.labels))
        raise ConfigError(f"it needs the labels of all {setup.num_samples} samples, and has {given}", where=where)


def _not_mixable(entry: Entry, where: str) -> ConfigError:
    cls, key = entry.objective, "teacher.data.mix" if where.startswith("teacher.") else "data.mix"
    if not cls.method:
        problem = f"its class does not say that it is sound on mixed images ({key})"
        fix = f"Declare mixable = True where it compares both networks' outputs of an image, or write {key}: false"
        return ConfigError(problem, where=where, fix=fix)
    by_options = any("takes_mixed" in vars(one) for one in cls.__mro__ if one is not Objective)
    problem = f"it takes each image for one of one class{' (with these options)' * by_options}, and {key} mixes two"
    others = ", ".join(name for name, one in methods().items() if one.takes_mixed(one.config()))
    return ConfigError(problem, where=where, fix=f"Write {key}: false, or use methods that take mixed images: {others}")


def _nothing(parameters: Iterable[nn.Parameter], like: Tensor) -> Tensor:
    """A zero that depends on `parameters`: they are idle now, and DDP waits for a gradient of every one of them."""
    zero = torch.zeros_like(like)
    for parameter in parameters:
        zero = zero + 0.0 * parameter.sum()
    return zero
