"""Tensors over arrays that are not to be written, such as those that processes share."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def tensor_of(array: np.ndarray) -> torch.Tensor:
    """The array as a tensor, without a copy. A tensor knows no read-only memory: who asks for one of such an array
    promises not to write to it.
    """
    return torch.from_numpy(array if array.flags.writeable else np.asarray(_Unlocked(array)))


class _Unlocked:
    """The memory of `array` without its lock, of which torch would warn."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array  # what keeps the memory
        said = array.__array_interface__
        self.__array_interface__: dict[str, Any] = {**said, "data": (said["data"][0], False)}
