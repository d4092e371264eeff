"""Mixed images: by loops over pixels, who is whose partner, what is drawn, and the same images on any number of
workers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdray.data.batch import Batch, normalise
from kdray.data.feed import train_feed
from kdray.data.mix import BLOCK, Mixer, Mixture, cut_box, pairing_block, symmetric_beta
from kdray.errors import ConfigError
from kdray.experiment import Mix
from tests.data.small import data, squares

MIXUP, CUTMIX = Mix(mixup=0.4), Mix(cutmix=1.0)


def batch_of(rows: int, views: int = 1, side: tuple[int, int] = (6, 5), seed: int = 0) -> Batch:
    random = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (views * rows, 3, *side), generator=random).to(torch.uint8)
    labels, index = torch.randint(0, 9, (rows,), generator=random), torch.arange(rows)
    return Batch(images.to(memory_format=torch.channels_last), labels, index, index + 100, views)


def by_loops(batch: Batch, mixture: Mixture) -> torch.Tensor:
    """The mixed images as float64, pixel by pixel."""
    rows = len(batch.labels)
    mixed = torch.empty(batch.images.shape, dtype=torch.float64)
    for view in range(batch.views):
        for i in range(rows):
            start = i // mixture.block * mixture.block
            other = start + (i - start + mixture.shift) % mixture.block
            own, partner = (batch.images[view * rows + j].double() for j in (i, other))
            for y in range(own.shape[1]):
                for x in range(own.shape[2]):
                    if mixture.box is None:
                        pixel = mixture.share * own[:, y, x] + (1 - mixture.share) * partner[:, y, x]
                    else:
                        top, bottom, left, right = mixture.box
                        pixel = (partner if top <= y < bottom and left <= x < right else own)[:, y, x]
                    mixed[view * rows + i, :, y, x] = pixel
    return mixed


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("mix", [MIXUP, CUTMIX], ids=["mixup", "cutmix"])
def test_equals_loops(mix: Mix, views: int) -> None:
    mixer, batch = Mixer(mix, seed=3, batch=24), batch_of(24, views)
    for number in range(4):
        mixture = mixer.draw(1, number, (6, 5))
        assert mixture is not None and mixture.block == 8
        mixed = mixture.apply(batch.images, mixture.partners(batch).images)
        assert mixed.dtype == (torch.float32 if mix is MIXUP else torch.uint8)
        torch.testing.assert_close(mixed.double(), by_loops(batch, mixture), rtol=1e-6, atol=1e-4)


def test_the_batch_itself_and_its_layout_stay_as_they_are() -> None:
    batch = batch_of(32)
    before = batch.images.clone()
    for mix in (MIXUP, CUTMIX):
        mixture = Mixer(mix, 0, 32).draw(0, 0, (6, 5))
        assert mixture is not None
        partners = mixture.partners(batch)
        mixed = mixture.apply(batch.images, partners.images)
        for images in (partners.images, mixed, normalise(mixed, (0.5,) * 3, (0.2,) * 3, torch.bfloat16)):
            assert images.is_contiguous(memory_format=torch.channels_last)
            assert images.data_ptr() != batch.images.data_ptr()
        assert torch.equal(batch.images, before)


@pytest.mark.parametrize("mix", [MIXUP, CUTMIX], ids=["mixup", "cutmix"])
def test_nothing_waits_for_the_device(mix: Mix) -> None:
    """On the meta device there are no values: reading one raises."""
    batch, mixture = batch_of(16), Mixer(mix, 0, 16).draw(0, 0, (6, 5))
    assert mixture is not None
    there = Batch(*(getattr(batch, name).to("meta") for name in ("images", "labels", "index", "ids")))
    partners = mixture.partners(there)
    mixed = mixture.apply(there.images, partners.images)
    assert mixed.device.type == partners.labels.device.type == "meta" and mixed.shape == batch.images.shape


@pytest.mark.parametrize("mix", [MIXUP, CUTMIX], ids=["mixup", "cutmix"])
def test_normalising_comes_after_and_is_the_mixture_of_normalised_images(mix: Mix) -> None:
    """Networks of other means and deviations so see one image."""
    batch, mixture = batch_of(16), Mixer(mix, 1, 16).draw(0, 2, (6, 5))
    assert mixture is not None
    partners = mixture.partners(batch).images
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    ours = normalise(mixture.apply(batch.images, partners), mean, std, torch.float32)
    own, other = (normalise(images, mean, std, torch.float32) for images in (batch.images, partners))
    if mixture.box is None:
        theirs = mixture.share * own + (1 - mixture.share) * other
    else:
        top, bottom, left, right = mixture.box
        theirs = own.clone()
        theirs[:, :, top:bottom, left:right] = other[:, :, top:bottom, left:right]
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 8), st.sampled_from([2, 4, 8, 16]), st.integers(0, 10**6))
def test_partners_are_a_derangement_inside_blocks(blocks: int, block: int, number: int) -> None:
    rows = blocks * block
    mixer = Mixer(MIXUP, 0, rows)
    mixture = mixer.draw(0, number, (4, 4))
    assert mixture is not None
    batch = batch_of(rows, side=(1, 1))
    others = mixture.partners(batch)
    partner = others.index.tolist()
    assert sorted(partner) == list(range(rows))  # each once
    assert all(i != j and i // mixer.block == j // mixer.block for i, j in enumerate(partner))
    if mixer.block > 2:
        assert all(partner[j] != i for i, j in enumerate(partner))  # no two images of the same two
    assert torch.equal(others.labels, batch.labels[others.index])
    assert torch.equal(others.ids, others.index + 100)


def test_every_shift_comes_up() -> None:
    drawn = {Mixer(MIXUP, 0, 64).draw(0, number, (4, 4)).shift for number in range(300)}  # type: ignore[union-attr]
    assert drawn == set(range(1, 16)) - {8}


@pytest.mark.parametrize("mode", ["resident", "stream"])
@pytest.mark.parametrize("views", [1, 2])
def test_any_number_of_workers_makes_the_same_images(tmp_path: Path, mode: str, views: int) -> None:
    manifest = squares(tmp_path, 150)
    settings = data(manifest, mode=mode, views=views, augment=["pad_crop", "flip"])
    mix, found = Mix(mixup=0.4, cutmix=1.0), {}
    for world in (1, 2, 4):
        feeds = [
            train_feed(settings, manifest, np.arange(150), batch=64, seed=5, rank=rank, world=world)
            for rank in range(world)
        ]
        batches = zip(*(feed.epoch(1) for feed in feeds), strict=True)
        for number, parts in enumerate(batches):
            mixture = Mixer(mix, 5, 64, world).draw(1, number, (16, 16))
            assert mixture is not None
            others = [mixture.partners(part) for part in parts]
            mixed = [
                mixture.apply(a.images, b.images).unflatten(0, (views, -1)) for a, b in zip(parts, others, strict=True)
            ]
            columns = [torch.cat([getattr(b, name) for b in others]) for name in ("labels", "index")]
            found[world, number] = [torch.cat(mixed, dim=1), *columns]
    for (world, number), tensors in found.items():
        assert all(torch.equal(a, b) for a, b in zip(tensors, found[1, number], strict=True)), (world, number)
    assert len(found) == 6


def test_how_a_batch_is_mixed_follows_from_its_position_alone() -> None:
    mix = Mix(mixup=0.4, cutmix=1.0)
    one, other = Mixer(mix, 7, 128), Mixer(mix, 7, 128, world=4)
    there = {(epoch, number): one.draw(epoch, number, (9, 9)) for epoch in range(3) for number in range(5)}
    for (epoch, number), mixture in reversed(there.items()):
        assert other.draw(epoch, number, (9, 9)) == mixture
    assert len(set(there.values())) == 15
    assert Mixer(mix, 8, 128).draw(0, 0, (9, 9)) != there[0, 0]


def test_the_share_of_a_cut_image_is_that_of_its_pixels() -> None:
    clipped = 0
    for number in range(200):
        mixture = Mixer(CUTMIX, 0, 16).draw(0, number, (11, 7))
        assert mixture is not None and mixture.box is not None
        top, bottom, left, right = mixture.box
        assert 0 <= top <= bottom <= 11 and 0 <= left <= right <= 7
        own = torch.ones(11, 7)
        own[top:bottom, left:right] = 0
        assert mixture.share == pytest.approx(own.mean().item())
        clipped += top == 0 or left == 0 or bottom == 11 or right == 7
    assert 0 < clipped < 200


@settings(deadline=None, max_examples=100)
@given(st.floats(0, 1), st.tuples(st.integers(1, 40), st.integers(1, 40)), st.floats(0, 0.999), st.floats(0, 0.999))
def test_a_box_is_of_the_share_around_its_centre_and_cut_off_at_the_edges(
    share: float, size: tuple[int, int], u: float, v: float
) -> None:
    box = cut_box(share, size, u, v)
    for length, place, (start, stop) in zip(size, (u, v), (box[:2], box[2:]), strict=True):
        half, centre = int(length * (1 - share) ** 0.5) // 2, int(length * place)
        inside = [x for x in range(centre - half, centre + half) if 0 <= x < length]
        assert list(range(start, stop)) == inside


@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.5, 1.0, 2.0, 8.0])
def test_the_share_is_drawn_from_beta(alpha: float) -> None:
    torch.manual_seed(0)
    u = torch.rand(20000, 2, dtype=torch.float64)
    # Rounded, for small parameters draw much that is 0 or 1 but for rounding.
    ours = np.sort(np.round([symmetric_beta(alpha, *pair) for pair in u.tolist()], 12))
    theirs = np.sort(np.round(np.random.default_rng(0).beta(alpha, alpha, 200000), 12))
    places = np.concatenate([ours, theirs])
    of_ours, of_theirs = (np.searchsorted(x, places, side="right") / len(x) for x in (ours, theirs))
    assert np.abs(of_ours - of_theirs).max() < 0.015  # Kolmogorov-Smirnov: p of 0.001 at about 0.0144
    assert ours.min() >= 0 and ours.max() <= 1


@pytest.mark.parametrize("alpha", [1e-6, 1e-3, 1.0, 1e6])
def test_extreme_draws_stay_shares(alpha: float) -> None:
    ends = (0.0, 2.0**-53, 0.25, 0.5, 0.75, 1 - 2.0**-53)
    assert all(0.0 <= symmetric_beta(alpha, u, v) <= 1.0 for u in ends for v in ends)


def test_how_often_and_which() -> None:
    draws = [Mixer(Mix(mixup=1.0, cutmix=1.0, p=0.6, cutmix_share=0.25), 0, 16).draw(2, n, (8, 8)) for n in range(2000)]
    mixed = [mixture for mixture in draws if mixture is not None]
    assert abs(len(mixed) / 2000 - 0.6) < 0.04
    assert abs(sum(mixture.box is not None for mixture in mixed) / len(mixed) - 0.25) < 0.05


@pytest.mark.parametrize(
    "batch, world, block", [(64, 1, 16), (64, 4, 16), (48, 2, 8), (40, 1, 8), (100, 1, 4), (6, 3, 2)]
)
def test_blocks(batch: int, world: int, block: int) -> None:
    assert pairing_block(batch, world) == block <= BLOCK


def test_an_image_without_a_partner_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"train\.batch: images are mixed in pairs.*33 of each of 2.*multiple of 32"):
        Mixer(MIXUP, 0, 66, 2)
