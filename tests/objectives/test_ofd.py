from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdray.errors import ConfigError
from kdray.objectives import ObjectiveSet, needs
from kdray.objectives.ofd import Margin, partial_distance

from .cases import build, make_case, make_setup


def loops(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    """Case by case, as the paper defines it."""
    total = student.new_zeros(())
    for row_s, row_t in zip(student, teacher, strict=True):
        for c in range(len(margin)):
            for s, t in zip(row_s[c].flatten(), row_t[c].flatten(), strict=True):
                if t > 0 or (t > margin[c] and s > t):
                    total = total + (s - t) ** 2
                elif t <= margin[c] and s > margin[c]:
                    total = total + (s - margin[c]) ** 2
    return total / len(student)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 99))
def test_equals_loops(rows: int, channels: int, height: int, width: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, rows, channels, height, width, generator=random, dtype=torch.float64)
    margin = -torch.rand(channels, generator=random, dtype=torch.float64)
    student.requires_grad_()
    ours, theirs = partial_distance(student, teacher, margin), loops(student, teacher, margin)
    torch.testing.assert_close(ours, theirs)
    gradients = (torch.autograd.grad(x, student, allow_unused=True)[0] for x in (ours, theirs + 0 * student.sum()))
    torch.testing.assert_close(*gradients)


def test_what_the_relu_blocks_may_be_as_low_as_it_likes() -> None:
    teacher, margin = torch.tensor([[[[-0.5, -3.0, 2.0]]]]), torch.tensor([-1.0])
    assert partial_distance(torch.tensor([[[[-9.0, -9.0, 2.0]]]]), teacher, margin).item() == 0.0
    assert partial_distance(teacher, teacher, margin).item() == 0.0
    assert partial_distance(torch.tensor([[[[0.5, -9.0, 2.0]]]]), teacher, margin).item() == 1.0
    assert partial_distance(torch.tensor([[[[-9.0, 1.0, 2.0]]]]), teacher, margin).item() == 4.0
    assert partial_distance(torch.tensor([[[[-9.0, -9.0, -1.0]]]]), teacher, margin).item() == 9.0


def negative_means(*batches: Tensor) -> Tensor:
    maps = torch.cat(batches).double()
    means = []
    for c in range(maps.shape[1]):
        below = [x for x in maps[:, c].flatten() if x < 0]
        means.append(torch.stack(below).mean() if below else maps.new_zeros(()))
    return torch.stack(means)


def test_margin_is_the_mean_of_what_lies_below_zero() -> None:
    """Exact from the first step on, over all batches so far, then fixed; a channel never below 0 has margin 0."""
    random = torch.Generator().manual_seed(0)
    batches = [torch.randn(4, 3, 5, 5, generator=random) + torch.tensor([0.0, -1.0, 9.0])[:, None, None]] * 1
    batches += [torch.randn(4, 3, 5, 5, generator=random) * (k + 1) - k for k in range(3)]
    for batch in batches:
        batch[:, 2] = batch[:, 2].abs()
    margin = Margin(3, limit=3)
    for k in range(3):
        torch.testing.assert_close(margin(batches[k]).double(), negative_means(*batches[: k + 1]))
    fixed = negative_means(*batches[:3])
    torch.testing.assert_close(margin(batches[3]).double(), fixed)
    torch.testing.assert_close(margin(batches[3] * 100).double(), fixed)
    assert fixed[2] == 0 and margin.batches.item() == 3


def test_margin_of_a_normal_channel_is_that_of_its_batch_norm() -> None:
    """Where the map is a batch norm's result alone, released code's closed form and the estimate agree."""
    random = torch.Generator().manual_seed(1)
    mean, std = torch.tensor([0.5, -1.0, 1.5]), torch.tensor([1.0, 0.5, 1.0])
    maps = torch.randn(64, 3, 32, 32, generator=random) * std[:, None, None] + mean[:, None, None]
    expected = []
    for m, s in zip(mean.tolist(), std.tolist(), strict=True):
        below = 0.5 * math.erfc(m / s / math.sqrt(2))
        expected.append(m - s * math.exp(-((m / s) ** 2) / 2) / math.sqrt(2 * math.pi) / below)
    torch.testing.assert_close(Margin(3, 10)(maps), torch.tensor(expected), rtol=0.02, atol=0)


def test_dead_channels_stay_finite() -> None:
    margin = Margin(2, 10)
    assert margin(torch.zeros(3, 2, 4, 4)).tolist() == [0.0, 0.0]
    assert margin(-torch.ones(3, 2, 4, 4)).tolist() == [-1.0, -1.0]


@pytest.mark.parametrize(("stages", "decay"), [(None, 0.5), ([[2, 1], [1, 2], [3, 3]], 0.25)])
def test_the_whole_loss(stages: list | None, decay: float) -> None:
    """Connector by hand, the margin from the teacher's full map, the larger map pooled, deep stages counting most."""
    setup = make_setup()
    objectives = build({"type": "ofd", "stages": stages, "decay": decay, "weight": 2}, setup)
    case, member = make_case(setup, 5), objectives.members["one"]
    expected = case.student_pooled.new_zeros(())
    for number, (s, t) in enumerate(member.pairs):
        x, y = case.student.preact[s], case.teacher.preact[t].detach()
        margin = negative_means(y)
        while x.shape[-1] != y.shape[-1]:
            if x.shape[-1] > y.shape[-1]:
                x = (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
            else:
                y = (y[..., ::2, ::2] + y[..., 1::2, ::2] + y[..., ::2, 1::2] + y[..., 1::2, 1::2]) / 4
        connector = member.connectors[number]
        x = torch.einsum("oc,nchw->nohw", connector.conv.weight[:, :, 0, 0], x)
        mean = x.mean(dim=(0, 2, 3), keepdim=True)
        x = (x - mean) / (((x - mean) ** 2).mean(dim=(0, 2, 3), keepdim=True) + 1e-5).sqrt()
        expected = expected + decay ** (2 - number) * loops(x, y, margin)
    report = case.run(objectives)
    torch.testing.assert_close(report.parts["one"], expected.detach())
    wanted = torch.autograd.grad(2 * expected, case.student_pooled, retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(report.total, case.student_pooled)[0], wanted)


def test_margins_are_state_and_not_parameters() -> None:
    objectives = build({"type": "ofd"}, make_setup())
    assert len(objectives.state_names) == 9 and {name.rpartition(".")[2] for name in objectives.state_names} == {
        "below",
        "share",
        "batches",
    }
    assert all("connectors" in name for name, _ in objectives.named_parameters())


def test_both_networks_must_hand_out_preactivations() -> None:
    wanted = needs({"ofd": {}})
    assert wanted.preact and not wanted.stages and not wanted.teacher_logits
    setup = make_setup()
    for role, name in (("student", "small"), ("teacher", "large")):
        without = replace(setup, **{role: replace(getattr(setup, role), preact=False)})
        with pytest.raises(ConfigError, match=f"{name} ends a stage in an activation that cannot be tapped"):
            ObjectiveSet({"ofd": {}}, without)


@pytest.mark.parametrize("decay", [0, 1.5])
def test_decay_is_a_share(decay: float) -> None:
    with pytest.raises(ConfigError, match=r"decay"):
        ObjectiveSet({"ofd": {"decay": decay}}, make_setup())
