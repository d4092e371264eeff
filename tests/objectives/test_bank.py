from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kdray.objectives import bank as bank_module
from kdray.objectives.bank import Bank, sample_means


@pytest.mark.parametrize("limits", [{}, {"_DENSE_FACTOR": 0}, {"_DENSE_FACTOR": 0, "_CHUNK_BYTES": 1}], ids=str)
def test_scores_and_combine_equal_loops(limits: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in limits.items():
        monkeypatch.setattr(bank_module, name, value)
    bank, rows = Bank(12, 5), torch.randn(4, 5)
    index = torch.randint(0, 12, (4, 7))  # repeats are likely, and count twice
    weights = torch.randn(4, 7)
    scores = torch.tensor([[float(rows[i] @ bank.vectors[j]) for j in index[i]] for i in range(4)])
    torch.testing.assert_close(bank.scores(rows, index), scores)
    mixed = torch.stack([sum(w * bank.vectors[j] for w, j in zip(weights[i], index[i], strict=True)) for i in range(4)])
    torch.testing.assert_close(bank.combine(weights, index), mixed)


def test_reads_are_rows() -> None:
    bank, index = Bank(12, 5), torch.randint(0, 12, (4, 7))
    assert bank.locate(index) is index
    assert torch.equal(bank.read(index), bank.vectors[index])
    assert torch.equal(bank.read_common(index[0]), bank.vectors[index[0]])


def test_update_of_a_repeated_sample_takes_the_mean_and_leaves_the_rest() -> None:
    bank = Bank(5, 3)
    old, rows = bank.vectors.clone(), torch.randn(3, 3)
    bank.update(torch.tensor([4, 1, 4]), rows, 0.25)
    for i, row in ((4, (rows[0] + rows[2]) / 2), (1, rows[1])):
        mixed = 0.25 * old[i] + 0.75 * row
        torch.testing.assert_close(bank.vectors[i], mixed / mixed.norm())
    assert torch.equal(bank.vectors[[0, 2, 3]], old[[0, 2, 3]])


def test_rows_of_one_sample_bring_the_same_vector() -> None:
    """Whichever is written last, on whatever device."""
    index = torch.tensor([3, 1, 3, 0, 3, 3, 1, 3, 3, 4, 3])
    rows = torch.randn(11, 6, dtype=torch.float64)
    mean, first = sample_means(index, rows)
    assert first.tolist() == [index.tolist().index(i) for i in index.tolist()]
    torch.testing.assert_close(mean, torch.stack([rows[index == i].mean(dim=0) for i in index]))
    moved = Bank(5, 6)._moved(index, index, rows, 0.5)
    assert torch.equal(moved, moved[first])


def test_rows_that_are_alone_are_taken_to_the_bit() -> None:
    index, rows = torch.randperm(50)[:33], torch.randn(33, 7)
    mean, first = sample_means(index, rows)
    assert torch.equal(mean, rows) and torch.equal(first, torch.arange(33))


def test_an_update_makes_nothing_of_the_size_of_all_pairs() -> None:
    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            found = [x.numel() for x in result if isinstance(x, torch.Tensor)] if isinstance(result, tuple) else []
            self.numel = max([self.numel, *found, result.numel() if isinstance(result, torch.Tensor) else 0])
            return result

    bank, rows, index = Bank(300, 4), torch.randn(400, 4), torch.randint(0, 300, (400,))
    with Largest() as largest:
        bank.update(index, rows, 0.5)
    assert largest.numel == rows.numel()


def test_starts_at_unit_vectors_and_is_no_parameter() -> None:
    bank = Bank(9, 4)
    torch.testing.assert_close(bank.vectors.norm(dim=1), torch.ones(9))
    assert list(bank.parameters()) == [] and list(bank.state_dict()) == ["vectors"]
    assert Bank.bytes(9, 4) == bank.vectors.numel() * bank.vectors.element_size()
