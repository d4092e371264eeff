from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdray.errors import ConfigError
from kdray.experiment.schema import ModelSpec
from kdray.models.outputs import ModelInfo
from kdray.models.zoo import describe
from kdray.objectives import ObjectiveSet
from kdray.objectives.semckd import SemCKD, SemCKDConfig, assigned_distance, quantiles, similarities

from .cases import build, make_case, make_setup


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(2, 4), st.integers(1, 4), st.integers(0, 99))
def test_shares_equal_loops(rows: int, own: int, other: int, dim: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    distances = torch.rand(rows, own, other, generator=random, dtype=torch.float64)
    queries = torch.randn(rows, own, dim, generator=random, dtype=torch.float64, requires_grad=True)
    keys = torch.randn(rows, other, dim, generator=random, dtype=torch.float64, requires_grad=True)
    expected = queries.new_zeros(())
    for n in range(rows):
        for s in range(own):
            weights = torch.stack([(queries[n, s] * keys[n, t]).sum().exp() for t in range(other)])
            for t in range(other):
                expected = expected + weights[t] / weights.sum() * distances[n, s, t] / (rows * own)
    ours = assigned_distance(distances, queries, keys)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(*(torch.autograd.grad(x, (queries, keys)) for x in (ours, expected)))


def test_quantiles_are_torchs_and_know_no_order() -> None:
    values = torch.randn(4, 9, dtype=torch.float64)
    expected = torch.quantile(values, torch.linspace(0, 1, 5, dtype=torch.float64), dim=1).T
    torch.testing.assert_close(quantiles(values, 5), expected)
    assert torch.equal(quantiles(values[:, torch.randperm(9)], 5), quantiles(values, 5))
    torch.testing.assert_close(quantiles(values, 9), values.sort(dim=1).values)
    torch.testing.assert_close(quantiles(values.repeat(1, 2), 2), quantiles(values, 2))
    torch.testing.assert_close(quantiles(values[:, :1], 3), values[:, :1].expand(-1, 3))


def test_similarities_by_loops() -> None:
    maps = torch.randn(3, 2, 2, 3, dtype=torch.float64)
    for i in range(3):
        for j in range(3):
            assert similarities(maps, maps)[i, j].item() == pytest.approx((maps[i] * maps[j]).mean().item())


def normed(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    mean = x.mean(dim=(0, 2, 3), keepdim=True)
    x = (x - mean) / (((x - mean) ** 2).mean(dim=(0, 2, 3), keepdim=True) + 1e-5).sqrt()
    return x * scale[None, :, None, None] + shift[None, :, None, None]


def halved(x: Tensor) -> Tensor:
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


@pytest.mark.parametrize("attend", ["similarity", "pooled"])
def test_the_whole_loss(attend: str) -> None:
    setup = make_setup()
    objectives = build({"type": "semckd", "attend": attend, "quantiles": 4, "dim": 5, "weight": 3}, setup)
    case, member = make_case(setup, 5), objectives.members["one"]
    stages = case.student.stages, [x.detach() for x in case.teacher.stages]

    def embedded(module: torch.nn.Module, maps: Tensor) -> Tensor:
        if attend == "pooled":
            seen = maps.mean(dim=(2, 3))
        else:
            products = torch.stack([torch.stack([(a * b).mean() for b in maps]) for a in maps])
            seen = torch.quantile(products, torch.linspace(0, 1, 4, dtype=maps.dtype), dim=1).T
        hidden = (seen @ module[0].weight.T + module[0].bias).clamp_min(0)
        out = hidden @ module[2].weight.T + module[2].bias
        return out / (out**2).sum(dim=1, keepdim=True).sqrt()

    total = case.student_pooled.new_zeros(())
    for s, x in enumerate(stages[0]):
        query = embedded(member.queries[s], x)
        scores = torch.stack([(query * embedded(member.keys[t], y)).sum(dim=1) for t, y in enumerate(stages[1])], 1)
        shares = scores.exp() / scores.exp().sum(dim=1, keepdim=True)
        for t, y in enumerate(stages[1]):
            own, wanted, layers = x, y, member.translations[s][t]
            while own.shape[-1] != wanted.shape[-1]:
                own, wanted = (halved(own), wanted) if own.shape[-1] > wanted.shape[-1] else (own, halved(wanted))
            own = torch.einsum("oc,nchw->nohw", layers[0].weight[:, :, 0, 0], own)
            own = normed(own, layers[1].weight, layers[1].bias).clamp_min(0)
            own = torch.nn.functional.conv2d(own, layers[3].weight, padding=1)
            own = normed(own, layers[4].weight, layers[4].bias).clamp_min(0)
            own = torch.einsum("oc,nchw->nohw", layers[6].weight[:, :, 0, 0], own)
            for n in range(5):
                total = total + shares[n, t] * ((own[n] - wanted[n]) ** 2).mean() / (5 * 3)
    report = case.run(objectives)
    torch.testing.assert_close(report.parts["one"], total.detach())
    wanted = torch.autograd.grad(3 * total, case.student_pooled, retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(report.total, case.student_pooled)[0], wanted)


def test_zero_where_every_translation_finds_its_teacher() -> None:
    """Whatever the attention says; and teacher stages that are all found count nothing."""
    queries, keys = torch.randn(4, 3, 5), torch.randn(4, 2, 5)
    assert assigned_distance(torch.zeros(4, 3, 2), queries, keys).item() == 0.0
    assert assigned_distance(torch.full((4, 3, 2), 7.0), queries, keys).item() == pytest.approx(7.0)


def test_attention_learns_which_stage_is_near() -> None:
    """One teacher stage costs 1, the other 0: training queries and keys moves the shares to the latter."""
    torch.manual_seed(0)
    queries, keys = torch.randn(4, 1, 5, requires_grad=True), torch.randn(4, 2, 5, requires_grad=True)
    distances = torch.tensor([1.0, 0.0]).expand(4, 1, 2)
    optimizer = torch.optim.SGD([queries, keys], lr=1.0)
    values = []
    for _ in range(200):
        optimizer.zero_grad()
        value = assigned_distance(distances, queries, keys)
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.1 < values[0]


def networks(student: str, teacher: str) -> SemCKD:
    one, two = (describe(ModelSpec(model=name), 100, 32) for name in (student, teacher))
    return SemCKD(SemCKDConfig(), replace(make_setup(), student=one, teacher=two))


def test_every_stage_of_one_meets_every_stage_of_the_other() -> None:
    member = networks("mobilenetv2", "resnet20")
    assert (member.own, member.other) == ([0, 1, 2, 3], [0, 1, 2])
    assert [len(row) for row in member.translations] == [3, 3, 3, 3]
    member = networks("resnet8", "vgg8")
    assert (member.own, member.other) == ([0, 1, 2], [1, 2, 3, 4])


def test_channels_inside_the_translations() -> None:
    def inside(**params: int) -> list[int]:
        member = SemCKD(SemCKDConfig.model_validate(params), make_setup())
        return [translation[3].in_channels for translation in member.translations[0]]

    assert inside() == [10, 14, 18] and inside(hidden=3) == [3, 3, 3]


def test_chosen_stages() -> None:
    options = SemCKDConfig.model_validate({"stages": [[3, 1], [3, 2], [1, -1]]})
    member = SemCKD(options, make_setup())
    assert (member.own, member.other) == ([0, 2], [0, 1, 2])


def test_one_teacher_stage_is_no_choice() -> None:
    flat = ModelInfo("flat", num_classes=5, pooled_dim=6, stage_shapes=((4, 8, 8),))
    with pytest.raises(ConfigError, match=r"chooses among stages of the teacher, and there is one: small has"):
        ObjectiveSet({"semckd": {}}, replace(make_setup(), teacher=flat))
    with pytest.raises(ConfigError, match=r"there is one"):
        ObjectiveSet({"semckd": {"stages": [[1, 1], [2, 1]]}}, make_setup())
    assert len(ObjectiveSet({"semckd": {}}, replace(make_setup(), student=flat)).members["semckd"].own) == 1


def test_the_number_of_rows_is_free() -> None:
    """Released code ties the heads to the batch size; here the last, short batch has its own number of rows."""
    setup = make_setup()
    objectives = build({"type": "semckd", "dim": 4}, setup)
    for rows in (1, 3, 16):
        assert make_case(setup, rows).run(objectives).total.isfinite()
