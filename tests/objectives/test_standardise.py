from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdray.objectives import methods
from kdray.objectives.standardise import standardise


def loops(logits: torch.Tensor) -> torch.Tensor:
    rows = []
    for row in logits:
        mean = sum(row) / len(row)
        deviation = (sum((x - mean) ** 2 for x in row) / (len(row) - 1)) ** 0.5
        rows.append(torch.stack([(x - mean) / (deviation + 1e-7) for x in row]))
    return torch.stack(rows)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 5), st.integers(2, 6), st.floats(0.1, 100), st.integers(0, 1000))
def test_equals_loops(rows: int, classes: int, scale: float, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(rows, classes, generator=random, dtype=torch.float64)
    logits.requires_grad_()
    weights = torch.randn(rows, classes, generator=random, dtype=torch.float64)
    ours, theirs = (logits_of * weights for logits_of in (standardise(logits), loops(logits)))
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(x.sum(), logits)[0] for x in (ours, theirs)]
    torch.testing.assert_close(*gradients, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shift", [0.0, 0.1, -7.3, 1e4])
@pytest.mark.parametrize("classes", [1, 2, 7, 1000])
def test_a_row_without_spread_is_zero_and_gets_no_gradient(classes: int, shift: float, dtype: torch.dtype) -> None:
    logits = torch.full((3, classes), shift, dtype=dtype)
    if classes > 1:
        logits[1] = torch.linspace(-1, 1, classes, dtype=dtype)
    logits.requires_grad_()
    result = standardise(logits)
    (gradient,) = torch.autograd.grad(result.square().sum() + result[:, 0].sum(), logits)
    assert torch.isfinite(result).all() and torch.isfinite(gradient).all()
    assert not result[[0, 2]].any() and not gradient[[0, 2]].any()
    assert classes == 1 or result[1].std().item() == pytest.approx(1.0, rel=1e-5)


def test_every_method_that_compares_logits_takes_it() -> None:
    logits = {name: cls for name, cls in methods().items() if cls.family == "logits"}
    assert "kd" in logits
    assert [name for name, cls in logits.items() if "standardise" not in cls.config.model_fields] == []
