"""Nothing that kdray does before and while it trains imports torch's compiler, and nothing comes out otherwise."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from kdray.experiment import ModelSpec
from kdray.models.eager import flop_counter, uncompiled
from kdray.models.meta import on_meta, runs_unfilled, unfilled
from kdray.models.zoo import build, list_models

LOOK = """
import sys
import torch
from kdray.experiment import ModelSpec, Train
from kdray.models.zoo import build, describe
from kdray.pipeline.estimate import activation_count
from kdray.train.optim import make_optimizer

spec = ModelSpec(model="{model}")
describe(spec, 10, 32), activation_count(spec, 10, 32)
net = build(spec, 10, 32)
for kind in ("sgd", "adamw"):
    train = Train.model_validate({{"epochs": 1, "batch": 2, "optimizer": {{"type": kind, "lr": 0.1}}}})
    optimizer = make_optimizer(train, [net])
    net(torch.randn(2, 3, 32, 32)).logits.sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    optimizer.load_state_dict(optimizer.state_dict())
print([name for name in ("torch._dynamo", "torch._inductor", "sympy") if name in sys.modules])
"""


@pytest.mark.parametrize("model", ["resnet8", "mobilenetv2", "vgg8"])
def test_a_process_that_trains_does_without_the_compiler(model: str) -> None:
    done = subprocess.run([sys.executable, "-c", LOOK.format(model=model)], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stdout + done.stderr


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_an_optimizer_steps_as_torchs_own(kind: type[torch.optim.Optimizer]) -> None:
    torch.manual_seed(0)
    ours, its = nn.Linear(4, 3), nn.Linear(4, 3)
    its.load_state_dict(ours.state_dict())
    mine, other = uncompiled(kind)(ours.parameters(), lr=0.1), kind(its.parameters(), lr=0.1)  # type: ignore[call-arg]
    assert isinstance(mine, kind) and uncompiled(kind) is type(mine)
    for _ in range(3):
        images = torch.randn(8, 4)
        for net, optimizer in ((ours, mine), (its, other)):
            optimizer.zero_grad()
            net(images).square().sum().backward()
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), its.parameters(), strict=True))
    assert all(parameter.requires_grad for parameter in ours.parameters())


def test_nothing_is_drawn_for_shapes_and_all_is_drawn_for_a_network() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with unfilled() as device, torch.no_grad():
        layer = nn.Conv2d(3, 4, 3)
        nn.init.kaiming_normal_(layer.weight)
        assert device == layer.weight.device.type == "cpu"
    with on_meta():
        assert nn.Linear(2, 2).weight.is_meta
        with unfilled():
            assert not nn.Linear(2, 2).weight.is_meta
    assert runs_unfilled(layer, 32) and not runs_unfilled(layer, 224)
    assert torch.equal(torch.get_rng_state(), before)
    with on_meta(), torch.device("cpu"):  # somebody's own network that reads its weights while it is built
        assert nn.Linear(8, 8).weight.std() > 0
    torch.manual_seed(0)
    weights = [parameter for parameter in build(ModelSpec(model="resnet8"), 10, 32).parameters() if parameter.ndim > 1]
    assert all(weight.std() > 0 for weight in weights) and not torch.equal(torch.get_rng_state(), before)


def test_flops_are_the_same_with_memory_and_without() -> None:
    counts = []
    for place in (unfilled, on_meta):
        with place() as device:
            layer = nn.Conv2d(3, 8, 3, padding=1)
        with torch.no_grad(), flop_counter() as counter:
            layer(torch.zeros(1, 3, 32, 32, device=device))
        counts.append(counter.get_total_flops())
    assert counts == [2 * 32 * 32 * 3 * 8 * 9] * 2
    assert len(list_models()) > 20
