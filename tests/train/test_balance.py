"""Norms of gradients before the first step against explicit loops, and weights that are frozen for a whole run."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kdray.data.batch import Batch
from kdray.errors import KdrayError, StoreError, TrainingError
from kdray.experiment import Balance, Mix
from kdray.models.outputs import Net
from kdray.objectives.balance import Balanced, resolve
from kdray.store import Store
from kdray.train import balance as measuring
from kdray.train.agree import of_first
from kdray.train.balance import FILE, balanced, frozen, gradient_norms
from kdray.train.job import Job
from kdray.train.precision import Precision
from tests.ranks import run_ranks
from tests.train.conftest import PIXELS, DrawnFeed, MakeLoop, build_loop
from tests.train.test_mix import Share, TwoViews

CE_KD: dict[str, Any] = {"ce": {"weight": 0.5}, "kd": {"weight": 0.9, "temperature": 3.0}}
BANK = {"positives": 2, "negatives": 8, "dim": 5}
FALLEN = {
    "ce": {},
    "kd": {},
    "rkd": {},
    "mcld": {"weight": 2, "ce": {"weight": 0}, "category": {"schedule": {"type": "warmup", "epochs": 2}}},
    "clmkd.class_guided": BANK,
}


def job_of(make_loop: MakeLoop, objectives: dict[str, Any], **options: Any) -> Job:
    return make_loop(objectives=objectives, **options).job


def by_loops(job: Job, batches: int) -> dict[str, list[float]]:
    """Norms of ce's and kd's gradients on every batch, row by row and class by class."""
    net, norms = copy.deepcopy(job.trainable.net).train(), {"ce": [], "kd": []}
    feed, t = job.feed.epoch(0), 3.0
    for _ in range(batches):
        batch = next(feed)
        images = job.pixels.prepare(batch.images, job.precision)
        assert job.teacher is not None and net.classifier is not None
        with torch.no_grad():
            z_s = net(images).logits.double()
            z_t = job.teacher(images, stages=False, preact=False).logits.double()
            weight = net.classifier.weight.double()
        rows, classes = z_s.shape
        squares = {"ce": 0.0, "kd": 0.0}
        w, labels = weight.tolist(), batch.labels.tolist()
        for i in range(rows):
            p, soft_s, soft_t = (z.softmax(0).tolist() for z in (z_s[i], z_s[i] / t, z_t[i] / t))
            for d in range(weight.shape[1]):
                ce = sum((p[c] - float(c == labels[i])) * w[c][d] for c in range(classes)) / rows
                kd = t * sum((soft_s[c] - soft_t[c]) * w[c][d] for c in range(classes)) / rows  # T^2 / T
                squares["ce"] += ce**2
                squares["kd"] += kd**2
        for name, square in squares.items():
            norms[name].append(square**0.5)
    return norms


def test_norms_are_those_of_loops_over_rows_and_classes(make_loop: MakeLoop) -> None:
    job = job_of(make_loop, CE_KD)
    expected = by_loops(job, 4)
    for batches, counted in ((1, 1), (2, 1), (3, 2), (4, 2)):
        norms, seen, averaged = gradient_norms(job_of(make_loop, CE_KD), batches)
        assert (seen, averaged) == (batches, counted)
        for name, values in expected.items():
            assert norms[name] == pytest.approx(sum(values[batches - counted : batches]) / counted, rel=1e-4), name


def test_no_more_than_an_epoch_is_seen(make_loop: MakeLoop) -> None:
    assert gradient_norms(job_of(make_loop, CE_KD), 100)[1:] == (6, 3)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("mix", [None, Mix(mixup=0.4)], ids=["plain", "mixed"])
def test_the_shares_hold_afterwards(make_loop: MakeLoop, accumulate: int, mix: Mix | None) -> None:
    objectives = FALLEN if mix is None else {key: FALLEN[key] for key in ("ce", "kd", "rkd")}
    options = {"mix": mix, "accumulate": accumulate}
    wanted = resolve(Balance(share=0.3, batches=4), objectives)
    assert wanted is not None
    found = balanced(job_of(make_loop, objectives, **options), wanted, objectives)
    assert found.kept == {}
    now = found.applied(objectives)
    again, *_ = gradient_norms(job_of(make_loop, now, **options), 4)
    for label, norm in again.items():
        around = 2 if label.startswith("mcld") else 1
        share = found.weights[label] * around * norm / (found.weights["ce"] * again["ce"])
        assert share == pytest.approx(1.0 if label == "ce" else 0.3, rel=0.01), label
    before = {label: abs(share / 0.3 - 1) for label, share in found.shares_before.items() if label != "ce"}
    assert min(before.values()) > 0.05  # there was something to do


def test_two_views_are_measured_as_they_are_trained(make_loop: MakeLoop) -> None:
    """The gradient of all rows of all views, of what the run's own first batches are."""
    one, _, _ = gradient_norms(job_of(make_loop, CE_KD), 2)
    two, _, _ = gradient_norms(job_of(make_loop, CE_KD, feed=TwoViews()), 2)
    assert one["ce"] != pytest.approx(two["ce"], rel=1e-3)
    assert two["ce"] == pytest.approx(float(torch.cat(list(gradients(make_loop, TwoViews(), 2))).norm()), rel=1e-4)


def gradients(make_loop: MakeLoop, feed: DrawnFeed, batches: int) -> Iterator[torch.Tensor]:
    """What a step's own forward gives: the gradient of ce on the pooled vector of the last batch."""
    job = job_of(make_loop, {"ce": {}}, feed=feed)
    net = job.trainable.net.train()
    *_, batch = [batch for batch, _ in zip(job.feed.epoch(0), range(batches), strict=False)]
    outputs = net(job.pixels.prepare(batch.images, job.precision))
    loss = nn.functional.cross_entropy(outputs.logits, batch.labels.repeat(batch.views))
    yield torch.autograd.grad(loss, outputs.pooled)[0]


def test_it_is_float32_whatever_the_run_is_in(make_loop: MakeLoop) -> None:
    plain, _, _ = gradient_norms(job_of(make_loop, CE_KD), 2)
    job = replace(job_of(make_loop, CE_KD), precision=Precision("bf16", "cpu"))
    assert gradient_norms(job, 2)[0] == plain


def test_what_does_not_reach_the_pooled_vector_is_said(make_loop: MakeLoop, caplog: pytest.LogCaptureFixture) -> None:
    objectives = {"ce": {}, "at": {"weight": 100}, "fitnet": {"stage": 1}, "kd": {}}
    wanted = resolve(Balance(share=1.0, batches=2), objectives)
    assert wanted is not None
    found = balanced(job_of(make_loop, objectives), wanted, objectives)
    assert found.norms["at"] is None and found.norms["fitnet"] is None
    assert found.weights["at"] == 100 and list(found.objectives) == ["kd"]
    assert [record.getMessage() for record in caplog.records] == [
        "at keeps its weight 100: it does not reach the student's pooled vector",
        f"fitnet keeps its weight {found.weights['fitnet']:g}: it does not reach the student's pooled vector",
    ]


def test_it_leaves_no_trace_in_what_random_numbers_follow(make_loop: MakeLoop) -> None:
    job = job_of(make_loop, FALLEN)
    feed = job.feed
    torch.manual_seed(5)
    before = torch.get_rng_state()
    gradient_norms(job, 3)
    assert torch.equal(before, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in job.trainable.parameters())
    first = next(iter(feed.epoch(0)))
    assert torch.equal(first.images, next(DrawnFeed().epoch(0)).images)


def example() -> Balanced:
    return Balanced(
        reference="ce",
        batches=2,
        averaged=1,
        norms={"ce": 1.0, "kd": 2.0},
        shares={"kd": 0.5},
        shares_before={"ce": 1.0, "kd": 2.0},
        weights_before={"ce": 1.0, "kd": 1.0},
        weights={"ce": 1.0, "kd": 0.25},
        kept={},
        objectives={"kd": {"weight": 0.25}},
    )


def never() -> Balanced:
    raise AssertionError("measured again")


def test_what_is_written_is_never_measured_again(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    assert frozen(store, example, 0, 1) == (example(), False)
    assert json.loads((tmp_path / FILE).read_text())["weights"] == {"ce": 1.0, "kd": 0.25}
    assert frozen(store, never, 0, 1) == (example(), True)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-000000004.pt").touch()
    assert frozen(store, never, 0, 1) == (example(), True)
    (tmp_path / FILE).unlink()
    with pytest.raises(TrainingError, match=r"balance\.json: the weights that this run was begun with are lost"):
        frozen(store, never, 0, 1)


@pytest.mark.parametrize("text", ["{", '{"weights": {"kd": 1}}', "3"])
def test_a_damaged_file_is_no_reason_to_measure_again(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(StoreError, match=r"balance\.json: (is not JSON|does not hold balanced weights)"):
        frozen(Store(str(tmp_path)), never, 0, 1)


def without_batch_norm(net: Net) -> Net:
    """`net` without what depends on how a batch is shared out."""
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.GroupNorm(1, child.num_features))
    return net


class Half(Share):
    """A worker's part of batches of 32, whose row numbers stand in the data set."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        for batch in super().epoch(epoch, start):
            yield replace(batch, index=batch.index % 48)


def measure_share(rank: int, world: int, folder: str) -> None:
    """Measure a worker's part of the batches, freeze it, and leave what this rank has."""
    wanted = resolve(Balance(share=0.5, batches=4), FALLEN)
    assert wanted is not None

    def measure() -> Balanced:
        options: dict[str, Any] = {"net_factory": without_batch_norm, "batch": 32, "rank": rank, "world": world}
        job = build_loop(Path(folder), objectives=FALLEN, feed=Half(rank, world), **options).job
        return balanced(job, wanted, FALLEN)

    store = Store(f"{folder}/{world}")
    found = [*frozen(store, measure, rank, world), *frozen(store, never, rank, world)]
    assert found[1::2] == [False, True] and found[0] == found[2]
    Path(folder, f"{world}-{rank}.json").write_text(found[0].model_dump_json())
    if world > 1:  # begun by one worker, gone on with by two
        earlier, there = frozen(Store(f"{folder}/1"), never, rank, world)
        assert there and earlier.reference == "ce"
        _fails_together(rank, folder)


def _fails_together(rank: int, folder: str) -> None:
    Path(folder, "damaged").mkdir(exist_ok=True)
    Path(folder, "damaged", FILE).write_text("{")
    with pytest.raises(StoreError, match="is not JSON"):
        frozen(Store(f"{folder}/damaged"), never, rank, 2)

    def unplanned() -> None:
        raise ValueError("no such thing")

    with pytest.raises(ValueError if rank == 0 else KdrayError, match="no such thing"):
        of_first(unplanned, rank, 2)


def test_two_workers_set_equal_weights_and_those_of_one(tmp_path: Path) -> None:
    measure_share(0, 1, str(tmp_path))
    run_ranks(measure_share, 2, str(tmp_path))
    one, *two = (
        Balanced.model_validate_json((tmp_path / name).read_text()) for name in ("1-0.json", "2-0.json", "2-1.json")
    )
    assert two[0] == two[1]
    for label, norm in one.norms.items():
        assert two[0].norms[label] == pytest.approx(norm, rel=1e-3), label
        assert two[0].weights[label] == pytest.approx(one.weights[label], rel=2e-3), label


def test_the_module_measures_with_the_pixels_of_the_job(make_loop: MakeLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images reach the student normalised once, as in a step."""
    seen: list[torch.Tensor] = []
    job = job_of(make_loop, CE_KD)
    job.trainable.net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    monkeypatch.setattr(measuring.log, "warning", lambda *_: pytest.fail("nothing is kept"))
    gradient_norms(job, 2)
    for images, batch in zip(seen, job.feed.epoch(0), strict=False):
        assert torch.equal(images, PIXELS.prepare(batch.images, Precision("fp32", "cpu")))
    assert len(seen) == 2
