"""Which library computes a network's convolutions while it is trained."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import torch
from torch import nn

log = logging.getLogger(__name__)

_NARROW = range(2, 8)  # input channels of a group


@contextlib.contextmanager
def safe_convolutions(net: nn.Module, device: torch.device) -> Iterator[None]:
    """A context in which `net` can be trained on `device`.

    oneDNN's backward pass writes beyond its memory (seen with torch 2.15: crashes, loops without end) on CPUs that have
    AVX2 and no AVX512, in convolutions of kernel 1 and stride 2 with 2 to 7 input channels, whatever their memory
    format: shortcuts of very narrow residual networks. PyTorch's own convolutions take its place there.
    """
    before = torch.backends.mkldnn.enabled
    avx2 = device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"
    if avx2 and any(map(_hit, net.modules())):
        log.info("a very narrow network: convolutions without oneDNN, which fails at them on this CPU")
        torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = before


def _hit(module: nn.Module) -> bool:
    if not isinstance(module, nn.Conv2d):
        return False
    return module.kernel_size == (1, 1) and max(module.stride) > 1 and module.in_channels // module.groups in _NARROW
