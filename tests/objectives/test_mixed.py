"""Mixed images: which objectives take them is held to what they read, and cross-entropy takes both labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdray.errors import ConfigError
from kdray.objectives import Mixed, ObjectiveSet, Setup, methods, parse

from .cases import EVERY, STEP, Case, build, case_id, make_case, make_setup, mapped, views_of
from .test_ce import loops

KEYED_BY_INDEX = {"cc"}
"""Sound on mixed images, though the row number is read: who is whose neighbour is drawn from it, and nothing else."""

BY_PLACE = {"simclr"}
"""Not sound, though neither label nor row number is read: other images of the batch, which hold parts of an image, are
pushed away from it."""

FORMS: list[dict[str, Any]] = [
    *EVERY,
    {"type": "mcld.instance", "mask": "none"},
    {"type": "mcld.sample", "mask": "none"},
    # Composites without the members that refuse.
    {"type": "mcld", "instance": {"mask": "none"}, "sample": {"mask": "none"}, "ce": {"weight": 0}},
    {"type": "mlkd", "supervised": {"weight": 0}, "ce": {"weight": 0}},
    {"type": "clmkd", "class_guided": {"weight": 0}, "gradient_relation": {"weight": 0}, "ce": {"weight": 0}},
]

every = pytest.mark.parametrize("params", FORMS, ids=case_id)


def takes_mixed(params: dict[str, Any]) -> bool:
    (entry,) = parse({"one": params})
    return entry.objective.takes_mixed(entry.options)


def trace(case: Case, params: dict[str, Any], setup: Setup) -> list[Tensor]:
    """Loss, gradients and state after two steps."""
    objectives = build(params, setup)
    found = []
    for _ in range(2):
        total = case.run(objectives).total
        leaves = [case.student_pooled, *objectives.parameters()]
        found += [total, *torch.autograd.grad(total, leaves, retain_graph=True, allow_unused=True)]
    return [x for x in [*found, *objectives.state_dict().values()] if x is not None]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("params", [form for form in FORMS if form["type"] != "ce"], ids=case_id)
def test_who_takes_mixed_images_reads_no_label_and_no_row_number(params: dict[str, Any]) -> None:
    """And who does not, reads one of them; both with exceptions that have a reason. (`ce` reads both labels.)"""
    setup = make_setup(views=views_of(params))
    case = make_case(setup, 8)
    other = make_case(setup, 8, seed=1).targets
    labels = (case.targets.labels + 1 + torch.arange(8) % 3) % setup.num_classes
    index = case.targets.index if params["type"] in KEYED_BY_INDEX else other.index
    changed = replace(case, targets=replace(case.targets, labels=labels, index=index))
    # The labels of the training set are no way round either.
    shuffled = replace(setup, labels=None if setup.labels is None else setup.labels[::-1].copy())
    reads_none = same(trace(case, params, setup), trace(changed, params, shuffled))
    assert reads_none == (takes_mixed(params) or params["type"] in BY_PLACE)


def test_the_index_of_neighbours_is_a_key_and_nothing_else() -> None:
    """Another index draws other neighbours; where all differences are alike, no loss changes with it."""
    setup = make_setup()
    case = make_case(setup, 8)
    with torch.no_grad():
        for tensor in (case.student_pooled, case.teacher_pooled):
            tensor.copy_(tensor[:1].expand_as(tensor))
    again = replace(case, targets=replace(case.targets, index=make_case(setup, 8, seed=1).targets.index))
    one, other = (x.run(build({"type": "cc", "dim": 7}, setup)).total for x in (case, again))
    torch.testing.assert_close(one, other)


def test_every_method_declares_it_itself() -> None:
    """Never by what it inherits: a variant of a method may read more than that does."""
    assert not [name for name, cls in methods().items() if cls.mixable and "mixable" not in vars(cls)]


def test_one_of_the_users_has_to_say_so() -> None:
    setup = replace(make_setup(), mixed=True)
    one = {"type": "tests.objectives.user_objectives:Gap"}
    with pytest.raises(ConfigError, match=r"objectives\.own: its class does not say .* Declare mixable = True"):
        ObjectiveSet({"own": one}, setup)
    ObjectiveSet({"own": one}, make_setup())


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_cross_entropy_is_that_of_both_labels(share: float, smoothing: float, views: int) -> None:
    setup = make_setup(views=views)
    case = make_case(setup, 6)
    others = case.targets.labels.roll(2)
    mixed = replace(case, targets=replace(case.targets, mixed=Mixed(others, share)))
    ours = mixed.part(build({"type": "ce", "label_smoothing": smoothing}, setup))
    one, two = (loops(case.student.logits, x.repeat(views), smoothing) for x in (case.targets.labels, others))
    theirs = share * one + (1 - share) * two
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(
        *(torch.autograd.grad(x, case.student_pooled, retain_graph=True)[0] for x in (ours, theirs))
    )


def test_cross_entropy_waits_for_no_value() -> None:
    setup = make_setup(views=2)
    case = make_case(setup, 6, dtype=torch.float32)
    (member,) = build({"type": "ce"}, setup, torch.float32).members.values()
    labels = case.targets.labels.to("meta")
    targets = replace(case.targets, labels=labels, mixed=Mixed(labels, 0.3))
    (part,) = member(targets, mapped(case.student, lambda x: x.to("meta")), None, None, None, STEP).values()
    assert part.device.type == "meta" and part.shape == ()


def test_cross_entropy_of_the_first_view_takes_both_labels() -> None:
    setup = make_setup(views=2)
    case = make_case(setup, 6)
    others = case.targets.labels.roll(1)
    mixed = replace(case, targets=replace(case.targets, mixed=Mixed(others, 0.25)))
    logits = case.student.logits[:6]
    theirs = 0.25 * loops(logits, case.targets.labels, 0.0) + 0.75 * loops(logits, others, 0.0)
    torch.testing.assert_close(mixed.part(build({"type": "ce", "views": "first"}, setup)), theirs)


def test_cross_entropy_of_mixed_labels_equals_one_of_a_soft_target() -> None:
    setup = make_setup()
    case = make_case(setup, 6)
    mixed = replace(case, targets=replace(case.targets, mixed=Mixed(case.targets.labels.roll(1), 0.7)))
    hot = torch.nn.functional.one_hot(case.targets.labels, setup.num_classes).double()
    target = 0.9 * (0.7 * hot + 0.3 * hot.roll(1, dims=0)) + 0.1 / setup.num_classes
    theirs = -(target * case.student.logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(mixed.part(build({"type": "ce", "label_smoothing": 0.1}, setup)), theirs)


@every
def test_a_set_takes_or_refuses_them(params: dict[str, Any]) -> None:
    setup = replace(make_setup(views=views_of(params)), mixed=True)
    if takes_mixed(params):
        ObjectiveSet({"one": params}, setup)
        return
    with pytest.raises(ConfigError) as caught:
        ObjectiveSet({"ce": {}, "one": params}, setup)
    said = str(caught.value)
    assert said.startswith("objectives.one: it takes each image for one of one class") and "data.mix: false" in said
    assert " at, cc, ce, ckd, " in said and " dkd," not in said


def test_a_member_of_weight_0_refuses_nothing() -> None:
    setup = replace(make_setup(views=4), mixed=True)
    members = {"ce": {}, "dkd": {"weight": 0}, "mlkd": {"supervised": {"weight": 0}}}
    assert list(ObjectiveSet(members, setup).members) == ["ce", "mlkd"]
    with pytest.raises(ConfigError, match=r"objectives\.mlkd: it takes each image .*\(with these options\)"):
        ObjectiveSet(members | {"mlkd": {}}, setup)


def test_the_page_names_them() -> None:
    """docs/mix.md says of each method whether it takes mixed images, with which options."""
    page = (Path(__file__).parents[2] / "docs" / "mix.md").read_text(encoding="utf-8")
    taken, by_options, refused = (
        set(part.partition("\n\n")[0].replace("\n", " ").split("`")[1::2])
        for part in (page.partition(start)[2] for start in ("\nTaken: ", "\nWith some options: ", "\nRefused: "))
    )
    forms: dict[str, set[bool]] = {}
    for params in FORMS:
        forms.setdefault(params["type"], set()).add(takes_mixed(params))
    assert taken == {name for name, found in forms.items() if found == {True}}
    assert refused == {name for name, found in forms.items() if found == {False}}
    assert {name for name, found in forms.items() if len(found) == 2} <= by_options
