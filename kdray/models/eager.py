"""torch without its compiler, where nothing is compiled."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any, TypeVar, cast

import torch
from torch.optim import Optimizer
from torch.utils.flop_counter import FlopCounterMode, _FlopCounterMode

Kind = TypeVar("Kind", bound=Optimizer)
MARKED = torch._disable_dynamo(lambda: None).__code__  # of every function that torch marks so


def flop_counter() -> FlopCounterMode:
    """A context that counts the FLOPs of what runs in it, and prints nothing."""
    _leave_alone(_FlopCounterMode)
    return FlopCounterMode(display=False)


@cache
def uncompiled(kind: type[Kind]) -> type[Kind]:
    """The optimizer `kind`, which does not import torch's compiler: its step would, to say that no gradients are
    wanted."""
    _leave_alone(Optimizer)
    step = torch.no_grad()(inspect.unwrap(kind.step))
    return cast(type[Kind], type(kind.__name__, (kind,), {"step": step}))


def _leave_alone(owner: type) -> None:
    """Have torch call the methods of `owner` that it marks as not to be compiled without asking its compiler first.

    To ask, torch imports the compiler, seconds of CPU in every process, as soon as an optimizer is made or FLOPs are
    counted. Nothing that kdray compiles calls these methods.
    """
    for marked in vars(owner).values():
        if getattr(marked, "__code__", None) is MARKED:
            method: Any = marked.__wrapped__
            method.__dict__.setdefault("__dynamo_disable", method)  # the compiler's answer, where torch keeps it
