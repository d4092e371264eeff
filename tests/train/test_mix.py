"""Mixed images in the loop: the teacher sees what the student sees, a stopped run goes on to the same weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kdray.data.batch import Batch, normalise
from kdray.data.mix import Mixer
from kdray.errors import ConfigError, Interrupted
from kdray.experiment import Mix
from kdray.objectives import Targets
from kdray.train.loop import Loop
from kdray.train.task import Pixels
from tests.ranks import run_ranks
from tests.train.conftest import PIXELS, DrawnFeed, Listener, MakeLoop, build_loop

MIX = Mix(mixup=0.4, cutmix=1.0)
OTHER = Pixels((0.3, 0.4, 0.5), (0.2, 0.3, 0.4))


class Seen:
    """What both networks and the objectives of a loop were given."""

    def __init__(self, loop: Loop) -> None:
        self.student: list[torch.Tensor] = []
        self.teacher: list[torch.Tensor] = []
        self.targets: list[Targets] = []
        trainable, teacher = loop.job.trainable, loop.job.teacher
        assert teacher is not None
        trainable.register_forward_pre_hook(self._look)
        teacher.net.register_forward_pre_hook(lambda _, inputs: self.teacher.append(inputs[0].clone()))

    def _look(self, _module: Any, inputs: Any) -> None:
        self.student.append(inputs[0].clone())
        self.targets.append(inputs[1])


def pixels_of(images: torch.Tensor, pixels: Pixels) -> torch.Tensor:
    """Normalised images back in 0..255."""
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (pixels.mean, pixels.std))
    return (images * std + mean) * 255


def test_a_teacher_of_another_normalisation_sees_the_same_pixels(make_loop: MakeLoop) -> None:
    loop = make_loop(mix=MIX, epochs=1)
    assert loop.job.teacher is not None
    loop.job.teacher.pixels = OTHER
    seen = Seen(loop)
    loop.run()
    assert len(seen.student) == len(seen.teacher) == 6
    mixed = 0
    for batch, ours, theirs in zip(DrawnFeed().epoch(0), seen.student, seen.teacher, strict=True):
        torch.testing.assert_close(pixels_of(ours, PIXELS), pixels_of(theirs, OTHER), rtol=1e-4, atol=1e-2)
        mixed += not torch.allclose(pixels_of(ours, PIXELS), batch.images.float(), atol=0.1)
    assert mixed >= 5


def test_the_loop_trains_on_the_mixture_of_its_position(make_loop: MakeLoop) -> None:
    """Images, both labels and the share are those of (seed, epoch, batch), one of one kind in both kinds."""
    loop = make_loop(mix=MIX, epochs=2)
    seen = Seen(loop)
    loop.run()
    mixer, at, kinds = Mixer(MIX, 0, 8), 0, set()
    for epoch in range(2):
        for number, batch in enumerate(DrawnFeed().epoch(epoch)):
            mixture = mixer.draw(epoch, number, (16, 16))
            assert mixture is not None
            kinds.add(mixture.box is None)
            others = mixture.partners(batch)
            images = mixture.apply(batch.images, others.images)
            assert torch.equal(seen.student[at], normalise(images, PIXELS.mean, PIXELS.std, torch.float32))
            assert torch.equal(seen.student[at], seen.teacher[at])
            targets = seen.targets[at]
            assert torch.equal(targets.labels, batch.labels) and targets.mixed is not None
            assert torch.equal(targets.mixed.labels, others.labels) and targets.mixed.share == mixture.share
            at += 1
    assert kinds == {True, False}


def test_batches_that_are_not_drawn_stay_plain(make_loop: MakeLoop) -> None:
    loop = make_loop(mix=Mix(mixup=0.4, p=0.5), epochs=2)
    seen = Seen(loop)
    loop.run()
    plain = [targets.mixed is None for targets in seen.targets]
    assert 0 < sum(plain) < 12
    batches = [batch for epoch in range(2) for batch in DrawnFeed().epoch(epoch)]
    for batch, images, is_plain in zip(batches, seen.student, plain, strict=True):
        untouched = normalise(batch.images, PIXELS.mean, PIXELS.std, torch.float32)
        assert torch.equal(images, untouched) == is_plain


class TwoViews(DrawnFeed):
    """The images of `DrawnFeed`, and their negatives as the second view."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        for batch in super().epoch(epoch, start):
            yield replace(batch, images=torch.cat([batch.images, 255 - batch.images]), views=2)


@pytest.mark.parametrize("feed", [DrawnFeed(), TwoViews()], ids=["one view", "two views"])
@pytest.mark.parametrize("accumulate", [2, 8])
def test_accumulating_sees_the_images_of_the_whole_batch(make_loop: MakeLoop, feed: DrawnFeed, accumulate: int) -> None:
    """Parts that are smaller than a block, or of a single image, too."""
    seen = []
    for parts in (1, accumulate):
        loop = make_loop(mix=MIX, epochs=1, feed=feed, accumulate=parts)
        looking = Seen(loop)
        loop.run()
        seen.append(looking)
    whole, cut = seen
    assert len(cut.student) == accumulate * len(whole.student) == accumulate * 6
    for step in range(6):
        pieces = slice(step * accumulate, (step + 1) * accumulate)
        views = [images.unflatten(0, (feed_views(feed), -1)) for images in cut.student[pieces]]
        assert torch.equal(torch.cat(views, dim=1).flatten(0, 1), whole.student[step])
        assert torch.equal(torch.cat([x.mixed.labels for x in cut.targets[pieces]]), whole.targets[step].mixed.labels)
        assert {x.mixed.share for x in cut.targets[pieces]} == {whole.targets[step].mixed.share}


def feed_views(feed: DrawnFeed) -> int:
    return 2 if isinstance(feed, TwoViews) else 1


@pytest.mark.parametrize("stop_at", [1, 3, 7, 14])
@pytest.mark.parametrize("options", [{}, {"accumulate": 2, "ema": 0.9}], ids=["plain", "accumulate-ema"])
def test_a_stopped_run_goes_on_to_the_same_weights_bit_for_bit(
    make_loop: MakeLoop, stop_at: int, options: dict[str, Any]
) -> None:
    mix = Mix(mixup=0.4, cutmix=1.0, p=0.8)
    whole = make_loop(mix=mix, **options).run()
    with pytest.raises(Interrupted, match="state saved"):
        make_loop("run", mix=mix, listener=Listener(stop_at), **options).run()
    resumed = make_loop("run", mix=mix, **options).run()
    assert resumed.resumed_from > 0
    assert all(torch.equal(whole.last[key], resumed.last[key]) for key in whole.last)
    plain = make_loop(**options).run()
    assert not all(torch.equal(whole.last[key], plain.last[key]) for key in whole.last)


def test_a_share_that_cannot_be_paired_is_refused(make_loop: MakeLoop) -> None:
    with pytest.raises(ConfigError, match=r"train\.batch: images are mixed in pairs"):
        make_loop(mix=MIX, batch=9)


class Share(DrawnFeed):
    """A worker's part of batches of 32."""

    steps_per_epoch = 4

    def __init__(self, rank: int, world: int) -> None:
        super().__init__(batch=32)
        self.mine = slice(rank * 32 // world, (rank + 1) * 32 // world)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        for batch in super().epoch(epoch, start):
            yield Batch(*(getattr(batch, name)[self.mine] for name in ("images", "labels", "index", "ids")))


def train_share(rank: int, world: int, folder: str) -> None:
    """Train on a worker's part and leave what was seen there."""
    loop = build_loop(Path(folder), mix=MIX, feed=Share(rank, world), batch=32, epochs=1, rank=rank, world=world)
    seen = Seen(loop)
    loop.run()
    mixed = [targets.mixed for targets in seen.targets if targets.mixed is not None]
    columns = {"labels": [one.labels for one in mixed], "share": [torch.tensor([one.share]) for one in mixed]}
    torch.save({"student": seen.student, "teacher": seen.teacher, **columns}, f"{folder}/{world}-{rank}.pt")


def test_two_workers_see_what_one_sees(tmp_path: Path) -> None:
    train_share(0, 1, str(tmp_path))
    run_ranks(train_share, 2, str(tmp_path))
    one, *two = (torch.load(tmp_path / name, weights_only=True) for name in ("1-0.pt", "2-0.pt", "2-1.pt"))
    for step in range(4):
        for key in ("student", "teacher", "labels"):
            assert torch.equal(torch.cat([part[key][step] for part in two]), one[key][step])
        assert {part["share"][step].item() for part in two} == {one["share"][step].item()}
