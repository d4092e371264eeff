"""How a stage's network is judged: on validation after epochs, on test in the end, by its features where asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from kdray.data.batch import EvalFeed
from kdray.data.dataset import Split
from kdray.data.feed import eval_feed
from kdray.evaluate import knn
from kdray.evaluate.accuracy import evaluate
from kdray.evaluate.features import Features, pooled_features, spread
from kdray.evaluate.probe import linear_probe
from kdray.models.outputs import Net
from kdray.train.precision import Precision, resolve_precision
from kdray.train.spec import StageSpec
from kdray.train.task import Pixels


class Judge:
    """Evaluates networks of `stage` on all workers together; every worker gets the figures.

    `feed_options` are a feed's: rank, world, device, and who decodes.
    """

    def __init__(self, stage: StageSpec, pixels: Pixels, device: torch.device, feed_options: dict[str, Any]) -> None:
        self.stage = stage
        self.pixels = pixels
        self.device = device
        self.precision = resolve_precision(stage.evaluate.precision, device)
        self._feed_options = feed_options
        self._feeds: dict[str, EvalFeed] = {}

    def validate(self, net: Net, precision: Precision) -> dict[str, float] | None:
        """Accuracy on the validation split; None where there is none, or no classifier (`can_validate`)."""
        return self._accuracy(net, self.stage.dataset.validation, precision) if self.can_validate(net) else None

    def can_validate(self, net: Net) -> bool:
        """Whether there is a validation split, and a classifier to be right or wrong on it."""
        return self.stage.dataset.validation is not None and net.info.num_classes is not None

    def test(self, net: Net, probe: bool = True) -> dict[str, Any]:
        """What the record holds of the test set: `test`, and with `probe` `linear_probe` where the experiment asks.

        `test` is the accuracy; of a network without a classifier that of its features' neighbours, called `knn`.
        """
        dataset, options = self.stage.dataset, self.stage.evaluate.linear_probe if probe else None
        if dataset.test is None or dataset.train is None:
            return {"test": None}
        headless = net.info.num_classes is None
        seen = self._features(net, self._feed("test", dataset.test)) if headless or options is not None else None
        result: dict[str, Any] = {}
        if headless:
            assert seen is not None
            known = self._features(net, self._new_feed(dataset.train, knn.TRAIN_IMAGES))
            result["test"] = knn.knn_result(known, seen, dataset.num_classes)
        else:
            result["test"] = self._accuracy(net, dataset.test, self.precision)
        if options is not None and seen is not None:
            known = self._features(net, self._new_feed(dataset.train, options.limit))
            result["linear_probe"] = linear_probe(known, seen, dataset.num_classes, options, self.stage.seed)
        return result

    def _accuracy(self, net: Net, split: Split | None, precision: Precision) -> dict[str, float] | None:
        if split is None or not len(split):
            return None
        feed = self._feed("test" if split is self.stage.dataset.test else "validation", split)
        allowed = self.stage.data.max_bad_fraction
        return evaluate(net, feed, self._prepare(precision), precision, self.device, allowed)

    def _features(self, net: Net, feed: EvalFeed) -> Features:
        allowed = self.stage.data.max_bad_fraction
        return pooled_features(net, feed, self._prepare(self.precision), self.precision, self.device, allowed)

    def _prepare(self, precision: Precision) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda images: self.pixels.prepare(images, precision)

    def _feed(self, key: str, split: Split) -> EvalFeed:
        """The feed of test or validation, kept: resident images are decoded once for all epochs."""
        if key not in self._feeds:
            self._feeds[key] = self._new_feed(split)
        return self._feeds[key]

    def _new_feed(self, split: Split, limit: int | None = None) -> EvalFeed:
        rows, batch = spread(split.rows, limit), self.stage.evaluate.batch
        return eval_feed(self.stage.data, split.manifest, rows, batch=batch, **self._feed_options)
