"""torch's random state as a function of where a run stands."""

from __future__ import annotations

import torch


def set_seed(*numbers: int) -> None:
    """Seed torch, on all devices, from whole numbers such as (seed, step, rank); other numbers, another state."""
    mixed = 0
    for number in numbers:
        mixed = (mixed * 6_364_136_223_846_793_005 + number + 1_442_695_040_888_963_407) % 2**63
    torch.manual_seed(mixed)
