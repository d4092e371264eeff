from __future__ import annotations

import torch

from kdray.objectives.heads import Embed, Projection, off_diagonal, unit


def test_unit_of_a_dead_row_is_zero_with_zero_gradient() -> None:
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-12, 0.0]], requires_grad=True)
    y = unit(x)
    y.sum().backward()
    torch.testing.assert_close(y.detach(), torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.0, 0.0]]))
    assert x.grad is not None and torch.equal(x.grad[1:], torch.zeros(2, 2)) and x.grad[0].abs().sum() > 0


def test_heads_follow_the_dtype_of_their_input() -> None:
    x = torch.randn(3, 4, dtype=torch.float64)
    assert Projection(4, 2, bias=False)(x).dtype == torch.float64
    embedded = Embed(4, 5)(x)
    torch.testing.assert_close(embedded.norm(dim=1), torch.ones(3, dtype=torch.float64))


def test_off_diagonal_leaves_out_the_own_place() -> None:
    assert off_diagonal(2, 5, 2, torch.device("cpu")).tolist() == [
        [True, True, False, True, True],
        [True, True, True, False, True],
    ]
