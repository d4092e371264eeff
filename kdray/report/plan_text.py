"""What `--dry-run` prints: the stages, what they will do, and what they will take."""

from __future__ import annotations

from rich.console import Console

from kdray.pipeline.estimate import Estimate, readable_bytes, readable_count
from kdray.pipeline.execute import Plan
from kdray.pipeline.stages import Stage


def print_plan(plan: Plan, console: Console) -> None:
    """Print `plan` in full."""
    for line in plan_lines(plan):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def plan_lines(plan: Plan) -> list[str]:
    """The plan as lines of text."""
    experiment, dataset = plan.experiment, plan.dataset
    counts = [
        f"{name} {len(split)}"
        for name, split in (("train", dataset.train), ("validation", dataset.validation), ("test", dataset.test))
        if split is not None
    ]
    lines = [
        f"{experiment.name}  digest {plan.digest[:16]}  seed {experiment.seed}",
        f"data: {', '.join(counts)} images, {dataset.num_classes} classes, {dataset.image_size} px, "
        f"{'streamed' if plan.stream else 'resident'}",
        f"      mean {_triple(dataset.mean)}  std {_triple(dataset.std)}",
        f"storage: {experiment.storage}",
    ]
    cluster = experiment.cluster
    workers = f"{cluster.workers} Ray worker{'s' if cluster.workers != 1 else ''}" if cluster.workers else "no Ray"
    gpus = "a GPU each if there are" if cluster.gpus_per_worker is None else f"{cluster.gpus_per_worker:g} GPU each"
    lines.append(f"cluster: {workers}, {gpus}")
    for stage, sizes in plan.stages:
        lines += stage_lines(stage, sizes)
    lines += [f"NOT CHECKED  {text}" for text in plan.not_checked]
    return lines


def stage_lines(stage: Stage, sizes: Estimate) -> list[str]:
    """One stage: what it is, whether it is done, what it takes."""
    spec = stage.spec
    state = "done" if stage.done else f"goes on from {stage.checkpoint}" if stage.checkpoint else "to do"
    lines = [f"stage {stage.title}: {spec.net.spec.model}  [{state}]", f"  artifact {spec.folder}"]
    info = sizes.student
    lines.append(
        f"  {readable_count(info.parameters)} parameters, {readable_count(info.flops)} FLOPs per image forward"
        + (f", {readable_count(sizes.flops_per_image)} per image trained" if spec.train else "")
    )
    if spec.train is None:
        lines.append(f"  evaluation of {sizes.samples} images")
        return lines
    train = spec.train
    lines.append(
        f"  {train.epochs} epochs x {sizes.steps_per_epoch} steps of {train.batch} = {sizes.steps} steps, "
        f"{sizes.samples} samples ({sizes.dropped} of each epoch dropped)"
    )
    if sizes.teacher is not None:
        lines.append(
            f"  teacher {sizes.teacher.name}: {readable_count(sizes.teacher.parameters)} parameters, "
            f"{readable_count(sizes.teacher.flops)} FLOPs per image"
        )
    names = ", ".join(f"{name} {params}" if params else name for name, params in spec.objectives.items())
    lines.append(f"  objectives: {names}")
    parts = ", ".join(f"{name} {readable_bytes(size)}" for name, size in (sizes.memory | sizes.banks).items())
    lines.append(f"  memory per worker about {readable_bytes(sizes.memory_bytes)}: {parts}")
    return lines


def _triple(values: tuple[float, float, float]) -> str:
    return " ".join(f"{value:.4f}" for value in values)
