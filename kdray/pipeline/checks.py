"""Everything that can be known to be wrong before cluster time is spent."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Collection, Iterator
from dataclasses import replace

import torch

from kdray.data.augment import build_augment, build_transform
from kdray.data.dataset import Dataset
from kdray.errors import ClusterError, ConfigError, DataError, ModelError, StoreError
from kdray.experiment import Cluster, Experiment
from kdray.models.weights import is_published, load_weights
from kdray.models.zoo import build
from kdray.pipeline.dry import check_objectives
from kdray.pipeline.estimate import Estimate, readable_bytes
from kdray.pipeline.naming import named_model
from kdray.pipeline.published import check_published
from kdray.pipeline.stages import TEACHER_AUGMENT, Stage
from kdray.store import Store
from kdray.train.cluster import with_gpus
from kdray.train.environment import cluster_address
from kdray.train.precision import resolve_precision
from kdray.train.shares import Node, Shares, share_cpus
from kdray.train.spec import NetSpec, StageSpec


def check_data(experiment: Experiment) -> None:
    """Check the transforms, which need no data.

    Raises:
        ConfigError: one that does not exist, with a wrong parameter, or random in evaluation.
    """
    data, teacher = experiment.data, experiment.teacher
    build_augment(data.augment, views=data.views)
    build_transform(data.eval_transform)
    if teacher is not None and teacher.weights is None:
        where = "data.augment" if teacher.data.augment is None else TEACHER_AUGMENT
        build_augment(experiment.teacher_data.augment, where, experiment.teacher_data.views)


def check_floor_can_be_known(experiment: Experiment, dataset: Dataset) -> None:
    """Raise ConfigError for a teacher's floor where there is no test set to hold it against."""
    if experiment.teacher is not None and experiment.teacher.min_accuracy is not None and dataset.test is None:
        raise ConfigError(
            "there is no test set to measure the teacher on",
            where="teacher.min_accuracy",
            fix="Give data.test, or remove the floor",
        )


def check_stage(experiment: Experiment, stage: Stage, sizes: Estimate, unread: Collection[str] = ()) -> None:
    """Check that a stage that is still to run can run: data, precision, weights, objectives on the networks' shapes.

    Weights in `unread` are not looked at: a dry run could not reach them.

    Raises:
        InputError: the first thing found, by its key.
    """
    spec = stage.spec
    if stage.done:
        return
    device = torch.device("cuda") if spec.device != "cpu" and torch.cuda.is_available() else torch.device("cpu")
    _check_precision(spec.evaluate.precision, device, "evaluate.precision")
    if spec.train is None:
        if spec.dataset.test is None and (spec.dataset.validation is None or not spec.net.spec.classifier):
            raise DataError(
                "there is nothing to evaluate the teacher on",
                where="data.test",
                fix="Give the URI of a test set's shards",
            )
    else:
        own = stage.kind == "teacher" and experiment.teacher is not None and experiment.teacher.train is not None
        _check_training(stage, sizes, device, "teacher.train" if own else "train")
    for net in (spec.net, spec.teacher):
        if net is not None and net.weights not in unread:
            _check_weights(net, spec)


def _check_training(stage: Stage, sizes: Estimate, device: torch.device, key: str) -> None:
    spec = stage.spec
    assert spec.train is not None and spec.dataset.train is not None
    if sizes.steps_per_epoch < 1:
        raise DataError(
            f"{len(spec.dataset.train)} training images do not fill one batch of {spec.train.batch}",
            where=f"{key}.batch",
            fix="Lower it",
        )
    _check_precision(spec.train.precision, device, f"{key}.precision")
    info = sizes.student
    if info.num_classes is None and spec.net.spec.classifier:
        raise ModelError("it has no classifier, so it cannot be trained or tested", where=f"{spec.net.init}.model")
    check_objectives(spec, info, sizes.teacher)


def _check_precision(name: str, device: torch.device, key: str) -> None:
    try:
        resolve_precision(name, device)
    except ConfigError as error:
        raise ConfigError(error.problem, where=key, fix=error.fix) from error


def _check_weights(net: NetSpec, spec: StageSpec) -> None:
    """Load the weights that the experiment names once, here, where a mismatch costs nothing."""
    if net.spec.weights is None or net.weights is None:
        return
    with named_model(net.init):
        if is_published(net.spec.model, net.spec.weights):
            classes = spec.dataset.num_classes if net.spec.classifier else None
            check_published(net.spec.model, net.spec.weights, classes)
        else:
            load_weights(build(net.spec, spec.dataset.num_classes, spec.dataset.image_size), net.weights)


def local_shares(cluster: Cluster, stream: bool) -> Shares | None:
    """CPU shares on this machine, or None where the cluster's size is not known from here.

    Raises:
        ClusterError: this machine cannot hold what the experiment asks for.
    """
    if cluster.workers == 0 or cluster_address(cluster):
        return None
    cluster = with_gpus(cluster, float(torch.cuda.device_count()))
    gpus = math.ceil(cluster.workers * (cluster.gpus_per_worker or 0))  # whether they are there is asked elsewhere
    return share_cpus(cluster, [Node(float(os.cpu_count() or 1), gpus)], stream)


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
    if cluster.device == "cuda" and not there:
        raise ConfigError("there is no CUDA device here", where="cluster.device", fix="Write auto or cpu")


def check_memory(cluster: Cluster, stage: Stage, size: Estimate) -> None:
    """Raise ClusterError for weights and banks that cannot fit into this machine's memory, where the run stays on it.

    Activations are left out of the verdict: how much of them the libraries keep is an estimate.
    """
    if cluster_address(cluster) or stage.done:
        return
    on_gpu = cluster.device != "cpu" and torch.cuda.is_available()
    if not on_gpu and cluster.gpus_per_worker:
        return  # a dry run, beside the point on this machine
    if on_gpu:
        free, workers, what = torch.cuda.get_device_properties(0).total_memory, 1, "a GPU has"
    else:
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        workers, what = max(1, cluster.workers), "this machine has"
    needed = size.state_bytes * workers
    if needed > free:
        banks = ", ".join(f"{name} {readable_bytes(count)}" for name, count in size.banks.items())
        raise ClusterError(
            f"stage {stage.title} keeps {readable_bytes(needed)} in memory, {what} {readable_bytes(free)}"
            + (f"; of that, each worker's banks: {banks}" if banks else ""),
            where="objectives" if banks else f"{stage.spec.net.init}.model",
            fix="Use smaller or fewer banks, or a machine with more memory" if banks else "Use a smaller network",
        )


def check_storage(storage: str, sizes: list[tuple[Stage, Estimate]]) -> None:
    """Check that the store takes a write, and that a local disk holds the checkpoints that are to come.

    Nothing of that stays behind.

    Raises:
        StoreError: no permission, no space, no answer.
    """
    store = Store(storage)
    with _without_new_folders(store.uri):
        store.check_writable()
        if "://" in store.uri:
            return
        free = shutil.disk_usage(store.uri).free
    needed = 0
    for stage, size in sizes:
        if not stage.done and stage.spec.train is not None:
            # One more than is kept: the new one is whole before the oldest goes.
            needed = max(needed, size.checkpoint_bytes * (stage.spec.train.checkpoint.keep + 1))
    if needed > free:
        raise StoreError(
            f"checkpoints need about {readable_bytes(needed)}, {readable_bytes(free)} are free",
            where=store.uri,
            fix="Free some space, lower train.checkpoint.keep, or give another storage",
        )


@contextlib.contextmanager
def _without_new_folders(path: str) -> Iterator[None]:
    """Remove the folders at and above the local `path` that the block makes, as long as they are empty."""
    absent = []
    while "://" not in path and not os.path.lexists(path):
        absent.append(path)
        path = os.path.dirname(path)
    try:
        yield
    finally:
        for folder in absent:
            with contextlib.suppress(OSError):
                os.rmdir(folder)


def with_shares(spec: StageSpec, shares: Shares | None, use_ray: bool) -> StageSpec:
    """`spec` with what the cluster gives each worker."""
    return replace(spec, use_ray=use_ray, data_cpus=shares.data_cpus if shares else 0.0)
