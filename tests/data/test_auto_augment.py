"""The policies and what they make of an image, against torchvision's AutoAugment on Pillow images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import AutoAugment as Theirs
from torchvision.transforms import AutoAugmentPolicy

from kdray.data.augment import build_augment
from kdray.data.auto_augment import POLICIES, AutoAugment
from kdray.errors import ConfigError

from .photos import photo_pixels

IMAGES = [np.random.default_rng(0).integers(0, 256, (33, 40, 3), dtype=np.uint8), photo_pixels(0, 1, (70, 50))]


def theirs(policy: str) -> Theirs:
    return Theirs(AutoAugmentPolicy[policy.upper()], fill=[128] * 3)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_policies_are_torchvisions(policy: str) -> None:
    expected = [
        [(name, p, step or 0) for name, p, step in pair] for pair in theirs(policy)._get_policies(theirs(policy).policy)
    ]
    mine = [[(name.title().replace("_", ""), p, step) for name, p, step in pair] for pair in POLICIES[policy]]
    assert mine == [list(pair) for pair in expected] and len(mine) == 25


@pytest.mark.parametrize("policy", POLICIES)
def test_every_pair_is_torchvisions_to_the_bit(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    op, reference = AutoAugment(policy=policy, fill=128), theirs(policy)
    rng = np.random.default_rng(1)
    for which in range(25):
        for image in IMAGES:
            whether, signs = rng.random(2), rng.random(2)
            choice = which, torch.from_numpy(whether), torch.from_numpy((signs >= 0.5).astype(int))
            monkeypatch.setattr(reference, "get_params", lambda _, choice=choice: choice)
            u = np.array([(which + 0.5) / 25, whether[0], signs[0], whether[1], signs[1]])
            assert np.array_equal(op.apply(image, u), np.asarray(reference(Image.fromarray(image)))), which


def test_pairs_come_equally_often() -> None:
    u = build_augment(["auto_augment"]).draw(0, 0, np.arange(10_000), 0)
    counts = np.bincount((u[:, 0] * 25).astype(int), minlength=25)
    assert u.shape[1] == 5 and len(counts) == 25 and counts.min() > 320 and counts.max() < 480


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"policy": "cifar100"}, 'data.augment.0.auto_augment.policy: "cifar100"'),
        ({"fill": -1}, "data.augment.0.auto_augment.fill: -1"),
        (
            {"polcy": "svhn"},
            "data.augment.0.auto_augment: auto_augment has no parameter 'polcy' (did you mean 'pol",
        ),
    ],
)
def test_wrong_parameters_are_named(params: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        build_augment([{"auto_augment": params}])
    assert str(error.value).startswith(said)
