"""The data of an experiment, or of its variants, as its stages see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from kdray.data.dataset import open_dataset
from kdray.data.reader import read_labels
from kdray.errors import ConfigError, DataError, nearest
from kdray.experiment import Comparison, Data, Experiment, Train
from kdray.pipeline.packing import unpacked
from kdray.report.data_subject import Subject, Way, Wish, changed, check, normalisation

SPLITS = ("train", "validation", "test")
SEVERAL = 4  # names of variants that are told one by one
_WAY = ("augment", "views", "mix")  # what may differ between the rows that stages of one experiment train on


def of_experiment(comparison: Comparison, wish: Wish) -> Subject:
    split = wish.split or "train"
    if split not in SPLITS:
        problem = f"an experiment has no split {split!r}{nearest(split, SPLITS)}"
        raise ConfigError(problem, where="--split", fix=f"Name one of {', '.join(SPLITS)}")
    experiments = comparison.experiments
    data = changed(comparison.first.data, wish)
    for variant, experiment in experiments.items():
        other = next((key for key, value in experiment.data if key not in _WAY and value != getattr(data, key)), None)
        if other is not None:
            names = ", ".join(experiments)
            problem = f"variants have different data: {other} of {variant!r} is not that of {next(iter(experiments))!r}"
            raise ConfigError(problem, where="--variant", fix=f"Name one of {names}")
    ways = _ways(experiments, wish, data)
    for way in ways:
        check(way.data)
    waiting = unpacked(data)
    if waiting:
        raise DataError(
            f"{waiting[0].source} is not packed yet",
            where=f"data.{waiting[0].split} {waiting[0].dest}",
            fix="Run the experiment, which packs it first, or kdray shard",
        )
    dataset = open_dataset(ways[0].data)
    part = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}[split]
    if part is None:
        fix = "Set data.validation above 0" if split == "validation" else "Name its shards in data.test"
        raise DataError(f"the experiment has no {split} images", where="--split", fix=fix)
    stored, ids = read_labels(part.manifest)
    mean, std, mean_from = normalisation(data, dataset.train.manifest if dataset.train is not None else part.manifest)
    return Subject(
        name=comparison.name,
        split=split,
        part=part,
        data=ways[0].data,
        class_names=dataset.class_names,
        num_classes=dataset.num_classes,
        mean=mean,
        std=std,
        mean_from=mean_from,
        stored=stored,
        ids=ids,
        ways=ways if split == "train" else (),
        seed=comparison.first.seed if wish.seed is None else wish.seed,
    )


def _ways(experiments: Mapping[str, Experiment], wish: Wish, data: Data) -> tuple[Way, ...]:
    """Each way in which a stage of one of `experiments` sees training images, once, with the names of these stages."""
    first = next(iter(experiments.values()))
    world = max(1, first.cluster.workers)
    if wish.augment is not None or wish.views is not None:
        return (Way("", data, first.train.batch, world),)
    found: dict[str, tuple[list[str], Way]] = {}
    for variant, experiment in experiments.items():
        for stage, seen, train in _stages(experiment):
            key = repr([getattr(seen, name) for name in _WAY])
            names = found.setdefault(key, ([], Way("", seen, train.batch, world)))[0]
            names.append(" of ".join(part for part in (stage, variant) if part))
    several = len(found) > 1
    return tuple(replace(way, name=_told(names, experiments) if several else "") for names, way in found.values())


def _stages(experiment: Experiment) -> list[tuple[str, Data, Train]]:
    """What the stages of `experiment` that train see, under "" where all see the same, and how they train."""
    teacher, seen = experiment.teacher, experiment.teacher_data
    of_teacher = (teacher.train if teacher is not None else None) or experiment.train
    if experiment.student is None:
        return [("", seen, of_teacher)]
    if teacher is None or teacher.weights is not None or seen == experiment.data:
        return [("", experiment.data, experiment.train)]
    return [("student", experiment.data, experiment.train), ("teacher", seen, of_teacher)]


def _told(names: list[str], experiments: Mapping[str, Experiment]) -> str:
    teachers = [name for name in names if name.startswith("teacher of ")]
    if len(teachers) == len(experiments) > 1:  # one for all
        names = ["teacher", *(name for name in names if name not in teachers)]
    short = [name.removeprefix("student of ") for name in names]
    more = f" and {len(short) - SEVERAL} more" if len(short) > SEVERAL + 1 else ""
    return ", ".join(short[:SEVERAL] if more else short) + more
