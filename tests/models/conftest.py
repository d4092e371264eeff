from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from kdray.models import Net, build


@dataclass
class Spec:
    """The part of an experiment's model entry that this room reads."""

    model: str
    params: dict[str, Any] = field(default_factory=dict)
    stages: list[str] | None = None
    pooled: str | None = None
    classifier: bool = True


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny networks: a second thread only waits for the first, and long where other processes want the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def make() -> Callable[..., Net]:
    """Build a seeded network in eval mode whose batch norms have run, so that no statistic is trivial."""

    def made(model: str, num_classes: int | None = 10, image_size: int = 32, warm: bool = True, **spec: Any) -> Net:
        torch.manual_seed(0)
        net = build(Spec(model, **spec), num_classes, image_size)
        if warm:
            net.train()
            with torch.no_grad():
                net(torch.randn(4, 3, image_size, image_size))
        return net.eval()

    return made


def images(n: int = 2, size: int = 32, seed: int = 1) -> torch.Tensor:
    """Seeded images `[n, 3, size, size]`."""
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed))
