"""The bounded kinds of numbers and texts that the schema's fields are made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

MAX_INT = 2**63 - 1  # counts, seeds and sizes live in int64 everywhere downstream

Count = Annotated[int, Field(ge=1, le=MAX_INT)]
Natural = Annotated[int, Field(ge=0, le=MAX_INT)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Unit = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Text = Annotated[str, Field(min_length=1)]
# strict=False only lets a YAML list stand for the tuple; its three numbers are checked strictly all the same.
Mean = Annotated[tuple[Unit, Unit, Unit], Field(strict=False)]
Std = Annotated[tuple[Positive, Positive, Positive], Field(strict=False)]
