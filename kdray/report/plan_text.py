"""What `--dry-run` prints: the stages, what they will do, and what they will take."""

from __future__ import annotations

from rich.console import Console

from kdray.data.dataset import Dataset, Split
from kdray.evaluate.knn import TRAIN_IMAGES
from kdray.experiment import Data, Experiment
from kdray.experiment.search_part import Search
from kdray.objectives.search_space import space_of
from kdray.pipeline.estimate import Estimate, readable_bytes, readable_count
from kdray.pipeline.plan import Plan
from kdray.pipeline.stages import Stage
from kdray.report.balance_text import plan_line
from kdray.report.text import phase_text

UNKNOWN = "digest not known: it needs what could not be reached"


def print_plan(plan: Plan, console: Console) -> None:
    """Print `plan` in full."""
    for line in plan_lines(plan):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def plan_lines(plan: Plan) -> list[str]:
    """The plan as lines of text."""
    seeds = dict.fromkeys(str(member.experiment.seed) for member in plan.members)
    data = [
        line
        for member, kept in zip(plan.members, plan.kept, strict=True)
        for line in _data(member.experiment.data, member.dataset, kept)
    ]
    lines = [
        f"{plan.comparison.name}  seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}  "
        + (f"run {plan.run_id}" if plan.exact else UNKNOWN),
        *dict.fromkeys(data),
        f"storage: {plan.comparison.storage}",
        f"cluster: {_cluster(plan)}",
        *_matrix(plan),
        *(f"variant {member.variant}: {', '.join(member.names.values())}" for member in plan.members if member.variant),
    ]
    for stage, sizes in plan.stages:
        lines += stage_lines(stage, sizes, plan.exact)
    if plan.comparison.first.search is not None:
        lines += search_lines(plan.comparison.first, plan.comparison.first.search)
    lines += [f"NOT CHECKED  {text}" for text in plan.not_checked]
    return lines


def search_lines(experiment: Experiment, search: Search) -> list[str]:
    """What is searched, and how."""
    kind = "student" if experiment.student is not None else "teacher"
    how = (
        f"{search.searcher.type} + {search.scheduler.type}" if search.scheduler.type != "none" else search.searcher.type
    )
    at = ""
    if search.at is not None:
        at = f" within {search.at.epochs} epochs" if search.at.epochs else f" within {search.at.minutes:g} minutes"
    space = space_of(experiment)
    texts, best = space.texts(), "most" if search.mode == "max" else "least"
    width = max(map(len, texts))
    return [
        f"search of the {kind} by {how}: {search.wanted(space)} trials, the {best} {search.metric}{at}",
        *(f"  {name.ljust(width)}  {text}" for name, text in texts.items()),
        f"  the best of them on validation is the {kind}; its experiment is best.yaml in the run's folder",
    ]


def _matrix(plan: Plan) -> list[str]:
    """The size of a matrix, and how much of it is done."""
    if plan.comparison.matrix is None:
        return []
    matrix = plan.comparison.matrix
    axes = " x ".join(f"{axis} ({len(values)})" for axis, values in matrix.axes.items())
    done = f"{sum(stage.done for stage, _ in plan.stages)} of {len(plan.stages)} stages done" if plan.exact else UNKNOWN
    return [f"matrix: {axes}: {len(matrix.cells)} cells, {done}"]


def _data(data: Data, dataset: Dataset, kept: str) -> list[str]:
    counts = [
        f"{name} {len(split) if split.manifest.num_samples else '?'}"
        for name, split in (("train", dataset.train), ("validation", dataset.validation), ("test", dataset.test))
        if split is not None
    ]
    return [
        f"data: {', '.join(counts)} images, {dataset.num_classes} classes, {dataset.image_size} px, {kept}",
        f"      mean {_triple(dataset.mean)}  std {_triple(dataset.std)}",
        *_training_rows(data, dataset.train),
    ]


def _training_rows(data: Data, train: Split | None) -> list[str]:
    """What the experiment takes of the training data, and what it does to its labels."""
    lines = [f"      {data.fraction:g} of every class of train"] if data.fraction < 1 else []
    if data.label_noise is not None and train is not None:
        changed = "?" if train.labels_changed is None else train.labels_changed
        noise = f"{data.label_noise.type}, {data.label_noise.fraction:g}"
        lines.append(f"      label noise ({noise}): {changed} of {len(train)} training labels are changed")
    return lines


def _cluster(plan: Plan) -> str:
    cluster = plan.comparison.cluster
    if not cluster.workers:
        return "one process, without Ray"
    text = f"{cluster.workers} Ray worker{'s' if cluster.workers != 1 else ''}, "
    if plan.shares is not None:
        text += f"{plan.shares.worker_cpus:g} CPU each"
        text += f" and {plan.shares.data_cpus:g} for the data of each, " if plan.stream else ", "
    gpus = cluster.gpus_per_worker
    return text + ("a GPU each if there are" if gpus is None else f"{gpus:g} GPU each")


def stage_lines(stage: Stage, sizes: Estimate, exact: bool = True) -> list[str]:
    """One stage: what it is, whether it is done, what it takes; without `exact` its digest is not that of a run."""
    spec = stage.spec
    state = "done" if stage.done else f"goes on from {stage.checkpoint}" if stage.checkpoint else "to do"
    if not exact:
        state, artifact = "state not known", UNKNOWN
    else:
        artifact = spec.folder
    lines = [f"stage {stage.title}: {spec.net.spec.model}  [{state}]", f"  artifact {artifact}"]
    info = sizes.student
    lines.append(
        f"  {readable_count(info.parameters)} parameters, {readable_count(info.flops)} FLOPs per image forward"
        + (f", {readable_count(sizes.flops_per_image)} per image trained" if spec.train else "")
    )
    if not spec.net.spec.classifier:
        lines.append(f"  no classifier: judged on test by the features' nearest among {TRAIN_IMAGES} training images")
    probe = spec.evaluate.linear_probe
    if probe is not None:
        lines.append(f"  linear probe on test: {probe.epochs} epochs, batch {probe.batch}, lr {probe.lr:g}")
    if spec.train is None:
        lines.append(f"  evaluation of {sizes.samples} images")
        return lines
    train = spec.train
    lines.append(
        f"  {train.epochs} epochs x {sizes.steps_per_epoch} steps of {train.batch} = {sizes.steps} steps, "
        f"{sizes.samples} samples ({sizes.dropped} of each epoch dropped)"
        + (f", {spec.data.views} views of each" if spec.data.views > 1 else "")
    )
    if spec.data.mix is not None:
        lines.append(f"  mixed images: {spec.data.mix.in_words()}")
    if sizes.teacher is not None:
        lines.append(
            f"  teacher {sizes.teacher.name}: {readable_count(sizes.teacher.parameters)} parameters, "
            f"{readable_count(sizes.teacher.flops)} FLOPs per image"
        )
    names = ", ".join(f"{name} {params}" if params else name for name, params in spec.objectives.items())
    lines.append(f"  objectives: {names}")
    if spec.balance is not None:
        lines.append(f"  {plan_line(spec.balance, sizes.steps_per_epoch)}")
    lines += [f"  {phase_text(phase.from_epoch, phase.changes)}" for phase in spec.phases]
    parts = ", ".join(f"{name} {readable_bytes(size)}" for name, size in (sizes.memory | sizes.banks).items())
    lines.append(f"  memory per worker about {readable_bytes(sizes.memory_bytes)}: {parts}")
    return lines


def _triple(values: tuple[float, float, float]) -> str:
    return " ".join(f"{value:.4f}" for value in values)
