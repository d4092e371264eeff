"""`phases:` of an experiment file: hyper-parameters of the student that change between epochs while the run goes on.

What population based training found is written down with it, and run again as a plain experiment.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import PlainValidator

from kdray.errors import ConfigError, nearest
from kdray.experiment.bounds import Count
from kdray.experiment.freeform import plain_copy
from kdray.experiment.part import Part, refuse
from kdray.experiment.paths import Keys, resolve, set_path, split_path
from kdray.experiment.train_part import Train

OF_TRAIN = ("train.optimizer.lr", "train.optimizer.weight_decay", "train.clip_norm")
_TAKES = f"A phase may change objectives.NAME.PARAMETER, {', '.join(OF_TRAIN)}"


def _map_of_changes(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise refuse("wants a map of changes", "Write {train.optimizer.lr: 0.01}", (), value)
    if not value:
        raise refuse("changes nothing", "Write {train.optimizer.lr: 0.01}, or remove the phase")
    return {path: _change(path, item) for path, item in value.items()}


def _change(path: Any, value: Any) -> Any:
    if path in OF_TRAIN:
        return _of_train(path, value)
    if not isinstance(path, str) or not path.startswith("objectives."):
        dotted = " with dots" if path in ("objectives", "train") else nearest(str(path), OF_TRAIN)
        raise refuse(f"{path} is nothing that a phase changes{dotted}", _TAKES, (path,))
    return plain_copy(value, (path,))


def _of_train(path: str, value: Any) -> float | None:
    if value is None and path == "train.clip_norm":
        return None
    if value is None:
        raise refuse("has no value (null)", "Write a number", (path,))
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise refuse("wants a number", "Write a number", (path,), value)
    number = float(plain_copy(value, (path,)))
    if number < 0 or (number == 0 and path != "train.optimizer.weight_decay"):
        words = "of at least 0" if path == "train.optimizer.weight_decay" else "above 0"
        raise refuse(f"{value} is out of range", f"Give a number {words}", (path,))
    return number


class Phase(Part):
    """What holds once `from_epoch` epochs are finished, on top of the phases before: dotted paths and their values.

    Paths lead to parameters of the student's objectives, or are one of `OF_TRAIN`.
    """

    from_epoch: Count
    set: Annotated[dict[str, Any], PlainValidator(_map_of_changes)]


@dataclass(frozen=True)
class Laid:
    """A phase laid over what holds before it: all objectives and the whole `train` of its epochs."""

    phase: Phase
    objectives: dict[str, dict[str, Any]]
    train: Train


def lay(phases: Sequence[Phase], objectives: dict[str, dict[str, Any]], train: Train) -> Iterator[Laid]:
    """Lay each of `phases` over the former ones, the first over `objectives` and `train`.

    Raises:
        ConfigError: a path that leads nowhere; `where` is its key.
    """
    for number, phase in enumerate(phases):
        for path, value in phase.set.items():
            if path in OF_TRAIN:
                train = _with(train, path, value)
            else:
                keys = _keys(objectives, path, f"phases.{number}.set.{path}")
                objectives = set_path(objectives, keys, value)
        yield Laid(phase, objectives, train)


def check_phases(phases: Sequence[Phase], objectives: dict[str, dict[str, Any]], train: Train) -> None:
    """Raise a pydantic custom error where `phases` cannot follow each other in a run of `train`."""
    for number in range(1, len(phases)):
        before, epoch = phases[number - 1].from_epoch, phases[number].from_epoch
        if epoch <= before:
            problem = f"phases must come in order, but {before} comes before {epoch}"
            raise refuse(problem, "Sort them, and give each epoch one phase", ("phases", number, "from_epoch"))
    for number, phase in enumerate(phases):
        if phase.from_epoch >= train.epochs:
            problem = f"a phase that begins after {phase.from_epoch} epochs never holds in {train.epochs} epochs"
            fix = "Give a number below train.epochs, or more epochs"
            raise refuse(problem, fix, ("phases", number, "from_epoch"))
    try:
        for _ in lay(phases, objectives, train):
            pass
    except ConfigError as error:
        _, which, key, path = str(error.where).split(".", 3)
        raise refuse(error.problem, error.fix or _TAKES, ("phases", int(which), key, path)) from None


def phases_of(lineage: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the `phases:` of a run whose parameters changed as `lineage` says.

    `lineage` holds {"from_epoch": finished epochs, "parameters": {dotted path: value}} in order. Its first one, of
    epoch 0, is the experiment as it begins and no phase. What comes for an epoch again is laid over what was there.

    Raises:
        ConfigError: a parameter that no phase can change, or a lineage that does not begin at 0 or is not in order.
    """
    epochs = [int(entry["from_epoch"]) for entry in lineage]
    if not epochs or epochs[0] != 0 or epochs != sorted(epochs):
        fix = "Give its entries in order, the first from epoch 0 on"
        raise ConfigError(f"a lineage of epochs {epochs} is none", fix=fix)
    known: dict[str, Any] = {}
    by_epoch: dict[int, dict[str, Any]] = {}
    for epoch, entry in zip(epochs, lineage, strict=True):
        known = known | dict(entry["parameters"])
        by_epoch[epoch] = known
    phases: list[dict[str, Any]] = []
    for (_, former), (epoch, now) in itertools.pairwise(by_epoch.items()):
        changes = {path: value for path, value in now.items() if path not in former or former[path] != value}
        for path in changes:
            if path not in OF_TRAIN and not path.startswith("objectives."):
                raise ConfigError(f"{path} is nothing that a phase changes{nearest(path, OF_TRAIN)}", fix=_TAKES)
        if changes:
            phases.append({"from_epoch": epoch, "set": changes})
    return phases


def _with(train: Train, path: str, value: float | None) -> Train:
    *_, key = path.split(".")
    if path == "train.clip_norm":
        return train.model_copy(update={key: value})
    return train.model_copy(update={"optimizer": train.optimizer.model_copy(update={key: value})})


def _keys(objectives: dict[str, dict[str, Any]], path: str, where: str) -> Keys:
    """The keys that `path` means in `objectives`: the name of one of them, and at least one of its parameters."""
    try:
        split_path(path)
        keys = resolve({"objectives": objectives}, path)[1:]
    except ConfigError as error:
        raise ConfigError(error.problem, where=where, fix=error.fix) from None
    name = str(keys[0])
    if name not in objectives:
        fix = f"The objectives are {', '.join(objectives)}"
        raise ConfigError(f"there is no objective {name!r}{nearest(name, objectives)}", where=where, fix=fix)
    if len(keys) < 2:
        raise ConfigError("is a whole objective", where=where, fix=f"Name a parameter of it: objectives.{name}.weight")
    if keys[1] == "type":
        fix = "Name both as objectives, and let their weights change"
        raise ConfigError("a phase cannot put another method in its place", where=where, fix=fix)
    return keys
