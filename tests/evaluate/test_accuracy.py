"""Accuracy as an exact count."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from kdray.data.batch import Batch
from kdray.errors import DataError, TrainingError
from kdray.evaluate.accuracy import evaluate
from kdray.experiment import ModelSpec
from kdray.models.outputs import ModelInfo, Net, Outputs
from kdray.models.zoo import build
from kdray.train.precision import Precision

CPU, FP32 = torch.device("cpu"), Precision("fp32", "cpu")


class Table(nn.Module):
    """A network that looks its logits up: the image's first pixel is the row."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits
        self.info = SimpleNamespace(name="table")
        self.modes: list[bool] = []

    def forward(self, images: torch.Tensor) -> Outputs:
        self.modes.append(self.training)
        rows = images[:, 0, 0, 0].long()
        return Outputs(logits=self.logits[rows], pooled=self.logits[rows], stages=[], preact=[])


class Feed:
    """Rows 0..n-1 in batches of `size`."""

    def __init__(self, labels: torch.Tensor, size: int, bad: int = 0, total: int | None = None) -> None:
        self.labels, self.size = labels, size
        self.bad_images = bad
        self.num_samples = len(labels) + bad if total is None else total

    def __iter__(self) -> Iterator[Batch]:
        rows = torch.arange(len(self.labels))
        for part in rows.split(self.size):
            images = part.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2).contiguous()
            yield Batch(images=images, labels=self.labels[part], index=part, ids=part)


def prepare(images: torch.Tensor) -> torch.Tensor:
    return images.float()


def judged(logits: torch.Tensor, labels: torch.Tensor, size: int = 7, **feed: int) -> dict[str, float]:
    return evaluate(Table(logits), Feed(labels, size, **feed), prepare, FP32, CPU)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1, 7, 50, 64])
@pytest.mark.parametrize("classes", [3, 5, 12])
def test_counts_are_those_of_a_plain_loop(size: int, classes: int) -> None:
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randn(50, classes, generator=generator)
    labels = torch.randint(0, classes, (50,), generator=generator)
    first = fifth = 0
    nll = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        better = sum(value > row[label] for value in row)
        first += better == 0
        fifth += better < 5
        nll += math.log(sum(math.exp(value) for value in row)) - row[label]
    result = judged(logits, labels, size)
    assert (result["images"], result["bad_images"]) == (50, 0)
    assert result["top1"] == first / 50 and result["top5"] == fifth / 50
    assert result["nll"] == pytest.approx(nll / 50, rel=1e-6)


def test_with_fewer_than_five_classes_all_are_among_the_first_five() -> None:
    assert judged(torch.eye(3)[[0, 0, 0]], torch.tensor([0, 1, 2]))["top5"] == 1.0


def test_bad_images_are_not_counted_as_wrong() -> None:
    result = judged(torch.eye(4), torch.arange(4), bad=2)
    assert (result["top1"], result["images"], result["bad_images"]) == (1.0, 4, 2)


@pytest.mark.parametrize("total", [3, 5])
def test_counts_that_do_not_add_up_are_an_error(total: int) -> None:
    with pytest.raises(DataError, match=f"saw 4 good and 0 bad images of {total}"):
        judged(torch.eye(4), torch.arange(4), total=total)


def test_nothing_but_bad_images_is_an_error() -> None:
    with pytest.raises(DataError, match="saw 0 good and 3 bad images of 3"):
        judged(torch.eye(4), torch.arange(0), bad=3)


def test_more_bad_images_than_allowed_are_an_error() -> None:
    net, feed = Table(torch.eye(4)), Feed(torch.arange(4), 2, bad=1)
    evaluate(net, feed, prepare, FP32, CPU, max_bad_fraction=0.2)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"data\.max_bad_fraction: 1 of 5 images to evaluate on do not decode"):
        evaluate(net, feed, prepare, FP32, CPU, max_bad_fraction=0.19)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_have_no_accuracy(value: float) -> None:
    logits = torch.eye(4)
    logits[2, 1] = value
    with pytest.raises(TrainingError, match="table gives values that are not finite in fp32"):
        judged(logits, torch.arange(4))


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_restored(training: bool) -> None:
    net = Table(torch.eye(4)).train(training)
    evaluate(net, Feed(torch.arange(4), 2), prepare, FP32, CPU)  # type: ignore[arg-type]
    assert net.training is training and net.modes == [False, False]
    with pytest.raises(IndexError):
        evaluate(net, Feed(torch.arange(9), 2), prepare, FP32, CPU)  # type: ignore[arg-type]
    assert net.training is training


def test_statistics_and_gradients_are_left_alone() -> None:
    net: Net = build(ModelSpec(model="resnet8", params={"width": 0.25}), 4, 8).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    grown = lambda images: images.float().repeat(1, 1, 4, 4)  # noqa: E731
    evaluate(net, Feed(torch.arange(4), 3), grown, FP32, CPU)
    assert all(value.equal(before[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())
    assert isinstance(net.info, ModelInfo)


def test_half_precision_counts_in_full() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 4, generator=generator)
    labels = torch.randint(0, 4, (40,), generator=generator)
    half = evaluate(Table(logits.bfloat16()), Feed(labels, 16), prepare, Precision("bf16", "cpu"), CPU)  # type: ignore[arg-type]
    full = judged(logits.bfloat16().float(), labels)
    assert half == full | {"nll": pytest.approx(full["nll"], rel=1e-12)}  # whatever the batch
