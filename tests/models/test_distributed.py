"""The networks under DistributedDataParallel: one process, the whole wrapper."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from .conftest import images


@pytest.fixture
def group(tmp_path: Path):
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("name", ["wrn_16_1", "torchvision/resnet18"])
def test_every_parameter_gets_its_gradient(name: str, make, group) -> None:
    plain, net = make(name, warm=False).train(), make(name, warm=False).train()
    plain(images(4), stages=True).stages[-1].mean().backward()
    wrapped = DistributedDataParallel(net)
    for _ in range(2):  # the second step fails when the first left a parameter without a gradient
        net.zero_grad()
        out = wrapped(images(4), stages=True)
        (out.stages[-1].mean() + 0 * out.logits.sum()).backward()
    first = dict(plain.named_parameters())
    for key, parameter in net.named_parameters():
        wanted = first[key].grad
        torch.testing.assert_close(parameter.grad, torch.zeros_like(parameter) if wanted is None else wanted)
