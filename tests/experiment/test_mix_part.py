"""`data.mix` and `teacher.data.mix`: what they may say, and what that means."""

import pytest

from kdray.errors import ConfigError
from kdray.experiment import Mix, experiment_from_dict, to_yaml

BASE = {
    "data": {"source": "digits"},
    "teacher": {"model": "resnet14"},
    "student": {"model": "resnet8"},
    "objectives": {"ce": {}},
    "train": {"epochs": 2, "batch": 32, "optimizer": {"lr": 0.1}},
}


def experiment(mix=None, teacher=None, **changes):
    data = {"source": "digits", **({} if mix is None else {"mix": mix})}
    own = {"model": "resnet14", **({} if teacher is None else {"data": {"mix": teacher}})}
    return experiment_from_dict({**BASE, "data": data, "teacher": own, **changes})


def test_it_is_off_unless_asked_for():
    e = experiment()
    assert e.data.mix is None and e.teacher_data.mix is None and "mix" not in e.canonical()["data"]
    assert experiment({"mixup": 0.2}).data.mix == Mix(mixup=0.2)


@pytest.mark.parametrize("off", [False, {"p": 0}, {"mixup": 0.2, "p": 0}])
def test_one_meaning_has_one_form(off):
    assert experiment(off).data == experiment().data
    assert experiment({"mixup": 1.0}, off).teacher_data == experiment().data


def test_the_teachers_takes_the_place_of_the_experiments():
    mix, other = Mix(mixup=0.2), Mix(cutmix=1.0)
    assert experiment({"mixup": 0.2}).teacher_data.mix == mix
    both = experiment({"mixup": 0.2}, {"cutmix": 1.0})
    assert both.data.mix == mix and both.teacher_data.mix == other
    only = experiment({"mixup": 0.2}, False)
    assert only.data.mix == mix and only.teacher_data.mix is None
    alone = experiment(None, {"cutmix": 1.0})
    assert alone.data.mix is None and alone.teacher_data.mix == other


@pytest.mark.parametrize("teacher", [None, False, {"cutmix": 1.0}])
def test_it_survives_the_round_trip(tmp_path, teacher):
    from kdray.experiment import load_experiment

    one = experiment({"mixup": 0.2, "cutmix": 1.0, "p": 0.5, "cutmix_share": 0.25}, teacher)
    (tmp_path / "e.yaml").write_text(to_yaml(one))
    again = load_experiment(tmp_path / "e.yaml")
    assert again.canonical() == one.canonical() and again.teacher_data == one.teacher_data


@pytest.mark.parametrize(
    "mix, said",
    [
        ({}, "data.mix: names no way to mix. Write {mixup: 0.2}, {cutmix: 1.0} or both; or false for none"),
        ({"p": 0.5}, "data.mix: names no way to mix"),
        ({"mixup": 0}, "data.mix.mixup: 0 is out of range. Give a number above 0"),
        ({"cutmix": -1.0}, "data.mix.cutmix: -1"),
        ({"mixup": 0.2, "p": 1.5}, "data.mix.p: 1.5 is out of range"),
        ({"mixup": 0.2, "cutmix": 1.0, "cutmix_share": 1.0}, "data.mix.cutmix_share: 1"),
        ({"mixup": 0.2, "cutmix_share": 0.3}, "data.mix.cutmix_share: cutmix_share 0.3 divides batches between mixup"),
        ({"mixupp": 0.2}, "data.mix.mixupp: unknown key 'mixupp' (did you mean 'mixup'?)"),
        (
            0.2,
            "data.mix: wants a map of keys, but 0.2 stands there. Write key: value lines; the keys are mixup, cutmix",
        ),
        (True, "data.mix: wants a map of keys, but true stands there"),
    ],
)
def test_what_means_nothing_is_refused(mix, said):
    with pytest.raises(ConfigError) as caught:
        experiment(mix)
    assert said in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        experiment(None, mix)
    assert said.replace("data.mix", "teacher.data.mix", 1) in str(caught.value)


def test_a_batch_that_cannot_be_paired_is_refused():
    two = {"cluster": {"workers": 2}}
    train = {**BASE["train"], "batch": 66}
    for mix, teacher in (({"mixup": 1.0}, None), (None, {"mixup": 1.0})):
        with pytest.raises(ConfigError, match=r"train\.batch: .* 66 is 33 of each of 2 .* multiple of 32, such as 96"):
            experiment(mix, teacher, train=train, **two)
    assert experiment(train=train, **two).train.batch == 66
    assert experiment({"mixup": 1.0}, train={**train, "batch": 68}, **two).train.batch == 68


def test_in_words():
    assert Mix(mixup=0.2).in_words() == "mixup Beta(0.2), in every batch"
    both = Mix(mixup=0.8, cutmix=1.0, p=0.5, cutmix_share=0.25)
    assert both.in_words() == "mixup Beta(0.8) or CutMix Beta(1) (0.25 of them), in 0.5 of all batches"
