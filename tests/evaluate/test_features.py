"""Pooled features of a split, and what they are judged by: neighbours and a linear probe."""

from __future__ import annotations

import math
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kdray.errors import DataError, TrainingError
from kdray.evaluate.features import Features, pooled_features, spread
from kdray.evaluate.knn import knn_result, nearest_classes
from kdray.evaluate.probe import linear_probe
from kdray.experiment import LinearProbe
from kdray.models.outputs import Outputs
from tests.evaluate.test_accuracy import CPU, FP32, Feed, prepare
from tests.evaluate.test_ranks import Share


class Headless(nn.Module):
    """A network without a classifier that looks its pooled vectors up: the image's first pixel is the row."""

    def __init__(self, vectors: torch.Tensor) -> None:
        super().__init__()
        self.vectors = vectors
        self.info = SimpleNamespace(name="headless", pooled_dim=vectors.shape[1], num_classes=None)

    def forward(self, images: torch.Tensor) -> Outputs:
        return Outputs(None, self.vectors[images[:, 0, 0, 0].long()])


def features(vectors: torch.Tensor, feed: Any, max_bad_fraction: float = 1.0) -> Features:
    return pooled_features(Headless(vectors), feed, prepare, FP32, CPU, max_bad_fraction)  # type: ignore[arg-type]


def random_features(n: int, dim: int, classes: int, seed: int = 0) -> Features:
    generator = torch.Generator().manual_seed(seed)
    return Features(
        torch.randn(n, dim, generator=generator), torch.randint(0, classes, (n,), generator=generator), bad_images=0
    )


def test_all_rows_once_in_their_order() -> None:
    vectors, labels = torch.randn(51, 6), torch.randint(0, 4, (51,))
    net = Headless(vectors).train()
    found = pooled_features(net, Feed(labels, 8), prepare, FP32, CPU)  # type: ignore[arg-type]
    assert torch.equal(found.vectors, vectors) and torch.equal(found.labels, labels) and found.bad_images == 0
    assert net.training and not found.vectors.requires_grad


def test_bad_images_are_left_out_and_told() -> None:
    found = features(torch.randn(20, 3), Feed(torch.zeros(20, dtype=torch.int64), 8, bad=2))
    assert (len(found), found.bad_images) == (20, 2)
    with pytest.raises(DataError, match="2 of 22 images to take features of do not decode"):
        features(torch.randn(20, 3), Feed(torch.zeros(20, dtype=torch.int64), 8, bad=2), max_bad_fraction=0.05)
    with pytest.raises(DataError, match="3 of 3"):
        features(torch.randn(0, 3), Feed(torch.zeros(0, dtype=torch.int64), 8, bad=3))


def test_features_that_are_not_finite_are_told() -> None:
    with pytest.raises(TrainingError, match=r"headless gives features that are not finite in fp32"):
        features(torch.tensor([[1.0], [math.nan]]), Feed(torch.zeros(2, dtype=torch.int64), 8))


@given(st.integers(1, 300), st.integers(1, 300))
def test_spread_rows_are_distinct_ascending_and_reach_both_ends(n: int, limit: int) -> None:
    rows = spread(np.arange(n) * 3, limit)
    assert len(rows) == min(n, limit) and (np.diff(rows) > 0).all() and rows[0] == 0
    assert 3 * (n - 1) - rows[-1] < 3 * math.ceil(n / min(n, limit))
    assert spread(rows, None) is rows


@settings(max_examples=25)
@given(st.integers(1, 12), st.integers(1, 15), st.integers(1, 4), st.sampled_from([0.07, 0.5]), st.integers(0, 99))
def test_neighbours_equal_loops(n: int, k: int, classes: int, temperature: float, seed: int) -> None:
    train, test = random_features(n, 3, classes, seed), random_features(5, 3, classes, seed + 1)
    expected = []
    for query in test.vectors:
        cosines = [float(query @ row / (query.norm() * row.norm())) for row in train.vectors]
        votes = [0.0] * classes
        for i in sorted(range(n), key=lambda i: -cosines[i])[:k]:
            votes[int(train.labels[i])] += math.exp(cosines[i] / temperature)
        expected.append(votes.index(max(votes)))
    assert nearest_classes(train, test.vectors, classes, k, temperature).tolist() == expected


def test_neighbours_do_not_depend_on_how_many_are_compared_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = random_features(40, 5, 3), random_features(30, 5, 3, seed=1)
    whole = nearest_classes(train, test.vectors, 3)
    monkeypatch.setattr("kdray.evaluate.knn._SIMILARITIES", 100)
    assert torch.equal(nearest_classes(train, test.vectors, 3), whole)


def test_the_result_is_never_called_an_accuracy() -> None:
    train = random_features(50, 4, 3)
    result = knn_result(train, Features(train.vectors[:10] * 7, train.labels[:10], bad_images=1), 3)
    assert "top1" not in result and "accuracy" not in result
    assert (result["images"], result["bad_images"], result["knn_train_images"]) == (10, 1, 50)
    alone = knn_result(Features(train.vectors[:1], train.labels[:1], 0), Features(train.vectors, train.labels, 0), 3)
    assert alone["knn"] == float((train.labels == train.labels[0]).double().mean())


def blobs(n: int, seed: int, scale: float = 1.0) -> Features:
    """Three classes around three directions, far apart, of any scale."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    centres = torch.eye(3).repeat(1, 4)[:, :10] * 4
    return Features((centres[labels] + torch.randn(n, 10, generator=generator)) * scale + 5, labels, 0)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_a_probe_separates_what_a_line_separates_at_any_scale(scale: float) -> None:
    result = linear_probe(blobs(300, 0, scale), blobs(120, 1, scale), 3, LinearProbe(epochs=5, batch=64), 0)
    assert result["top1"] > 0.97 and result["top5"] == 1.0
    assert (result["images"], result["train_images"]) == (120, 300)


def test_a_probe_is_a_function_of_its_seed_and_leaves_random_numbers_alone() -> None:
    train, test = random_features(64, 5, 3), random_features(500, 5, 3, seed=1)
    options = LinearProbe(epochs=1, batch=8)
    before = torch.get_rng_state()
    one, again = (linear_probe(train, test, 3, options, 4) for _ in range(2))
    assert one == again and one != linear_probe(train, test, 3, options, 5)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_probe_takes_every_image_once_an_epoch() -> None:
    """With one step of all images it is one step of gradient descent, by hand."""
    train, test = random_features(7, 2, 3), random_features(40, 2, 3, seed=1)
    result = linear_probe(train, test, 3, LinearProbe(epochs=1, batch=100, lr=0.5), 0)
    mean, std = train.vectors.mean(0), train.vectors.std(0, correction=0)
    x, z = ((one.vectors - mean) / std / math.sqrt(2) for one in (train, test))
    error = torch.full((7, 3), 1 / 3) - nn.functional.one_hot(train.labels, 3)
    weight, bias = -0.5 * error.T @ x / 7, -0.5 * error.mean(0)
    expected = ((z @ weight.T + bias).argmax(1) == test.labels).double().mean()
    assert result["top1"] == pytest.approx(float(expected))


def test_a_feature_that_never_changes_does_no_harm() -> None:
    train, test = (
        Features(torch.cat([one.vectors, torch.ones(len(one), 1)], 1), one.labels, 0)
        for one in (blobs(90, 0), blobs(60, 1))
    )
    assert linear_probe(train, test, 3, LinearProbe(epochs=5, batch=30), 0)["top1"] > 0.95


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        vectors, labels = problem()
        found = features(vectors, Share(labels, rank, 2))
        torch.save({"vectors": found.vectors, "labels": found.labels, "probe": probed(found)}, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def problem() -> tuple[torch.Tensor, torch.Tensor]:
    whole = random_features(51, 4, 3, seed=8)
    return whole.vectors, whole.labels


def probed(train: Features) -> dict[str, float]:
    return linear_probe(train, random_features(200, 4, 3, seed=9), 3, LinearProbe(epochs=3, batch=10), 0)


def test_two_workers_see_what_one_sees(tmp_path: Path) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    other = mp.get_context("spawn").Process(target=work, args=(1, str(tmp_path)))
    other.start()
    work(0, str(tmp_path))
    other.join(120)
    assert other.exitcode == 0
    vectors, labels = problem()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert torch.equal(found["vectors"], vectors) and torch.equal(found["labels"], labels)
        assert found["probe"] == pytest.approx(probed(Features(vectors, labels, 0)), abs=0.01)
