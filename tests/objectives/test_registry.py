from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdray.errors import ConfigError
from kdray.objectives import Needs, ObjectiveSet, list_methods, methods, needs, normalise, parse, register
from kdray.objectives.ce import CE
from kdray.objectives.kd import KD

from . import user_objectives
from .cases import make_case, make_setup

USER = user_objectives.__name__


def said(objectives: Any, where: str = "objectives") -> str:
    with pytest.raises(ConfigError) as caught:
        parse(objectives, where)
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)
    return str(caught.value)


def test_every_module_of_the_package_is_found() -> None:
    assert set(methods()) >= {"ce", "kd", "clmkd", "clmkd.class_guided", "clmkd.gradient_relation"}
    assert methods()["kd"] is KD
    assert [row.name for row in list_methods()] == sorted(methods())


def test_names_are_methods_unless_a_type_stands_there() -> None:
    entries = parse({"ce": None, "kd": {}, "kd_hot": {"type": "kd", "temperature": 8}})
    assert [(e.name, e.objective) for e in entries] == [("ce", CE), ("kd", KD), ("kd_hot", KD)]
    assert entries[2].options.temperature == 8.0


@pytest.mark.parametrize(
    "objectives,expected",
    [
        ({"kdd": {}}, "objectives.kdd: unknown method 'kdd' (did you mean 'kd'?). `--list methods` names"),
        ({"hot": {"type": "kdd"}}, "objectives.hot.type: unknown method 'kdd' (did you mean 'kd'?)"),
        ({"clmkd.clas_guided": {}}, "did you mean 'clmkd.class_guided'?"),
        (
            {"kd": {"temprature": 4}},
            "objectives.kd.temprature: kd has no such parameter (did you mean 'temperature'?). "
            "Parameters: weight, schedule, temperature",
        ),
        ({"a.b": {"type": "kd", "temprature": 4}}, "objectives.a.b.temprature: kd has no such parameter"),
        ({"clmkd": {"kd": {"temprature": 4}}}, "objectives.clmkd.kd.temprature: clmkd has no such parameter"),
        ({"kd": {"temperature": 0}}, "objectives.kd.temperature: 0 should be greater than 0"),
        ({"kd": {"temperature": float("nan")}}, "objectives.kd.temperature: NaN should be a finite number"),
        ({"kd": {"temperature": "4"}}, 'objectives.kd.temperature: "4" should be a valid number'),
        ({"kd": {"weight": -1}}, "objectives.kd.weight: -1 should be greater than or equal to 0"),
        ({"kd": {"weight": True}}, "objectives.kd.weight: true should be a valid number"),
        ({"kd": {"schedule": {"type": "warmup"}}}, "objectives.kd.schedule: warmup needs `epochs` above 0"),
        (
            {"kd": {"schedule": "warm"}},
            "objectives.kd.schedule.type: \"warm\" should be 'constant', 'warmup', 'cosine'",
        ),
        ({"ce": {"label_smoothing": 1}}, "objectives.ce.label_smoothing: 1 should be less than 1"),
        (
            {"clmkd": {"gradient_relation": {"anchors": "bat"}}},
            "objectives.clmkd.gradient_relation.anchors: \"bat\" should be a valid integer or 'batch'",
        ),
        ({"clmkd": {"kd": 3}}, "objectives.clmkd.kd: 3 should be a map of parameters"),
        (
            {"clmkd.class_guided": {"dim": 0, "negatives": 0}},
            "dim: 0 should be greater than or equal to 1 (and 1 more)",
        ),
        ({"kd": 3}, "objectives.kd: 3 is not a map of parameters. Write `kd: {weight: 1}`"),
        ({"kd": {"type": 3}}, "objectives.kd.type: 3 is not a method's name"),
        ({"": {}}, "objectives.: this is no name for an objective"),
        ({"a/b": {"type": "kd"}}, "objectives.a/b: this is no name for an objective"),
        (["ce"], "objectives: ['ce'] is not a map of objectives"),
        ({}, "objectives: no objective is given"),
        ({"x": {"type": "nowhere.at.all:Loss"}}, "objectives.x.type: 'nowhere.at.all' cannot be imported"),
        ({"x": {"type": f"{USER}:Gapp"}}, "has no 'Gapp' (did you mean 'Gap'?)"),
        ({"x": {"type": f"{USER}:NOT_A_CLASS"}}, "it is not a subclass of kdray.objectives.Objective"),
        ({"x": {"type": "os:system"}}, "'os:system' is no objective: it is not a subclass"),
        ({"x": {"type": f"{USER}:Unwritten"}}, "it does not define forward"),
        ({"x": {"type": f"{USER}:Sourceless"}}, "it names no `family` or no `source`"),
        ({"x": {"type": f"{USER}:Oracle"}}, "its `provenance` is none of author-code, paper, reconstruction"),
        ({"x": {"type": f"{USER}:Gap", "pwer": 1}}, "has no such parameter (did you mean 'power'?)"),
    ],
    ids=str,
)
def test_what_cannot_be_is_said_in_one_line(objectives: Any, expected: str) -> None:
    assert expected in said(objectives)


def test_the_path_starts_where_the_caller_says() -> None:
    assert said({"kdd": {}}, "teacher.objectives").startswith("teacher.objectives.kdd: ")


def test_a_module_that_breaks_on_import_is_the_users_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_objectives.py").write_text("import torch\ntorch.nothing_of_this_name\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "cannot be imported: AttributeError" in said({"x": {"type": "broken_objectives:Loss"}})


def test_a_users_class_is_an_objective_like_any() -> None:
    setup = make_setup()
    case = make_case(setup)
    params = {"type": f"{USER}:Gap", "power": 1, "weight": 3}
    report = case.run(ObjectiveSet({"gap": params}, setup))
    assert report.weights == {"gap": 3.0, "gap.size": 0.0}
    assert report.parts["gap"] == report.parts["gap.size"]
    assert report.total.item() == pytest.approx(3 * report.parts["gap"].item())
    assert normalise({"gap": params})["gap"] == {"type": f"{USER}:Gap", "power": 1.0, "weight": 3.0}


def test_registering_checks_the_class() -> None:
    with pytest.raises(TypeError, match="names no `family` or no `source`"):
        register("sourceless")(user_objectives.Sourceless)
    with pytest.raises(TypeError, match=r"'kd' is registered twice: kdray\.objectives\.kd and"):
        register("kd")(user_objectives.Gap)


def test_normal_form_is_equal_for_what_means_the_same() -> None:
    one = normalise({"ce": None, "kd": {"type": "kd", "temperature": 4, "weight": 1}, "hot": {"type": "kd"}})
    assert one == normalise({"ce": {"weight": 1.0}, "kd": {"schedule": "constant"}, "hot": {"type": "kd"}})
    assert one == {"ce": {}, "kd": {}, "hot": {"type": "kd"}}
    assert normalise({"kd": {"weight": 0.9}}) == {"kd": {"weight": 0.9}} != normalise({"kd": {}})
    deep = normalise({"clmkd": {"class_guided": {"mode": "inbatch", "weight": 0.5}, "kd": {"temperature": 4}}})
    assert deep == {"clmkd": {"class_guided": {"weight": 0.5}}}


def test_normal_form_has_one_order() -> None:
    assert list(normalise({"kd": {}, "ce": {}})) == list(normalise({"ce": {}, "kd": {}})) == ["ce", "kd"]


def test_needs_are_those_of_all_with_a_weight() -> None:
    assert needs({"ce": {}}) == Needs(teacher=False)
    assert needs({"ce": {}, "kd": {"weight": 0}}) == Needs(teacher=False)
    assert needs({"ce": {}, "kd": {}}) == Needs(teacher_logits=True)
    memory = needs({"clmkd": {"class_guided": {"mode": "memory"}, "gradient_relation": {"weight": 0}}})
    assert memory == Needs(teacher_logits=True, teacher_pooled=True, index=True, labels=True)
