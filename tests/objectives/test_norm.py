from __future__ import annotations

import pytest
import torch
from torch import nn

from kdray.objectives.norm import BatchNorm, KeptBatchNorm


@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5, 2)])
def test_is_torchs_batch_norm_in_training(shape: tuple[int, ...]) -> None:
    x = (torch.randn(*shape, dtype=torch.float64) * 3 + 100).requires_grad_()
    y = x.detach().clone().requires_grad_()
    ours = BatchNorm(3).double()
    theirs = (nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)(3).double()
    with torch.no_grad():
        for one in (ours, theirs):
            one.weight.copy_(torch.tensor([1.0, -2.0, 0.5]))
            one.bias.copy_(torch.tensor([0.0, 1.0, 3.0]))
    grad = torch.randn(*shape, dtype=torch.float64)
    got, wanted = ours(x), theirs(y)
    torch.testing.assert_close(got, wanted)
    got.backward(grad)
    wanted.backward(grad)
    torch.testing.assert_close(x.grad, y.grad)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)


def test_one_row_and_equal_rows_stay_finite() -> None:
    norm = BatchNorm(3)
    for x in (torch.full((1, 3), 7.0), torch.full((4, 3), -2.0)):
        x.requires_grad_()
        out = norm(x)
        out.sum().backward()
        assert torch.equal(out, torch.zeros_like(out)) and torch.isfinite(x.grad).all()


def test_float32_far_from_zero_keeps_its_digits() -> None:
    x = torch.randn(64, 3, dtype=torch.float64) + 1e4
    torch.testing.assert_close(BatchNorm(3)(x.float()).double(), BatchNorm(3).double()(x), rtol=0, atol=5e-3)


def test_nothing_to_save_but_scale_and_shift() -> None:
    assert set(BatchNorm(3).state_dict()) == {"weight", "bias"}


def test_without_scale_and_shift() -> None:
    x = torch.randn(6, 3, dtype=torch.float64) * 3 + 1
    norm = BatchNorm(3, affine=False, eps=0.1)
    torch.testing.assert_close(norm(x), nn.BatchNorm1d(3, affine=False, eps=0.1).double()(x))
    assert list(norm.parameters()) == [] and norm.state_dict() == {}


def test_kept_statistics_are_torchs_in_training_and_in_evaluation() -> None:
    ours, theirs = KeptBatchNorm(3).double(), nn.BatchNorm2d(3).double()
    for _ in range(3):
        x = torch.randn(4, 3, 5, 2, dtype=torch.float64) * 3 + 2
        torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_kept_statistics_of_a_single_value_stay_finite() -> None:
    norm = KeptBatchNorm(2)
    norm(torch.full((1, 2, 1, 1), 5.0))
    assert torch.equal(norm.running_mean, torch.full((2,), 0.5)) and torch.equal(
        norm.running_var, torch.full((2,), 0.9)
    )
