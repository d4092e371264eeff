"""A search looked at before anything runs: its space at every end, its proxy, and what all trials must share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kdray.data.dataset import Dataset
from kdray.errors import ConfigError, KdrayError, nearest
from kdray.experiment import Experiment
from kdray.experiment.changes import with_changes
from kdray.experiment.search_part import Search
from kdray.objectives.search_space import balanced_paths, space_of
from kdray.pipeline.dry import check_objectives, loss_names
from kdray.pipeline.estimate import Estimate, estimate
from kdray.pipeline.members import is_judged
from kdray.pipeline.stages import base_digests, draft_stages, stage_spec
from kdray.report.mlflow_export import check_mlflow
from kdray.store import Store
from kdray.train.spec import StageSpec
from kdray.tune.checks import check_space

PROXY = "search.transfer.set"
PIN = "Pin it: give teacher.weights, or teacher.train and teacher.data of its own"


@dataclass(frozen=True)
class Opened:
    """How the planning opens data and digests weights: each once, whoever asks."""

    data: Callable[[Experiment], Dataset]
    weights: Callable[[str], str]
    dry: bool = False


def check_search(experiment: Experiment, opened: Opened) -> None:
    """Check the search of `experiment`, if it has one.

    Raises:
        InputError: the first thing that cannot work, by its key.
    """
    search = experiment.search
    if search is None:
        return
    if experiment.cluster.workers == 0:
        fix = "Set cluster.workers to 1: a trial of one worker trains in one process"
        raise ConfigError("a search runs on Ray, and workers: 0 is one process without it", where="search", fix=fix)
    own = experiment.teacher.train if experiment.student is None and experiment.teacher is not None else None
    epochs = (own or experiment.train).epochs
    if search.at is not None and (search.at.epochs or 0) > epochs:
        problem = f"{search.at.epochs} epochs are more than the {epochs} that a trial trains"
        raise ConfigError(problem, where="search.at.epochs", fix="Lower it, or raise train.epochs")
    _check_scheduler(experiment, search)
    space = space_of(experiment)
    for name in sorted(balanced_paths(experiment).intersection(space.names())):
        problem = "balance sets this weight, whatever a search would say"
        raise ConfigError(problem, where=f"search.space.{name}", fix="Take it out of the space, or remove balance:")
    plain = experiment.model_copy(update={"search": None})
    proxy = plain
    if search.transfer is not None:
        _look(plain, opened)  # what is wrong with it is not the proxy's
        proxy = with_changes(plain, search.transfer.set, PROXY)
        try:
            _look(proxy, opened)
        except KdrayError as error:
            raise ConfigError(error.problem, where=f"{PROXY}: {error.where}", fix=error.fix) from None
    taught = _teacher(proxy, opened)

    def check(trial: Experiment) -> None:
        _has_metric(search.metric, opened.data(trial), *_look(trial, opened))
        if trial.student is not None and _teacher(trial, opened) != taught:
            raise ConfigError("it changes the teacher too, and all trials learn from one", fix=PIN)

    check_space(proxy, space, check)
    if search.transfer is not None:
        taught = _teacher(plain, opened)
        check_space(plain, space, check)
    if search.mlflow is not None and not opened.dry:
        check_mlflow(search.mlflow)


def _check_scheduler(experiment: Experiment, search: Search) -> None:
    """What a scheduler cannot do with this experiment."""
    kind, where = search.scheduler.type, "search.scheduler"
    if kind in ("pbt", "hyperband") and experiment.cluster.workers > 1:
        problem = f"{kind} makes trials wait at the end of an epoch, which those of several workers do not"
        raise ConfigError(problem, where=where, fix="Set cluster.workers to 1, or use asha or median")
    if kind == "hyperband" and search.concurrent is not None:
        problem = "hyperband has all trials of a bracket wait for each other, and they run as there is room"
        fix = "Leave it out: cluster.cpus_per_worker and gpus_per_worker say how many fit"
        raise ConfigError(problem, where="search.concurrent", fix=fix)
    if kind == "hyperband" and search.searcher.type not in ("random", "grid"):
        problem = f"hyperband fills its brackets before any trial ends, and {search.searcher.type} would learn nothing"
        raise ConfigError(problem, where="search.searcher", fix="Write searcher: random, or scheduler: asha")
    if kind != "pbt":
        return
    for key, given in (("balance", experiment.balance is not None), ("phases", bool(experiment.phases))):
        if given:
            raise ConfigError(f"pbt finds what changes between epochs, and {key} says it", where=key, fix="Remove one")
    if search.searcher.type not in ("random", "tpe"):
        problem = f"pbt draws its first points at random, and {search.searcher.type} would not be asked"
        raise ConfigError(problem, where="search.searcher", fix="Write searcher: random, or leave it out")


def _has_metric(metric: str, dataset: Dataset, spec: StageSpec, sizes: Estimate) -> None:
    """Check that the epochs of a trial will have what it is judged by."""
    where = "search.metric"
    if metric.startswith("val/"):
        fix = "Search by loss/total: test takes part in no choice"
        if dataset.validation is None or len(dataset.validation) == 0:
            problem = f"{metric} needs validation images, and data.validation leaves none"
            raise ConfigError(problem, where=where, fix=f"Raise data.validation. Or: {fix}")
        if not sizes.student.num_classes:
            raise ConfigError(f"{metric} needs a classifier, and what is searched has none", where=where, fix=fix)
    if metric.startswith("loss/") and metric != "loss/total":
        name = metric.removeprefix("loss/")
        known, asleep = loss_names(spec, sizes.student, sizes.teacher)
        if name not in known and not any(name == each or name.startswith(f"{each}.") for each in asleep):
            fix = f"Choose one of {', '.join(f'loss/{each}' for each in known)}, or a metric of validation"
            raise ConfigError(f"no epoch will have {metric}{nearest(name, known)}", where=where, fix=fix)


def _look(trial: Experiment, opened: Opened) -> tuple[StageSpec, Estimate]:
    """Plan what is searched of `trial`, and run its objectives once on random outputs."""
    dataset = opened.data(trial)
    draft = draft_stages(trial, is_judged(trial, dataset), opened.weights)[-1]
    spec = stage_spec(trial, dataset, draft, "artifacts/teacher", Store(trial.storage), "artifacts/trial")
    if spec.train is None:
        fix = "Leave teacher.weights out to train it, or add a student"
        raise ConfigError("there is nothing to search: the teacher has its weights, and is not trained", fix=fix)
    sizes = estimate(spec, max(1, trial.cluster.workers))
    if sizes.steps_per_epoch < 1:
        raise ConfigError(f"the training images do not fill one batch of {spec.train.batch}", where="train.batch")
    check_objectives(spec, sizes.student, sizes.teacher)
    return spec, sizes


def _teacher(trial: Experiment, opened: Opened) -> str | None:
    """Digest of the teacher of `trial`; None without one."""
    dataset = opened.data(trial)
    drafts = draft_stages(trial, is_judged(trial, dataset), opened.weights)
    digests: Mapping[str, str] = dict(
        zip((draft.name for draft in drafts), base_digests(trial, dataset, drafts), strict=True)
    )
    return digests.get("teacher")
