"""An experiment with some of its values changed: what a trial of a search is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from kdray.errors import ConfigError, nearest
from kdray.experiment.explain import explain, problems
from kdray.experiment.merge import override, teacher_train
from kdray.experiment.paths import Keys, resolve, split_path
from kdray.experiment.schema import Experiment


def with_changes(experiment: Experiment, changes: Mapping[str, Any], source: str = "search.space") -> Experiment:
    """Return `experiment` with each dotted path of `changes` set to its value, as `--set` would; null takes an
    objective away.

    A path is applied before those that lead into what it sets. `source` names in errors what the changes come from. A
    teacher that is trained by the experiment's `train` follows its changes; one with a `train` of its own does not.

    Raises:
        ConfigError: a path that leads nowhere, or a value that makes no experiment.
    """
    if not changes:
        return experiment
    tree = experiment.model_dump(mode="json", exclude_unset=True)
    for path in sorted(changes, key=_depth):
        try:
            keys = resolve(tree, path)
            _check_objective(tree, keys, changes[path])
            tree = override(tree, keys, changes[path])
        except ConfigError as error:
            raise ConfigError(error.problem, where=f"{source}: {path}", fix=error.fix) from None
    try:
        own = experiment.teacher is not None and experiment.teacher.train is not None
        return Experiment.model_validate(tree if own else teacher_train(tree))
    except ValidationError as error:
        raise explain(problems(error), lambda _: source) from None


def _depth(path: str) -> tuple[int, bool]:
    """Short paths first, and of equally long ones those that set a type: it drops the keys beside it."""
    parts = split_path(path)
    return len(parts), parts[-1] != "type"


def _check_objective(tree: dict[str, Any], keys: Keys, value: Any) -> None:
    """Raise ConfigError where null would take away an objective that is not there."""
    *above, name = keys
    if value is not None or above not in (["objectives"], ["teacher", "objectives"]):
        return
    there: Any = tree
    for key in above:
        there = there.get(key) or {}
    if name not in there:
        problem = f"there is no objective {name!r} to take away{nearest(str(name), there)}"
        raise ConfigError(problem, fix=f"There are {', '.join(there) or 'none'}")
