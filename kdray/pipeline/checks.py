"""Everything that can be known to be wrong before cluster time is spent."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace

import numpy as np
import torch

from kdray.data.augment import build_augment
from kdray.errors import ConfigError, DataError, ModelError, StoreError
from kdray.experiment import Cluster, Experiment
from kdray.models.outputs import ModelInfo, Outputs
from kdray.models.weights import is_published, load_weights
from kdray.models.zoo import build
from kdray.objectives.combine import ObjectiveSet
from kdray.objectives.contract import Setup, StepInfo, Targets
from kdray.pipeline.estimate import Estimate, readable_bytes
from kdray.pipeline.stages import Stage
from kdray.store import Store
from kdray.train.cluster import Shares, share_cpus
from kdray.train.environment import cluster_address
from kdray.train.precision import resolve_precision
from kdray.train.spec import NetSpec, StageSpec

PROBE_SAMPLES = 64


def check_stage(stage: Stage, sizes: Estimate) -> None:
    """Check that a stage that is still to run can run: data, precision, weights, objectives on the networks' shapes.

    Raises:
        InputError: the first thing found, by its key.
    """
    spec = stage.spec
    if stage.done:
        return
    if spec.train is None:
        if spec.dataset.test is None and spec.dataset.validation is None:
            raise DataError(
                "there is nothing to evaluate the teacher on",
                where="data.test",
                fix="Give the URI of a test set's shards",
            )
    else:
        _check_training(stage, sizes)
    for net in (spec.net, spec.teacher):
        if net is not None:
            _check_weights(net, spec)


def _check_training(stage: Stage, sizes: Estimate) -> None:
    spec = stage.spec
    assert spec.train is not None and spec.dataset.train is not None
    build_augment(spec.data.augment)
    if sizes.steps_per_epoch < 1:
        raise DataError(
            f"{len(spec.dataset.train)} training images do not fill one batch of {spec.train.batch}",
            where="train.batch",
            fix="Lower train.batch",
        )
    device = torch.device("cuda") if spec.device != "cpu" and torch.cuda.is_available() else torch.device("cpu")
    resolve_precision(spec.train.precision, device)
    info = sizes.student
    if info.num_classes is None:
        raise ModelError(f"{info.name} has no classifier, so it cannot be trained or tested", where=stage.name)
    dry_step(spec, info, sizes.teacher)


def dry_step(spec: StageSpec, student: ModelInfo, teacher: ModelInfo | None) -> None:
    """Run the objectives once on random outputs of the networks' shapes, with banks for a handful of samples.

    Raises:
        ConfigError: an objective that does not fit the networks or the data.
    """
    assert spec.train is not None
    classes, rows = spec.dataset.num_classes, 4
    labels = np.arange(PROBE_SAMPLES, dtype=np.int64) % min(classes, PROBE_SAMPLES // 4)
    setup = Setup(
        num_classes=classes,
        num_samples=PROBE_SAMPLES,
        student=student,
        teacher=teacher,
        labels=labels,
        batch=rows,
        epochs=spec.train.epochs,
        seed=0,
        views=spec.data.views,
    )
    where = "teacher.objectives" if spec.name == "teacher" else "objectives"
    objectives = ObjectiveSet(spec.objectives, setup, where)
    targets = Targets(torch.from_numpy(labels[:rows]), torch.arange(rows), spec.data.views)
    middle = StepInfo(epoch=spec.train.epochs / 2, epochs=spec.train.epochs, step=1, seed=0)
    heads = [
        torch.nn.Linear(info.pooled_dim, info.num_classes or 1) if info and info.linear_head else None
        for info in (student, teacher)
    ]
    outputs = [_random_outputs(info, rows * spec.data.views) if info else None for info in (student, teacher)]
    assert outputs[0] is not None
    objectives(targets, outputs[0], outputs[1], heads[0], heads[1], middle)


def _random_outputs(info: ModelInfo, rows: int) -> Outputs:
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(rows, *shape, generator=generator) for shape in info.stage_shapes]
    logits = torch.randn(rows, info.num_classes, generator=generator) if info.num_classes else None
    return Outputs(
        logits=logits, pooled=torch.randn(rows, info.pooled_dim, generator=generator), stages=maps, preact=list(maps)
    )


def _check_weights(net: NetSpec, spec: StageSpec) -> None:
    """Load the weights that the experiment names once, here, where a mismatch costs nothing."""
    if net.spec.weights is None or net.weights is None or is_published(net.spec.model, net.spec.weights):
        return
    load_weights(build(net.spec, spec.dataset.num_classes, spec.dataset.image_size), net.weights)


def local_shares(experiment: Experiment, stream: bool) -> Shares | None:
    """CPU shares on this machine, or None where the cluster's size is not known from here.

    Raises:
        ClusterError: this machine cannot hold what the experiment asks for.
    """
    cluster: Cluster = experiment.cluster
    if cluster.workers == 0 or cluster_address(cluster):
        return None
    return share_cpus(cluster, float(os.cpu_count() or 1), stream)


def check_devices(cluster: Cluster) -> None:
    """Raise ConfigError for GPUs asked for on a machine that has fewer, when the run is to stay on this machine."""
    if cluster_address(cluster):
        return
    wanted = cluster.workers * (cluster.gpus_per_worker or 0)
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted > there:
        raise ConfigError(
            f"{cluster.workers} workers x {cluster.gpus_per_worker:g} GPU do not fit on this machine's {there} GPUs",
            where="cluster.gpus_per_worker",
            fix="Set cluster.gpus_per_worker=0 to train on CPUs, or submit the job to a cluster that has them",
        )


def check_storage(experiment: Experiment, sizes: list[tuple[Stage, Estimate]]) -> None:
    """Check that the store takes a write, and that a local disk holds the checkpoints that are to come.

    Raises:
        StoreError: no permission, no space, no answer.
    """
    store = Store(experiment.storage)
    store.check_writable()
    if "://" in store.uri:
        return
    needed = 0
    for stage, size in sizes:
        if not stage.done and stage.spec.train is not None:
            # One more than is kept: the new one is whole before the oldest goes.
            needed = max(needed, size.checkpoint_bytes * (stage.spec.train.checkpoint.keep + 1))
    free = shutil.disk_usage(store.uri).free
    if needed > free:
        raise StoreError(
            f"checkpoints need about {readable_bytes(needed)}, {readable_bytes(free)} are free",
            where=store.uri,
            fix="Free some space, lower train.checkpoint.keep, or give another storage",
        )


def with_shares(spec: StageSpec, shares: Shares | None, use_ray: bool) -> StageSpec:
    """`spec` with what the cluster gives each worker."""
    return replace(spec, use_ray=use_ray, data_cpus=shares.data_cpus if shares else 0.0)
