"""Outputs of a network in the format that losses are computed in; of the feature maps only what is read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, overload

import torch
from torch import Tensor

if TYPE_CHECKING:
    from kdray.models.outputs import Outputs


class CastOnRead(Sequence[Tensor]):
    """Tensors that are cast to `dtype` (and detached) when first read, once for all who read them.

    A network hands out every stage in the format it runs in, and most losses read one or none of them: a copy of all in
    float32 would be the largest thing that a step holds beside the activations.
    """

    def __init__(self, tensors: Iterable[Tensor], dtype: torch.dtype, detach: bool = False) -> None:
        self._tensors = list(tensors)
        self._done = [False] * len(self._tensors)
        self._dtype, self._detach = dtype, detach

    def __len__(self) -> int:
        return len(self._tensors)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...

    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...

    def __getitem__(self, index: int | slice) -> Tensor | list[Tensor]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not self._done[index]:
            # Whoever reads it first may do so under no_grad, and the next one needs its graph.
            with torch.enable_grad():
                self._tensors[index] = _cast(self._tensors[index], self._dtype, self._detach)
            self._done[index] = True
        return self._tensors[index]


def cast_outputs(outputs: Outputs, dtype: torch.dtype, detach: bool = False) -> Outputs:
    """`outputs` in `dtype`, without their graph where `detach`; feature maps are cast when they are read."""
    return replace(
        outputs,
        logits=None if outputs.logits is None else _cast(outputs.logits, dtype, detach),
        pooled=_cast(outputs.pooled, dtype, detach),
        stages=CastOnRead(outputs.stages, dtype, detach),
        preact=CastOnRead(outputs.preact, dtype, detach),
    )


def compute_dtype(*outputs: Outputs | None) -> torch.dtype:
    """float32, or what is wider among the vectors of `outputs`."""
    dtype = torch.float32
    for one in outputs:
        if one is not None:
            dtype = torch.promote_types(dtype, one.pooled.dtype)
            dtype = dtype if one.logits is None else torch.promote_types(dtype, one.logits.dtype)
    return dtype


def _cast(x: Tensor, dtype: torch.dtype, detach: bool) -> Tensor:
    return (x.detach() if detach else x).to(dtype)
