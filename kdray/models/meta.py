"""Networks without weights, of which the shapes alone are wanted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

SMALL = 64
DRAWS = ("normal_", "uniform_", "bernoulli_", "exponential_", "erfinv_")


@contextlib.contextmanager
def on_meta() -> Iterator[str]:
    """Build networks and tensors on the meta device, where nothing is drawn that would fill them."""
    with torch.device("meta"), _Undrawn():
        yield "meta"


@contextlib.contextmanager
def unfilled(image_size: int) -> Iterator[str]:
    """Build a network that is to run once on images of that size, whatever comes out; the device is given.

    On small images it has memory, as it is: on the meta device torch works out shapes by way of its compiler.
    """
    if image_size > SMALL:
        with on_meta() as device:
            yield device
    else:
        with _Undrawn():
            yield "cpu"


class _Undrawn(TorchFunctionMode):
    """Leaves out what fills a new tensor with random values.

    On the meta device it would change nothing, and torch does it there by way of its compiler: to import that takes
    longer than most of what a process does before it trains.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        fills = getattr(func, "__module__", None) == "torch.nn.init" or getattr(func, "__name__", "") in DRAWS
        filled = args[0] if args else kwargs.get("tensor")
        if fills and isinstance(filled, torch.Tensor):
            return filled
        return func(*args, **kwargs)
