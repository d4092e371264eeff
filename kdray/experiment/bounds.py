"""The bounded kinds of numbers and texts that the schema's fields are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from kdray.experiment.part import refuse
from kdray.store.place import NO_KEYS, holds_keys

MAX_INT = 2**63 - 1  # counts, seeds and sizes live in int64 everywhere downstream


def _numbers(n: int, fix: str) -> Callable[[Any], tuple[Any, ...]]:
    """Return a check that a list of `n` values stands there; the values themselves are checked by the tuple's types."""

    def check(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple) or len(value) != n:
            raise refuse(f"wants {n} numbers", fix, (), value)
        return tuple(value)

    return check


def _without_keys(uri: str) -> str:
    if holds_keys(uri):
        raise refuse("keys stand in the URI", NO_KEYS)
    return uri


Count = Annotated[int, Field(ge=1, le=MAX_INT)]
Natural = Annotated[int, Field(ge=0, le=MAX_INT)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Unit = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Text = Annotated[str, Field(min_length=1)]
Uri = Annotated[Text, AfterValidator(_without_keys)]
Mean = Annotated[tuple[Unit, Unit, Unit], BeforeValidator(_numbers(3, "Write [r, g, b], for pixels in 0..1"))]
Std = Annotated[
    tuple[Positive, Positive, Positive], BeforeValidator(_numbers(3, "Write [r, g, b], for pixels in 0..1"))
]
Betas = Annotated[tuple[BelowOne, BelowOne], BeforeValidator(_numbers(2, "Write [0.9, 0.999]"))]
