"""Networks without weights, of which the shapes alone are wanted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

SMALL, SMALL_IMAGE = 20_000_000, 64  # parameters, pixels
DRAWS = ("normal_", "uniform_", "bernoulli_", "exponential_", "erfinv_")


@contextlib.contextmanager
def on_meta() -> Iterator[str]:
    """Build networks and tensors on the meta device, where nothing is drawn that would fill them."""
    with torch.device("meta"), _Undrawn(on=("meta",)):
        yield "meta"


def runs_unfilled(module: nn.Module, image_size: int) -> bool:
    """Whether a network of the meta device is small enough to have memory and run on images of that size instead: on
    the meta device torch works out shapes by way of its compiler."""
    return image_size <= SMALL_IMAGE and sum(p.numel() for p in module.parameters()) <= SMALL


@contextlib.contextmanager
def unfilled() -> Iterator[str]:
    """Build a network that is to run once, whatever comes out: its memory is as it is. The device is given."""
    with torch.device("cpu"), _Undrawn(on=("cpu",)):
        yield "cpu"


class _Undrawn(TorchFunctionMode):
    """Leaves out what fills a new tensor on one of the devices `on` with random values.

    On the meta device it would change nothing, and torch does it there by way of its compiler: to import that takes
    longer than most of what a process does before it trains.
    """

    def __init__(self, on: tuple[str, ...]) -> None:
        super().__init__()
        self.on = on

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        fills = getattr(func, "__module__", None) == "torch.nn.init" or getattr(func, "__name__", "") in DRAWS
        filled = args[0] if args else kwargs.get("tensor")
        if fills and isinstance(filled, torch.Tensor) and filled.device.type in self.on:
            return filled
        return func(*args, **kwargs)
