"""`search:` of an experiment file: what is searched, how, and by which metric. The space itself is `space_text`'s."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, model_validator

from kdray.errors import nearest
from kdray.experiment.bounds import Count, Natural, Positive, Unit, Uri
from kdray.experiment.freeform import plain_copy
from kdray.experiment.part import OPERATIONAL, Part, only_for, refuse
from kdray.experiment.paths import is_path
from kdray.experiment.search_fit import Misfit, misfit
from kdray.experiment.space import Space
from kdray.experiment.space_text import ROOTS, Unreadable, head_of, plain_space, read_space

MOST = ("val/top1", "val/top5", "images_per_s")
LEAST = ("val/nll", "loss/total", "seconds", "data_wait")
TRIALS = 16
DEFAULT = "default"


def _by_type(value: Any) -> Any:
    return {"type": value} if isinstance(value, str) else value


class Searcher(Part):
    """What proposes the next trial. `searcher: tpe` is short for `searcher: {type: tpe}`.

    The first `startup` trials are drawn at random (tpe, gp, cma_es). `multivariate` tpe models parameters together.
    `seed` None is the experiment's.
    """

    type: Literal["random", "grid", "tpe", "gp", "cma_es"] = "tpe"
    startup: Count = 8
    multivariate: bool = True
    seed: Natural | None = None

    _short = model_validator(mode="before")(_by_type)

    @model_validator(mode="after")
    def _keys_of_the_type(self) -> Searcher:
        only_for(self, {"startup": ("tpe", "gp", "cma_es"), "multivariate": ("tpe",)})
        return self


class Scheduler(Part):
    """What ends a trial early. `scheduler: asha` is short for `scheduler: {type: asha}`.

    A trial runs `grace_epochs` at least (asha, median). asha and hyperband keep the best 1 / `reduction` at each of
    their stops; asha starts `brackets` ladders. median needs `min_trials` to compare with. pbt copies the best
    `quantile` over the worst every `every_epochs` and moves their parameters, each drawn anew with probability
    `resample`.
    """

    type: Literal["none", "asha", "median", "hyperband", "pbt"] = "none"
    grace_epochs: Count = 1
    reduction: Annotated[int, Field(ge=2)] = 3
    brackets: Count = 1
    min_trials: Count = 3
    every_epochs: Count = 1
    quantile: Annotated[float, Field(gt=0, le=0.5)] = 0.25
    resample: Unit = 0.25

    _short = model_validator(mode="before")(_by_type)

    @model_validator(mode="after")
    def _keys_of_the_type(self) -> Scheduler:
        owners: dict[str, tuple[str, ...]] = {
            "grace_epochs": ("asha", "median"),
            "reduction": ("asha", "hyperband"),
            "brackets": ("asha",),
            "min_trials": ("median",),
        }
        only_for(self, owners | dict.fromkeys(("every_epochs", "quantile", "resample"), ("pbt",)))
        return self


class At(Part):
    """The budget of a trial at which its metric counts, in one of the two units; it ends there."""

    epochs: Count | None = None
    minutes: Positive | None = None

    @model_validator(mode="after")
    def _one_unit(self) -> At:
        if (self.epochs is None) == (self.minutes is None):
            said = "names no budget" if self.epochs is None else "names two budgets"
            raise refuse(said, "Write {epochs: 5} or {minutes: 10}")
        return self


def _map_of_changes(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not value:
        raise refuse("wants a map of changes", "Write {student.params.width: 0.5, train.epochs: 3}", (), value)
    for path in value:
        if not isinstance(path, str) or not is_path(path) or head_of(path) not in ROOTS:
            fix = f"Write PATH: VALUE; a path begins with one of {', '.join(ROOTS)}"
            raise refuse(f"{path!r} is no path of the experiment{nearest(str(path), ROOTS)}", fix, (path,))
    return plain_copy(value)


class Transfer(Part):
    """Search on a proxy: `set` is laid over the experiment of every trial. `check` of them, the best half and others of
    all ranks, are then run without it, and the best of those is the winner."""

    set: Annotated[dict[str, Any], PlainValidator(_map_of_changes)]
    check: Count = Field(default=4, json_schema_extra=OPERATIONAL)


def _space(value: Any) -> Any:
    if value == DEFAULT:
        return value
    if isinstance(value, str):
        raise refuse(f"{value!r} is no space", "Write space: default, or PATH: DISTRIBUTION lines under it")
    try:
        return plain_space(read_space(value))
    except Unreadable as error:
        raise refuse(error.problem, error.fix, error.keys) from None


class Search(Part):
    """A search for the best parameters of the experiment: `trials` students, each with others of the `space`.

    `metric` is a column of an epoch's row in the history; its best over a trial's epochs counts, or the one reached
    within `at`. `mode` is whether more of it is better. `trials` None is 16, and the whole grid for a grid. At most
    `concurrent` run at a time, and none starts after `max_hours`. `mlflow` is a tracking URI.
    """

    space: Annotated[Any, PlainValidator(_space)] = DEFAULT
    trials: Count | None = Field(default=None, json_schema_extra=OPERATIONAL)
    searcher: Searcher = Field(default_factory=Searcher)
    scheduler: Scheduler = Field(default_factory=Scheduler)
    metric: str = MOST[0]
    mode: Literal["max", "min"] = "max"
    at: At | None = None
    concurrent: Count | None = Field(default=None, json_schema_extra=OPERATIONAL)
    max_hours: Positive | None = Field(default=None, json_schema_extra=OPERATIONAL)
    transfer: Transfer | None = None
    mlflow: Uri | None = Field(default=None, json_schema_extra=OPERATIONAL)

    @model_validator(mode="before")
    @classmethod
    def _mode_of_the_metric(cls, value: Any) -> Any:
        if not isinstance(value, Mapping) or value.get("mode") is not None:
            return value
        metric = value.get("metric")
        least = isinstance(metric, str) and (metric in LEAST or metric.startswith("loss/"))
        return {**value, "mode": "min"} if least else value

    @model_validator(mode="before")
    @classmethod
    def _searcher_of_hyperband(cls, value: Any) -> Any:
        # Its brackets are filled before any trial ends: nothing could be learned.
        if not isinstance(value, Mapping):
            return value
        asked, searcher = _by_type(value.get("scheduler")), _by_type(value.get("searcher") or {})
        brackets = isinstance(asked, Mapping) and asked.get("type") == "hyperband"
        if not brackets or not isinstance(searcher, Mapping) or searcher.get("type") is not None:
            return value
        return {**value, "searcher": {"type": "random", **searcher}}

    @model_validator(mode="after")
    def _metric_is_known(self) -> Search:
        if self.metric.partition("/")[0] == "test":
            fix = f"Search by {MOST[0]}: test images are counted once, at the end, and take part in no choice"
            raise refuse(f"{self.metric} would choose by the test set", fix, ("metric",))
        known = (*MOST, *LEAST)
        if self.metric not in known and not self.metric.startswith("loss/"):
            fix = f"Choose one of {', '.join(known)}, or loss/NAME of an objective"
            raise refuse(f"{self.metric!r} is not a choice{nearest(self.metric, known)}", fix, ("metric",))
        return self

    @model_validator(mode="after")
    def _space_fits(self) -> Search:
        space = self.own_space
        found = None if space is None else self.misfit(space)
        if found is not None:
            raise refuse(found.problem, found.fix, found.keys)
        return self

    @property
    def own_space(self) -> Space | None:
        """The space that is written; None for the default one."""
        return None if self.space == DEFAULT else read_space(self.space)

    def misfit(self, space: Space) -> Misfit | None:
        """Why `space` cannot be searched in this way, or None."""
        fixed = self.transfer.set if self.transfer is not None else {}
        return misfit(space, self.searcher.type, self.scheduler.type, fixed)

    def wanted(self, space: Space) -> int:
        """How many trials are to be made of `space`."""
        whole = space.size() if self.searcher.type == "grid" else None
        if self.trials is None:
            return TRIALS if whole is None else whole
        return self.trials if whole is None else min(self.trials, whole)
