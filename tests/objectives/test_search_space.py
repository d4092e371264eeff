"""Default spaces: every method's parses, fits its options, and lies around its default."""

from __future__ import annotations

from typing import Any

import pytest

from kdray.errors import ConfigError
from kdray.experiment import Experiment, experiment_from_dict, get_path, with_changes
from kdray.experiment.distributions import Choice
from kdray.objectives.combine import Composite, ObjectiveSet
from kdray.objectives.registry import methods, parse
from kdray.objectives.search_space import default_space, space_of

from .cases import EVERY, case_id, make_setup, views_of

NO_SPACE = {"ce"}  # its weight is what all others are measured by
BASE: dict[str, Any] = {
    "data": {"source": "digits"},
    "student": {"model": "m"},
    "teacher": {"model": "t", "weights": "w"},
    "train": {"epochs": 5, "batch": 8, "optimizer": {"lr": 0.1}},
}


def build(objectives: dict[str, Any], search: dict[str, Any] | None = None) -> Experiment:
    return experiment_from_dict(BASE | {"objectives": objectives, "search": search})


@pytest.mark.parametrize("name", list(methods()))
def test_every_method_has_a_space(name: str) -> None:
    assert bool(default_space({name: {}}).names()) == (name not in NO_SPACE)


@pytest.mark.parametrize("params", EVERY, ids=case_id)
def test_every_form_takes_both_ends_of_all_that_is_searched(params: dict[str, Any]) -> None:
    """Of the options that tests put every method through, too: what they leave unused is not searched."""
    e = build({"x": params, "ce": {}})
    space = default_space(e.objectives)
    for name, one in space.parameters.items():
        for value in one.values if isinstance(one, Choice) else (one.low, one.high):
            trial = with_changes(e, {name: value})
            assert get_path(trial.objectives, name.removeprefix("objectives.")) == value
            options = parse(trial.objectives)[0].options
            for key in name.split(".")[2:]:
                options = getattr(options, key)
            assert options == value


@pytest.mark.parametrize("params", EVERY, ids=case_id)
def test_no_end_changes_the_shape_of_heads_or_state(params: dict[str, Any]) -> None:
    """Or pbt could not go on with another trial's checkpoint."""
    e, setup = build({"x": params}), make_setup(views=views_of(params))
    space = default_space(e.objectives)

    def shapes(changes: dict[str, Any]) -> dict[str, Any]:
        objectives = ObjectiveSet(with_changes(e, changes).objectives, setup)
        return {key: tensor.shape for key, tensor in objectives.state_dict().items()}

    for end in ("low", "high"):
        assert shapes({name: getattr(one, end) for name, one in space.parameters.items()}) == shapes({})


@pytest.mark.parametrize("name", sorted(set(methods()) - NO_SPACE))
def test_the_default_lies_inside(name: str) -> None:
    options = methods()[name].config()
    for path, one in default_space({name: {}}).parameters.items():
        value: Any = options
        for key in path.removeprefix(f"objectives.{name}.").split("."):
            value = getattr(value, key)
        assert not isinstance(one, Choice) and one.low <= value <= one.high, (path, value)


def test_a_composite_searches_its_members_that_take_part() -> None:
    for name, cls in methods().items():
        if issubclass(cls, Composite):
            names = default_space({name: {}}).names()
            options = cls.config()
            for member, inner in cls.members_of.items():
                taken = getattr(options, member).weight > 0 and bool(inner.search_space)
                assert any(path.startswith(f"objectives.{name}.{member}.") for path in names) == taken
    without = default_space({"clmkd": {"gradient_relation": {"weight": 0}, "kd": {"weight": 0}}}).names()
    assert not [path for path in without if "gradient_relation" in path or ".kd." in path]
    assert "objectives.mcld.kd.weight" in default_space({"mcld": {"kd": {"weight": 1}}}).names()


def test_what_options_leave_unused_is_not_searched() -> None:
    def found(name: str, **options: Any) -> dict[str, str]:
        texts = default_space({name: options}).texts()
        return {path.removeprefix(f"objectives.{name}."): text for path, text in texts.items()}

    assert {"positives", "negatives", "momentum"} <= set(found("clmkd.class_guided"))
    assert set(found("clmkd.class_guided", mode="inbatch")) == {"weight", "temperature"}
    assert "gradient_temperature" not in found("crcd", source="feature")
    assert "gradient_temperature" not in found("clmkd.gradient_relation", source="feature")
    assert found("clmkd.semantic_similarity", form="sp") == {"weight": "loguniform(300, 10000)"}
    assert "delta" not in found("intra_class", margin="logit")


def test_names_are_absolute_and_weight_0_is_left_out() -> None:
    space = default_space({"ce": {}, "kd": {"weight": 0}, "soft": {"type": "kd"}, "rkd": {}})
    wanted = [
        "objectives.soft.weight",
        "objectives.soft.temperature",
        "objectives.rkd.distance",
        "objectives.rkd.angle",
    ]
    assert space.names() == wanted


def test_two_objectives_of_one_path_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"objectives\.mcld\.instance\.weight: is a path of two objectives"):
        default_space({"mcld": {}, "mcld.instance": {}})


def test_a_method_of_ones_own_may_have_a_space(monkeypatch: pytest.MonkeyPatch) -> None:
    from . import user_objectives

    reference = f"{user_objectives.__name__}:Gap"
    assert default_space({"gap": {"type": reference}}).names() == []
    monkeypatch.setattr(user_objectives.Gap, "search_space", {"power": "uniform(1, 3)"})
    assert default_space({"gap": {"type": reference}}).texts() == {"objectives.gap.power": "uniform(1, 3)"}
    monkeypatch.setattr(user_objectives.Gap, "search_space", {"power": "unifrom(1, 3)"})
    with pytest.raises(ConfigError, match=r"objectives\.gap\.power: the search_space of Gap says 'unifrom"):
        default_space({"gap": {"type": reference}})


def test_space_of_an_experiment() -> None:
    own = {"space": {"train.optimizer.lr": "loguniform(0.01, 1)"}}
    assert space_of(build({"ce": {}}, own)).names() == ["train.optimizer.lr"]
    assert space_of(build({"ce": {}, "kd": {}}, {})) == default_space({"kd": {}})
    with pytest.raises(ConfigError, match="there is no search"):
        space_of(build({"ce": {}}))
    with pytest.raises(ConfigError, match=r"search\.space: there is nothing to search: no objective has a space"):
        space_of(build({"ce": {}}, {}))
    with pytest.raises(ConfigError, match=r"search\.space: there is nothing to search\. "):
        space_of(build({"ce": {}}, {"space": {}}))
    with pytest.raises(ConfigError, match=r"search\.space\.objectives\.kd\.weight: a grid cannot count"):
        space_of(build({"ce": {}, "kd": {}}, {"searcher": "grid"}))


@pytest.mark.parametrize("name", sorted(set(methods()) - NO_SPACE))
@pytest.mark.parametrize("way", [{"searcher": "cma_es"}, {"searcher": "gp"}, {"scheduler": "pbt"}])
def test_default_spaces_go_with_all_but_a_grid(name: str, way: dict[str, str]) -> None:
    assert space_of(build({name: {}}, way)).names()
