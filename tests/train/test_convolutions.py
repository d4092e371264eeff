"""A network that oneDNN would write beyond its memory with is trained without it, on the CPUs where it does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdray.train.convolutions import safe_convolutions


def uses_onednn(channels: int, kernel: int = 1, stride: int = 2, device: str = "cpu") -> bool:
    """Whether a network with that convolution is trained with oneDNN."""
    net = nn.Sequential(nn.Conv2d(3, channels, 3), nn.Conv2d(channels, 8, kernel, stride=stride))
    with safe_convolutions(net, torch.device(device)):
        return bool(torch.backends.mkldnn.enabled)


def test_what_a_cpu_without_avx512_cannot_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert [channels for channels in range(1, 12) if not uses_onednn(channels)] == [2, 3, 4, 5, 6, 7]
    assert uses_onednn(4, kernel=3) and uses_onednn(4, stride=1) and uses_onednn(4, device="meta")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert uses_onednn(4)
    assert torch.backends.mkldnn.enabled


@pytest.mark.parametrize("channels", [4, 16])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_gradients_are_those_of_a_plain_convolution(channels: int, layout: torch.memory_format) -> None:
    net = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), nn.Conv2d(channels, 8, 1, stride=2)).to(
        memory_format=layout
    )
    images = torch.rand(32, 3, 32, 32).contiguous(memory_format=layout)
    found = []
    for plain in (True, False):
        net.zero_grad()
        with safe_convolutions(net, torch.device("cpu")), pytest.MonkeyPatch.context() as patch:
            if plain:
                patch.setattr(torch.backends.mkldnn, "enabled", False)
            net(images).square().mean().backward()
        found.append([parameter.grad.clone() for parameter in net.parameters() if parameter.grad is not None])
    for plain, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-6)
