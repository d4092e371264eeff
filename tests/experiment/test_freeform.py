"""Values with keys of their own: objectives, transforms, builder parameters. Only their form is checked here."""

import pytest
from pydantic import ValidationError

from kdray.experiment import Data, Experiment, ModelSpec, Teacher

DATA = {"source": "digits"}
TRAIN = {"epochs": 10, "batch": 8, "optimizer": {"lr": 0.1}}


def experiment(objectives):
    student = {"model": "resnet8"}
    return Experiment.model_validate({"data": DATA, "student": student, "objectives": objectives, "train": TRAIN})


def problem(call, *args, **values):
    with pytest.raises(ValidationError) as caught:
        call(*args, **values)
    (error,) = caught.value.errors()
    return ".".join(map(str, (*error["loc"], *error["ctx"]["at"]))), error["msg"]


def test_objectives_are_maps_by_name():
    assert experiment(objectives={"ce": None, "kd": {"temperature": 4}}).objectives == {
        "ce": {},
        "kd": {"temperature": 4},
    }
    assert problem(experiment, objectives={"ce": 1}) == (
        "objectives.ce",
        "1 stands where the objective's parameters belong. Write ce: {weight: 1}",
    )
    for bad in (["ce"], "ce", 1):
        assert problem(experiment, objectives=bad)[0] == "objectives"
    for bad in ("x", [1], True):
        assert problem(experiment, objectives={"ce": bad})[0] == "objectives.ce"
    assert problem(experiment, objectives={1: {}}) == ("objectives", 'the key 1 is not text. Write "1" in quotes')
    assert "empty name" in problem(experiment, objectives={"": {}})[1]


def test_the_teacher_learns_by_cross_entropy_unless_told():
    assert Teacher(model="m").objectives == {"ce": {}}
    assert Teacher.model_validate({"model": "m", "objectives": None}).objectives == {"ce": {}}
    assert problem(Teacher, model="m", objectives={})[0] == "objectives"


def test_transforms_have_one_form():
    data = Data.model_validate({**DATA, "augment": ["flip", {"flip": None}, {"flip": {}}, {"crop": {"pad": 4}}]})
    assert data.augment == ["flip", "flip", "flip", {"crop": {"pad": 4}}]


@pytest.mark.parametrize(
    ("bad", "path"),
    [
        ("flip", "augment"),
        ([1], "augment.0"),
        (["flip", ""], "augment.1"),
        ([{}], "augment.0"),
        ([{"": {}}], "augment.0"),
        ([{1: {}}], "augment.0"),
        ([None], "augment.0"),
        ([{"a": {}, "b": {}}], "augment.0"),
        ([{"resize": 256}], "augment.0.resize"),
        ([{"resize": False}], "augment.0.resize"),
        ([{"resize": {"size": float("nan")}}], "augment.0.resize.size"),
    ],
)
def test_transforms_are_names_with_maps(bad, path):
    assert problem(Data.model_validate, {**DATA, "augment": bad})[0] == path


def test_free_parameters_are_plain_data_and_not_shared():
    given = {"widths": (16, 32), "deep": {"x": None}}
    spec = ModelSpec(model="m", params=given)
    assert spec.params == {"widths": [16, 32], "deep": {"x": None}}
    given["deep"]["x"] = 1
    assert spec.params["deep"] == {"x": None}
    assert problem(ModelSpec, model="m", params={"a": [object()]})[0] == "params.a.0"
    assert problem(ModelSpec, model="m", params={"a": {1: 2}})[0] == "params.a"
    assert problem(ModelSpec, model="m", params=[1])[0] == "params"
    deep: list = []
    deep.append(deep)
    assert problem(ModelSpec, model="m", params={"a": deep})[1].startswith("nested too deeply")
