"""What runs in each training process: build the networks, train or evaluate, leave the artifact.

The same function runs inside a Ray Train worker and, without Ray, in the command's own process.
"""

from __future__ import annotations

import copy
import logging
import time
from functools import partial
from typing import Any

import numpy as np
import torch

from kdray.data.batch import TrainFeed
from kdray.data.feed import train_feed
from kdray.errors import ConfigError, DataError
from kdray.models.export import export_bytes
from kdray.models.outputs import Net
from kdray.models.weights import load_weights
from kdray.models.zoo import build
from kdray.objectives import ObjectiveSet, Setup
from kdray.objectives.balance import Balanced
from kdray.store import Store
from kdray.train.balance import balanced, frozen
from kdray.train.board import Board
from kdray.train.checkpoint import Checkpoints
from kdray.train.frozen import freeze
from kdray.train.job import Job, Listener, Outcome
from kdray.train.judge import Judge
from kdray.train.loop import Loop
from kdray.train.phases import Phase
from kdray.train.precision import Precision, resolve_precision
from kdray.train.seed import set_seed
from kdray.train.spec import NetSpec, StageSpec
from kdray.train.task import Pixels, Teacher, Trainable

log = logging.getLogger(__name__)


def resolve_device(wanted: str) -> torch.device:
    """`auto` is the GPU that Ray gave this worker, or the first one, else the CPU."""
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError("there is no CUDA device here", where="cluster.device", fix="Write auto or cpu")
    return torch.device("cuda", torch.cuda.current_device())


class StageWorker:
    """Runs one stage as one of `world` equal processes; rank 0 writes the artifact."""

    def __init__(self, stage: StageSpec, listener: Listener, rank: int = 0, world: int = 1) -> None:
        self.stage = stage
        self.listener = listener
        self.rank, self.world = rank, world
        self.device = resolve_device(stage.device)
        self.store = Store(stage.store).sub(stage.folder)
        name = stage.train.precision if stage.train else stage.evaluate.precision
        self.precision: Precision = resolve_precision(name, self.device)
        self.image_size = stage.dataset.image_size
        self.judge = Judge(stage, self._pixels(stage.net), self.device, self._feed_options())

    def run(self) -> dict[str, Any]:
        """Train or evaluate, write the artifact (rank 0), return its record."""
        started = time.time()
        net = self._build(self.stage.net)
        record: dict[str, Any] = {
            "stage": self.stage.name,
            **self.stage.identity,
            "seed": self.stage.seed,
            "precision": self.precision.name,
            "test_precision": self.judge.precision.name,
            "device": device_name(self.device),
            "world_size": self.world,
            "threads": torch.get_num_threads(),
            "parameters": net.info.parameters,
            "flops_per_image": net.info.flops,
        }
        if self.stage.phases:
            record["phases"] = [{"from_epoch": each.from_epoch, "set": each.changes} for each in self.stage.phases]
        if self.stage.train is None:
            record |= {**self.judge.test(net), "epochs": 0}
            record["validation"] = self.judge.validate(net, self.precision)
        else:
            record |= self._train(net)
        # With what interrupted processes took until the checkpoint that this one goes on from.
        record["wall_s"] = time.time() - started + record.get("earlier_s", 0.0)
        if self.rank == 0:
            self.store.write_json("record.json", record)  # last: its presence is what makes the artifact whole
            Checkpoints(self.store, keep=1).clear()  # and only then are they of no use
        return record

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _build(self, spec: NetSpec) -> Net:
        set_seed(self.stage.seed, sum(map(ord, spec.init)))
        net = build(spec.spec, self.stage.dataset.num_classes, self.image_size)
        if spec.weights is not None:
            load_weights(net, spec.weights)
        layout = torch.channels_last if self.stage.train is None or self.stage.train.channels_last else None
        net = net.to(self.device)
        return net.to(memory_format=layout) if layout is not None else net

    def _pixels(self, spec: NetSpec) -> Pixels:
        dataset = self.stage.dataset
        return Pixels(spec.spec.mean or dataset.mean, spec.spec.std or dataset.std)

    def _feed_options(self) -> dict[str, Any]:
        return {
            "rank": self.rank,
            "world": self.world,
            "device": self.device,
            "use_ray": self.stage.use_ray,
            "data_cpus": self.stage.data_cpus or None,
        }

    def _train(self, net: Net) -> dict[str, Any]:
        stage, train, dataset = self.stage, self.stage.train, self.stage.dataset
        assert train is not None and dataset.train is not None
        # First: what decodes may start while the networks are built.
        feed = train_feed(
            stage.data,
            dataset.train.manifest,
            dataset.train.rows,
            batch=train.batch,
            seed=stage.seed,
            labels=dataset.train.relabelled,
            epochs=train.epochs,
            **self._feed_options(),
        )
        teacher = None
        if stage.teacher is not None:
            teacher = freeze(self._build(stage.teacher), self._pixels(stage.teacher), self.precision, self.image_size)
        setup = Setup(
            num_classes=dataset.num_classes,
            num_samples=dataset.train.manifest.num_samples,
            student=net.info,
            teacher=teacher.net.info if teacher else None,
            labels=training_labels(dataset.labels, dataset.train.rows),
            batch=train.batch,
            epochs=train.epochs,
            seed=stage.seed,
            views=stage.data.views,
            workers=self.world,
            mixed=stage.data.mix is not None,
        )
        weights = self._balanced(net, teacher, feed, setup)
        objectives = ObjectiveSet(weights.applied(stage.objectives) if weights else stage.objectives, setup)
        objectives = objectives.to(self.device)
        deployed = objectives.deployed(net, teacher.net if teacher else None)
        board = Board(self.store, self.listener) if self.rank == 0 else None
        checkpoints = Checkpoints(self.store, train.checkpoint.keep)
        validated = self.judge.can_validate(deployed)
        loop = Loop(
            Job(
                trainable=Trainable(net, objectives),
                teacher=teacher,
                feed=feed,
                train=train,
                pixels=self._pixels(stage.net),
                precision=self.precision,
                device=self.device,
                seed=stage.seed,
                listener=board or self.listener,
                validate=(lambda n: self.judge.validate(n, self.precision) or {}) if validated else None,
                checkpoints=checkpoints,
                rank=self.rank,
                world=self.world,
                deployed=deployed,
                mix=stage.data.mix,
                phases=[
                    Phase(each.from_epoch, each.train, partial(ObjectiveSet, each.objectives, setup))
                    for each in stage.phases
                ],
            )
        )
        try:
            outcome = loop.run()
        finally:
            feed.close()
            if board:
                board.close()
        return self._finish(deployed, outcome, {"balance": weights.model_dump(mode="json")} if weights else {})

    def _balanced(self, net: Net, teacher: Teacher | None, feed: TrainFeed, setup: Setup) -> Balanced | None:
        """The weights that the experiment has set by gradients: measured once, and for all processes of this run."""
        stage, balance = self.stage, self.stage.balance
        if balance is None:
            return None
        assert stage.train is not None

        def measure() -> Balanced:
            assert stage.train is not None
            job = Job(
                # Both are used up: the run begins with a network and objectives that saw nothing.
                trainable=Trainable(copy.deepcopy(net), ObjectiveSet(stage.objectives, setup).to(self.device)),
                teacher=teacher,
                feed=feed,
                train=stage.train,
                pixels=self._pixels(stage.net),
                precision=self.precision,
                device=self.device,
                seed=stage.seed,
                listener=self.listener,
                rank=self.rank,
                world=self.world,
                mix=stage.data.mix,
            )
            return balanced(job, balance, stage.objectives)

        weights, earlier = frozen(self.store, measure, self.rank, self.world)
        if self.rank == 0:
            self.listener.event("balance", weights.model_dump(mode="json") | {"earlier": earlier})
        return weights

    def _finish(self, net: Net, outcome: Outcome, balance: dict[str, Any]) -> dict[str, Any]:
        """Evaluate the last and the best weights on test, and export them (the best ones as the model)."""
        assert self.stage.train is not None
        tests: dict[str, Any] = {}
        versions = {"last": outcome.last}
        if outcome.best is not None:
            versions["best"] = outcome.best
        for name, weights in versions.items():
            net.backbone.load_state_dict(weights)
            tests[name] = self.judge.test(net, probe=name == "last")
            if self.rank == 0:
                card = self._card(net, name, tests[name]["test"], outcome) | balance
                for stem in [name] if name != list(versions)[-1] else [name, "model"]:
                    tensors, text = export_bytes(net, card)
                    self.store.write_bytes(f"{stem}.safetensors", tensors)
                    self.store.write_text(f"{stem}.json", text)
        return {
            "parameters": net.info.parameters,  # of what is deployed, which may be more than the student
            "flops_per_image": net.info.flops,
            "epochs": self.stage.train.epochs,
            "steps": outcome.steps,
            "resumed_from": outcome.resumed_from,
            "history": outcome.history,
            **tests["last"],
            "test_best": tests["best"]["test"] if "best" in tests else None,
            "best_epoch": outcome.best_epoch,
            **throughput(outcome.history),
            **outcome.extra,
            **balance,
        }

    def _card(self, net: Net, name: str, test: dict[str, float] | None, outcome: Outcome) -> dict[str, Any]:
        pixels = self._pixels(self.stage.net)
        return {
            "chosen": "best on validation" if name == "best" else "last epoch",
            "epoch": outcome.best_epoch if name == "best" else len(outcome.history),
            "mean": list(pixels.mean),
            "std": list(pixels.std),
            "class_names": self.stage.dataset.class_names,
            "test": test,
            **self.stage.identity,
        }


def training_labels(labels: np.ndarray | None, rows: np.ndarray) -> np.ndarray:
    """Labels [N] by sample index with -1 where the sample is not trained on, so that no bank draws a held-out image."""
    if labels is None:
        raise DataError("the labels were not read")
    known = np.full_like(labels, -1)
    known[rows] = labels[rows]
    return known


def throughput(history: list[dict[str, float]]) -> dict[str, float]:
    """Images per second and data-wait share over all epochs, weighted by their seconds."""
    seconds = sum(row["seconds"] for row in history)
    if seconds <= 0:
        return {"images_per_s": 0.0, "data_wait": 0.0, "train_s": 0.0}
    images = sum(row["images_per_s"] * row["seconds"] for row in history)
    waited = sum(row["data_wait"] * row["seconds"] for row in history)
    return {"images_per_s": images / seconds, "data_wait": waited / seconds, "train_s": seconds}


def device_name(device: torch.device) -> str:
    """Readable name of the device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
